"""Stands in for workers that are gone: ends expired leases, and jobs whose wait was too long.

One pass is safe beside any number of others and beside the workers themselves: every change is
fenced by the epoch it saw. Recovery from `publishing` is the same as from `running`: nothing was
visible, so the next attempt resumes and publishes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Engine, and_, select, update

from service import clock, events
from service.attempts import protocol
from service.attempts.leases import Lease, Outcome
from service.attempts.tables import attempt
from service.clock import SECOND, now_expression
from service.database import read, write
from service.errors import Fenced, QueueExpired
from service.jobs import states
from service.jobs.states import Cause, Status
from service.jobs.tables import job
from service.settings import Settings

BATCH = 200  # of each sort in one pass; the rest waits for the next
# The deadline is one for the start: a job that started in time and was interrupted goes on.
NEVER_STARTED = and_(job.c.status == Status.QUEUED, job.c.started_at.is_(None))


@dataclass(frozen=True, slots=True)
class Report:
    """What one pass did. Hand `at` to the next pass as `last_tick`."""

    at: int  # microseconds, the database's clock
    skipped: bool = False
    ended: dict[str, Status] = field(default_factory=dict)  # jobs whose lease had expired
    expired: tuple[str, ...] = ()  # jobs that waited beyond their queue deadline


def reap(engine: Engine, settings: Settings, *, last_tick: int | None = None) -> Report:
    """One pass. After a gap longer than a lease's TTL since `last_tick` it only looks.

    Such a gap means that this machine slept, and its workers with it: their leases ran out, but
    they are about to renew them.
    """
    with read(engine) as conn:
        now = clock.now(conn)
        if last_tick is not None and now - last_tick > settings.lease_ttl_seconds * SECOND:
            return Report(at=now, skipped=True)
        leases = conn.execute(
            select(job.c.id, job.c.lease_epoch).where(job.c.lease_expires_at < now).limit(BATCH)
        ).all()
        overdue = (
            conn.execute(
                select(job.c.id).where(NEVER_STARTED, job.c.queue_deadline < now).limit(BATCH)
            )
            .scalars()
            .all()
        )
    ended = {}
    for row in leases:
        why = "the worker stopped renewing its lease"
        late = job.c.lease_expires_at < now_expression()
        status = _end(engine, settings, Lease(row.id, row.lease_epoch), why, late)
        if status is not None:
            ended[row.id] = status
    expired = tuple(job_id for job_id in overdue if _expire(engine, job_id))
    return Report(at=now, ended=ended, expired=expired)


def end_orphans(
    engine: Engine, settings: Settings, host: str, *, alive: Callable[[int], bool]
) -> dict[str, Status]:
    """End the leases of processes of `host` that are gone, without waiting for their expiry.

    For a service that starts again where it died. Charged like every lost attempt: the job itself
    may have brought its worker down.
    """
    theirs = and_(attempt.c.job_id == job.c.id, attempt.c.number == job.c.lease_epoch)
    with read(engine) as conn:
        found = conn.execute(
            select(job.c.id, job.c.lease_epoch, attempt.c.pid)
            .join(attempt, theirs)
            .where(job.c.lease_expires_at.is_not(None), attempt.c.host == host)
        ).all()
    ended = {}
    for row in found:
        if not alive(row.pid):
            lease = Lease(row.id, row.lease_epoch)
            status = _end(engine, settings, lease, f"its worker, process {row.pid}, is gone")
            if status is not None:
                ended[row.id] = status
    return ended


def _end(
    engine: Engine,
    settings: Settings,
    lease: Lease,
    reason: str,
    still: ColumnElement[bool] | None = None,
) -> Status | None:
    try:
        with write(engine) as conn:
            return protocol.end(
                conn,
                settings,
                lease,
                Cause.REAPER,
                Outcome.LOST,
                reason=reason,
                charged=True,
                retry=True,
                still=still,
            )
    except Fenced:
        return None  # renewed, released or reaped since we looked


def _expire(engine: Engine, job_id: str) -> bool:
    states.check(Status.QUEUED, Status.EXPIRED, Cause.REAPER)
    with write(engine) as conn:
        now = clock.now(conn)
        error = QueueExpired().as_job_error()
        row = conn.execute(
            update(job)
            .where(job.c.id == job_id, NEVER_STARTED, job.c.queue_deadline < now)
            .values(
                status=Status.EXPIRED,
                wait_reason=None,
                error=error,
                finished_at=now,
                version=job.c.version + 1,
                last_seq=job.c.last_seq + 1,
            )
            .returning(job.c.last_seq)
        ).one_or_none()
        if row is None:
            return False
        events.append(conn, job_id, "job.expired", {"error": error}, seq=row.last_seq, at=now)
        return True
