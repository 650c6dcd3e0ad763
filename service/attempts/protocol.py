"""The lease protocol: the only way a worker touches a job.

    claim ──▶ renew, progress … ──▶ begin_publishing ──▶ pin ──▶ publish
                    └──────────────────────┴──▶ release        (or the reaper, for the dead)

Each verb is one transaction of its own. Two rules carry everything:

* Whoever holds a lease writes only WHERE id AND lease_epoch AND status are still what it holds.
  Zero rows means Fenced: the lease is somebody else's or nobody's, and nothing was written.
* Every way into and out of a lease adds one to `lease_epoch` in the same statement, so a holder
  that slept through its expiry can never write again.

Locks are taken lane first, job second, everywhere. Time is the database's.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    and_,
    func,
    insert,
    select,
    update,
)

from service import clock, ids
from service.artifacts import repository as artifacts
from service.artifacts.tables import artifact
from service.attempts import exits, fence
from service.attempts.leases import Claim, Lease, Orders, Outcome, Owner, Published
from service.attempts.tables import attempt, metric
from service.blobs.tables import blob, blob_pin
from service.clock import SECOND, now_expression
from service.database import read, upsert, write
from service.errors import Fenced, PublishRefused
from service.events.tables import event
from service.jobs import states
from service.jobs.states import Cause, Status
from service.jobs.tables import job
from service.lanes import queue
from service.settings import Settings

ORDERS = (job.c.cancel_requested_at, job.c.pause_requested_at, job.c.run_seconds)


def claim(
    engine: Engine,
    settings: Settings,
    *,
    owner: Owner,
    resource_classes: Collection[str],
    job_id: str | None = None,
) -> Claim | None:
    """Take the lease of `job_id`, or of the job that goes next; none when there is nothing.

    None as well when the lane is paused or at its quota, or another claim came first.
    """
    with read(engine) as conn:  # an idle worker's poll takes no write lock
        if _find_lane(conn, resource_classes, job_id) is None:
            return None
    with write(engine) as conn:
        lane = _find_lane(conn, resource_classes, job_id)
        if lane is None or not queue.enter(conn, *lane):
            return None
        now = clock.now(conn)
        granted = _grant(conn, settings, owner, lane, job_id, now)
        if granted is None:  # only where rows are locked one by one: it went between two looks
            queue.leave(conn, *lane)
            return None
        return _begin_attempt(conn, granted, owner, now)


def _grant(
    conn: Connection,
    settings: Settings,
    owner: Owner,
    lane: tuple[str, str],
    job_id: str | None,
    now: int,
) -> Row[Any] | None:
    """Give the lease of the named job, or of the lane's head; the job's row afterwards."""
    wanted = job_id or conn.scalar(queue.head(*lane).with_for_update(skip_locked=True))
    return conn.execute(
        update(job)
        .where(job.c.id == wanted, queue.ELIGIBLE)
        .values(
            status=Status.RUNNING,
            wait_reason=None,
            lease_epoch=job.c.lease_epoch + 1,
            lease_owner=owner.name,
            lease_expires_at=now + _ttl(settings),
            started_at=func.coalesce(job.c.started_at, now),
            version=job.c.version + 1,
            last_seq=job.c.last_seq + 1,
        )
        .returning(job)
    ).one_or_none()


def _begin_attempt(conn: Connection, granted: Row[Any], owner: Owner, now: int) -> Claim:
    lease = Lease(granted.id, granted.lease_epoch)
    conn.execute(
        insert(attempt).values(
            job_id=lease.job_id,
            number=lease.epoch,
            owner=owner.name,
            host=owner.host,
            pid=owner.pid,
            started_at=now,
            code_version=version("rome-service"),
        )
    )
    fence.tell(conn, lease, granted.last_seq, now, "job.started", {"attempt": lease.epoch})
    return Claim(lease, granted.spec, artifacts.inputs_of(conn, lease.job_id))


def renew(engine: Engine, settings: Settings, lease: Lease) -> Orders:
    """Keep the lease and its pins for another TTL; bring back what the user asked meanwhile.

    Raises Fenced.
    """
    with write(engine) as conn:
        now = clock.now(conn)
        expires_at = now + _ttl(settings)
        row = fence.change(
            conn,
            lease,
            {"lease_expires_at": expires_at},
            returning=ORDERS,
        )
        conn.execute(
            update(blob_pin)
            .where(blob_pin.c.job_id == lease.job_id, blob_pin.c.epoch == lease.epoch)
            .values(expires_at=expires_at)
        )
        return _orders(conn, lease, row, now)


def progress(
    engine: Engine, settings: Settings, lease: Lease, payload: Mapping[str, Any]
) -> Orders:
    """Record the newest Progress on the attempt; its scalars as metric points named phase/scalar.

    Brings back orders as `renew` does, so that a job which reports often is stopped soon.

    At most one event a second: what comes between is on the attempt and in the metrics. A scalar
    that is not finite is shown as null and makes no point. The scalar `resumed_at` names the
    checkpoint this attempt went on from. Raises Fenced.
    """
    scalars = {name: _finite(value) for name, value in payload.get("scalars", {}).items()}
    data = {**{name: _finite(value) for name, value in payload.items()}, "scalars": scalars}
    with write(engine) as conn:
        now = clock.now(conn)
        newest = conn.scalar(
            select(event.c.at)
            .where(
                event.c.job_id == lease.job_id,
                event.c.type == "job.progress",
            )
            .order_by(event.c.seq.desc())
            .limit(1)
        )
        due = newest is None or now - newest >= settings.progress_event_seconds * SECOND
        row = fence.change(
            conn,
            lease,
            {"last_seq": job.c.last_seq + int(due)},
            returning=(job.c.last_seq, *ORDERS),
        )
        conn.execute(
            update(attempt)
            .where(fence.attempt_of(lease))
            .values(
                progress=data,
                progress_at=now,
                resumed_step=func.coalesce(attempt.c.resumed_step, scalars.get("resumed_at")),
            )
        )
        for name, value in scalars.items():
            if value is not None:
                point = {
                    "job_id": lease.job_id,
                    "attempt": lease.epoch,
                    "name": f"{payload['phase']}/{name}",
                    "step": payload["step"],
                    "value": value,
                    "at": now,
                }
                upsert(conn, metric, point)
        if due:
            fence.tell(conn, lease, row.last_seq, now, "job.progress", data)
        return _orders(conn, lease, row, now)


def begin_publishing(engine: Engine, lease: Lease) -> None:
    """From `running` to `publishing`. Raises CancelWon, Fenced."""
    with write(engine) as conn:
        row = fence.transition(conn, lease, Status.RUNNING, {"status": Status.PUBLISHING})
        fence.tell(conn, lease, row.last_seq, clock.now(conn), "job.publishing", {})


def pin(engine: Engine, lease: Lease, digest: str, size: int) -> None:
    """Announce a blob before it is put, so that no sweep takes it. Raises Fenced.

    A condemned blob becomes pending again; the put that follows uploads it anew.
    """
    with write(engine) as conn:
        now = clock.now(conn)
        expires_at = conn.scalar(
            select(job.c.lease_expires_at).where(fence.held(lease)).with_for_update()
        )
        if expires_at is None:
            raise Fenced(f"{lease}")
        announced = {"digest": digest, "size": size, "state": "pending", "touched_at": now}
        kept = conn.execute(
            update(blob)
            .where(blob.c.digest == digest, blob.c.state != "condemned")
            .values(touched_at=now)
        )
        if kept.rowcount == 0:
            upsert(conn, blob, announced)
        held = {"digest": digest, "job_id": lease.job_id, "epoch": lease.epoch}
        upsert(conn, blob_pin, {**held, "expires_at": expires_at})


def publish(
    engine: Engine,
    lease: Lease,
    *,
    outputs: Sequence[Published],
    result: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    """Make the results visible and the job succeeded, in one transaction, or do nothing.

    Every digest must be pinned by this lease and put into the store before. Raises Fenced (also
    the second time), CancelWon, PublishRefused.
    """
    with write(engine) as conn:
        now = clock.now(conn)
        project_id = fence.leave_lane(conn, lease)
        row = fence.transition(
            conn,
            lease,
            Status.PUBLISHING,
            {
                "status": Status.SUCCEEDED,
                "result": dict(result),
                "provenance": dict(provenance),
                "finished_at": now,
                **fence.LEASE_ENDS,
            },
        )
        for output in outputs:
            _check_pinned(conn, lease, output)
            conn.execute(
                update(blob)
                .where(blob.c.digest == output.digest)
                .values(state="stored", touched_at=now)
            )
            conn.execute(
                insert(artifact).values(
                    id=ids.new("art"),
                    project_id=project_id,
                    job_id=lease.job_id,
                    name=output.name,
                    kind=output.kind,
                    media_type=output.media_type,
                    size=output.size,
                    digest=output.digest,
                    metadata=dict(output.metadata),
                    created_at=now,
                )
            )
        fence.unpin(conn, lease)
        fence.close_attempt(conn, lease, now, Outcome.SUCCEEDED, None, False, ())
        named = {"artifacts": [output.name for output in outputs]}
        fence.tell(conn, lease, row.last_seq, now, "job.succeeded", named)


def release(
    engine: Engine,
    settings: Settings,
    lease: Lease,
    *,
    outcome: str,
    reason: str,
    charged: bool,
    error: Mapping[str, Any] | None = None,
    log_tail: Sequence[str] = (),
    retry: bool,
) -> Status:
    """Give the lease up without results; says what the job became. Raises Fenced."""
    with write(engine) as conn:
        return end(
            conn,
            settings,
            lease,
            Cause.WORKER,
            Outcome(outcome),
            reason=reason,
            charged=charged,
            error=error,
            log_tail=log_tail,
            retry=retry,
        )


def end(
    conn: Connection,
    settings: Settings,
    lease: Lease,
    cause: Cause,
    outcome: Outcome,
    *,
    reason: str,
    charged: bool,
    retry: bool,
    error: Mapping[str, Any] | None = None,
    log_tail: Sequence[str] = (),
    still: ColumnElement[bool] | None = None,
) -> Status:
    """The one way out of a lease without results, for its holder and for the reaper.

    `still` is what else must hold of the job, such as an expired lease. Raises Fenced.
    """
    fence.leave_lane(conn, lease)
    held = fence.held(lease) if still is None else and_(fence.held(lease), still)
    found = conn.execute(select(job).where(held).with_for_update()).one_or_none()
    if found is None:
        raise Fenced(f"{lease}")
    decided = exits.decide(
        exits.Standing(
            attempts_charged=found.attempts_charged,
            attempts_uncharged=found.attempts_uncharged,
            max_attempts=found.max_attempts,
            cancel_requested=found.cancel_requested_at is not None,
            pause_requested=found.pause_requested_at is not None,
        ),
        outcome,
        reason=reason,
        charged=charged,
        retry=retry,
        error=error,
        max_uncharged=settings.max_uncharged,
    )
    states.check(Status(found.status), decided.status, cause)
    now = clock.now(conn)
    wait = exits.wait_seconds(outcome, decided.charged, settings.retry_seconds)
    waits = {Status.QUEUED: "retry", Status.PAUSED: "paused"}.get(decided.status)
    row = fence.change(
        conn,
        lease,
        {
            "status": decided.status,
            "wait_reason": waits,
            "run_at": now + round(wait * SECOND) if wait else job.c.run_at,
            "attempts_charged": decided.charged,
            "attempts_uncharged": decided.uncharged,
            "pause_requested_at": None,
            "rung_at": None,
            "error": decided.error,
            "finished_at": now if decided.status in states.TERMINAL else None,
            "version": job.c.version + 1,
            "last_seq": job.c.last_seq + 1,
            **fence.LEASE_ENDS,
        },
    )
    fence.unpin(conn, lease)
    # A dead worker stopped when its lease did, as far as anybody can tell.
    ended_at = min(now, found.lease_expires_at) if outcome is Outcome.LOST else now
    fence.close_attempt(conn, lease, ended_at, outcome, reason, charged, log_tail)
    told = {"outcome": outcome, "reason": reason, "charged": charged}
    name = "job.requeued" if decided.status is Status.QUEUED else f"job.{decided.status}"
    if decided.error is not None:
        told["error"] = decided.error
    fence.tell(conn, lease, row.last_seq, now, name, told)
    return decided.status


def heads(engine: Engine, settings: Settings, resource_class: str, limit: int) -> list[str]:
    """The jobs to ring for: next to start on `limit` free slots, not rung in the last while."""
    with read(engine) as conn:
        before = clock.now(conn) - round(settings.ring_again_seconds * SECOND)
        return queue.waiting(conn, resource_class, limit, before)


def mark_rung(engine: Engine, job_ids: Sequence[str]) -> dict[str, int]:
    """Note that these were proposed to workers; how often each was, those still queued."""
    with write(engine) as conn:
        rows = conn.execute(
            update(job)
            .where(job.c.id.in_(list(job_ids)), job.c.status == Status.QUEUED)
            .values(rung_at=now_expression(), rings=job.c.rings + 1)
            .returning(job.c.id, job.c.rings)
        )
        return {row.id: row.rings for row in rows}


def _find_lane(
    conn: Connection, resource_classes: Collection[str], job_id: str | None
) -> tuple[str, str] | None:
    if job_id is None:
        return queue.next_lane(conn, resource_classes)
    lane = queue.lane_of(conn, job_id)
    return lane if lane is not None and lane[1] in resource_classes else None


def _orders(conn: Connection, lease: Lease, row: Row[Any], now: int) -> Orders:
    """What the user asked for meanwhile, from a row that holds the columns of ORDERS."""
    limit = row.run_seconds
    return Orders(
        cancel=row.cancel_requested_at is not None,
        pause=row.pause_requested_at is not None,
        expired=limit is not None and _run_time(conn, lease.job_id, now) >= limit * SECOND,
    )


def _run_time(conn: Connection, job_id: str, now: int) -> int:
    """Microseconds that all attempts of a job ran, the present one included."""
    spent = func.sum(func.coalesce(attempt.c.ended_at, now) - attempt.c.started_at)
    return int(conn.scalar(select(spent).where(attempt.c.job_id == job_id)) or 0)


def _check_pinned(conn: Connection, lease: Lease, output: Published) -> None:
    announced = conn.scalar(
        select(blob.c.size)
        .join(blob_pin, blob_pin.c.digest == blob.c.digest)
        .where(
            blob.c.digest == output.digest,
            blob_pin.c.job_id == lease.job_id,
            blob_pin.c.epoch == lease.epoch,
        )
    )
    if announced is None:
        raise PublishRefused(f"{output.name}: its blob {output.digest} is not pinned.")
    if announced != output.size:
        raise PublishRefused(f"{output.name}: {output.size} bytes, announced as {announced}.")


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ttl(settings: Settings) -> int:
    return round(settings.lease_ttl_seconds * SECOND)
