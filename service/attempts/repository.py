"""Rows of `attempt` and `metric`, for reading. Every call takes a project."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from service.attempts.tables import attempt, metric
from service.jobs.tables import job


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
    conn: Connection, project_id: str, job_id: str, name: str | None, limit: int
) -> list[Point]:
    """In the order of name, attempt and step; the first `limit`."""
    query = (
        select(metric)
        .join(job, job.c.id == metric.c.job_id)
        .where(metric.c.job_id == job_id, job.c.project_id == project_id)
        .order_by(metric.c.name, metric.c.attempt, metric.c.step)
        .limit(limit)
    )
    if name is not None:
        query = query.where(metric.c.name == name)
    return [
        Point(row.attempt, row.name, row.step, row.value, row.at) for row in conn.execute(query)
    ]
