"""Rows of `attempt` and `metric`, for reading. Every call takes a project."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, tuple_

from service import pages
from service.attempts.tables import attempt, metric
from service.jobs.tables import job
from service.pages import Page


@dataclass(frozen=True, slots=True)
class Attempt:
    job_id: str
    number: int
    owner: str
    host: str
    pid: int
    started_at: int
    ended_at: int | None
    outcome: str | None
    reason: str | None
    charged: bool | None
    resumed_step: int | None
    progress: dict[str, Any] | None
    progress_at: int | None
    log_tail: list[str] | None
    code_version: str | None


@dataclass(frozen=True, slots=True)
class Point:
    attempt: int
    name: str  # phase/scalar
    step: int
    value: float
    at: int


def of_job(conn: Connection, project_id: str, job_id: str) -> list[Attempt]:
    """Oldest first."""
    rows = conn.execute(
        select(attempt)
        .join(job, job.c.id == attempt.c.job_id)
        .where(attempt.c.job_id == job_id, job.c.project_id == project_id)
        .order_by(attempt.c.number)
    )
    return [Attempt(**row._mapping) for row in rows]


def metrics(
    conn: Connection,
    project_id: str,
    job_id: str,
    name: str | None,
    cursor: str | None,
    limit: int,
) -> Page[Point]:
    """In the order of name, attempt and step. Raises InvalidCursor."""
    filters = {"job": job_id, "name": name}
    order = (metric.c.name, metric.c.attempt, metric.c.step)
    query = (
        select(metric)
        .join(job, job.c.id == metric.c.job_id)
        .where(metric.c.job_id == job_id, job.c.project_id == project_id)
        .order_by(*order)
        .limit(limit + 1)
    )
    if name is not None:
        query = query.where(metric.c.name == name)
    if cursor is not None:
        position = pages.decode(cursor, "metrics", filters, (str, int, int))
        query = query.where(tuple_(*order) > position)
    found = [
        Point(row.attempt, row.name, row.step, row.value, row.at) for row in conn.execute(query)
    ]
    return pages.cut(
        found, limit, "metrics", filters, lambda last: (last.name, last.attempt, last.step)
    )
