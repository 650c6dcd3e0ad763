"""Events of a job: appended inside the statement's transaction that made them, read by number.

A number comes from `job.last_seq`, moved by the same UPDATE that changes the job, so a reader that
has seen number n has seen every number before it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from service.events.tables import event
from service.jobs.tables import job


@dataclass(frozen=True, slots=True)
class Event:
    job_id: str
    seq: int
    type: str
    at: int
    attempt: int | None
    data: dict[str, Any]


def append(
    conn: Connection,
    job_id: str,
    type: str,
    data: Mapping[str, Any],
    *,
    seq: int,
    at: int,
    attempt: int | None = None,
) -> None:
    """`seq` is the `last_seq` that this transaction's UPDATE of the job returned."""
    conn.execute(
        insert(event).values(
            job_id=job_id, seq=seq, type=type, at=at, attempt=attempt, data=dict(data)
        )
    )


def after(
    conn: Connection, project_id: str, job_id: str, seq: int = 0, limit: int = 500
) -> list[Event]:
    """The events that follow number `seq`, in order, at most `limit`."""
    rows = conn.execute(
        select(event)
        .join(job, job.c.id == event.c.job_id)
        .where(event.c.job_id == job_id, event.c.seq > seq, job.c.project_id == project_id)
        .order_by(event.c.seq)
        .limit(limit)
    )
    return [Event(**row._mapping) for row in rows]


def last_seqs(conn: Connection, job_ids: Collection[str]) -> dict[str, int]:
    """The newest number of each job: the one query of the process's event poller."""
    rows = conn.execute(select(job.c.id, job.c.last_seq).where(job.c.id.in_(sorted(job_ids))))
    return {row.id: row.last_seq for row in rows}
