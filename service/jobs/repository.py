"""Rows of `job` in and out. Owns the SQL of reading and listing; decides nothing.

Every call takes a project, so that no query can forget it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, case, select, tuple_

from service import pages
from service.clock import now_expression
from service.jobs.states import TERMINAL, Status
from service.jobs.tables import idempotency_key, job
from service.pages import Page

FILTERS = ("status", "kind", "method", "dataset")


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its project sees it; the columns of the table, without those of queue and lease."""

    id: str
    project_id: str
    created_by: str
    name: str | None
    kind: str
    method: str | None
    dataset: str | None
    resource_class: str
    priority: int
    status: Status
    wait_reason: str | None
    version: int
    spec: dict[str, Any]
    spec_hash: str
    labels: dict[str, str]
    run_at: int
    queue_deadline: int | None
    run_seconds: int | None
    parent_id: str | None
    traceparent: str | None
    last_seq: int
    lease_epoch: int
    lease_owner: str | None
    cancel_requested_at: int | None
    pause_requested_at: int | None
    attempts_charged: int
    attempts_uncharged: int
    max_attempts: int
    result: dict[str, Any] | None
    provenance: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: int
    started_at: int | None
    finished_at: int | None

    @property
    def finished(self) -> bool:
        return self.status in TERMINAL


# Not stored, because nobody would be there to change it when the time has come.
WAIT_REASON = case(
    (and_(job.c.wait_reason == "worker", job.c.run_at > now_expression()), "scheduled"),
    else_=job.c.wait_reason,
).label("wait_reason")
COLUMNS = [
    WAIT_REASON if name == "wait_reason" else job.c[name] for name in Job.__dataclass_fields__
]


def from_row(row: Row[Any]) -> Job:
    values = dict(row._mapping)
    return Job(**{**values, "status": Status(values["status"])})


def get(conn: Connection, project_id: str, job_id: str) -> Job | None:
    row = conn.execute(
        select(*COLUMNS).where(job.c.id == job_id, job.c.project_id == project_id)
    ).one_or_none()
    return from_row(row) if row else None


def by_key(conn: Connection, project_id: str, key: str) -> tuple[str, str] | None:
    """The body hash and job id that an idempotency key stands for."""
    row = conn.execute(
        select(idempotency_key.c.body_hash, idempotency_key.c.job_id).where(
            idempotency_key.c.project_id == project_id, idempotency_key.c.key == key
        )
    ).one_or_none()
    return (row.body_hash, row.job_id) if row else None


def find(
    conn: Connection, project_id: str, filters: Mapping[str, str], cursor: str | None, limit: int
) -> Page[Job]:
    """Newest first. Raises InvalidCursor."""
    query = (
        select(*COLUMNS)
        .where(job.c.project_id == project_id, *(job.c[n] == v for n, v in filters.items()))
        .order_by(job.c.created_at.desc(), job.c.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        position = pages.decode(cursor, "jobs", filters, (int, str))
        query = query.where(tuple_(job.c.created_at, job.c.id) < position)
    found = [from_row(row) for row in conn.execute(query)]
    return pages.cut(found, limit, "jobs", filters, lambda last: (last.created_at, last.id))
