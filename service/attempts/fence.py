"""The fence: how a holder of a lease changes rows, and what every end of a lease does.

Owns the one WHERE clause that makes a write by a former holder impossible, and the statements that
all ways out of a lease share. Opens no transactions; `service.attempts.protocol` does.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, select, update

from service import events
from service.attempts.leases import Lease, Outcome
from service.attempts.tables import attempt
from service.blobs.tables import blob_pin
from service.errors import CancelWon, Fenced
from service.jobs import states
from service.jobs.states import Cause, Status
from service.jobs.tables import job
from service.lanes import queue

LEASE_ENDS: dict[str, Any] = {
    "lease_epoch": job.c.lease_epoch + 1,
    "lease_owner": None,
    "lease_expires_at": None,
}


def held(lease: Lease) -> ColumnElement[bool]:
    return and_(
        job.c.id == lease.job_id,
        job.c.lease_epoch == lease.epoch,
        job.c.status.in_(sorted(states.LEASED)),
    )


def change(
    conn: Connection,
    lease: Lease,
    values: Mapping[str, Any],
    *,
    where: ColumnElement[bool] | None = None,
    returning: tuple[Any, ...] = (job.c.last_seq,),
) -> Row[Any]:
    """Change the job if the lease still holds. Raises Fenced."""
    mine = held(lease) if where is None else and_(held(lease), where)
    changed = update(job).where(mine).values(**values).returning(*returning)
    row: Row[Any] | None = conn.execute(changed).one_or_none()
    if row is None:
        raise Fenced(f"{lease}")
    return row


def transition(
    conn: Connection,
    lease: Lease,
    before: Status,
    values: Mapping[str, Any],
) -> Row[Any]:
    """A change of status that a user sees. Raises CancelWon when only a cancel stands against."""
    states.check(before, values["status"], Cause.WORKER)
    seen = {**values, "version": job.c.version + 1, "last_seq": job.c.last_seq + 1}
    free = and_(job.c.status == before, job.c.cancel_requested_at.is_(None))
    try:
        return change(conn, lease, seen, where=free)
    except Fenced:
        cancelled = select(job.c.id).where(held(lease), job.c.cancel_requested_at.is_not(None))
        if conn.scalar(cancelled) is not None:
            raise CancelWon(f"{lease}") from None
        raise


def leave_lane(conn: Connection, lease: Lease) -> str:
    """The lane's counter first, because locks go lane before job; a fence rolls it back."""
    row = conn.execute(
        select(job.c.project_id, job.c.resource_class).where(held(lease))
    ).one_or_none()
    if row is None:
        raise Fenced(f"{lease}")
    queue.leave(conn, row.project_id, row.resource_class)
    return str(row.project_id)


def attempt_of(lease: Lease) -> ColumnElement[bool]:
    return and_(attempt.c.job_id == lease.job_id, attempt.c.number == lease.epoch)


def close_attempt(
    conn: Connection,
    lease: Lease,
    now: int,
    outcome: Outcome,
    reason: str | None,
    charged: bool,
    log_tail: Sequence[str],
) -> None:
    conn.execute(
        update(attempt)
        .where(attempt_of(lease))
        .values(
            ended_at=now,
            outcome=outcome,
            reason=reason,
            charged=charged,
            log_tail=list(log_tail) or attempt.c.log_tail,
        )
    )


def unpin(conn: Connection, lease: Lease) -> None:
    conn.execute(
        delete(blob_pin).where(blob_pin.c.job_id == lease.job_id, blob_pin.c.epoch == lease.epoch)
    )


def tell(
    conn: Connection, lease: Lease, seq: int, at: int, type: str, data: Mapping[str, Any]
) -> None:
    events.append(conn, lease.job_id, type, data, seq=seq, at=at, attempt=lease.epoch)
