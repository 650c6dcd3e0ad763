"""Which job goes next: lanes by fair share, jobs in a lane by priority.

Owns the order and the eligibility of lanes and jobs. Changes nothing but a lane's counters, which
the transactions that grant and end leases ask it to.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    exists,
    func,
    not_,
    or_,
    select,
    update,
)

from service.clock import now_expression
from service.database import insert_new
from service.jobs.states import Status
from service.jobs.tables import job
from service.lanes.tables import lane

IN_LANE = and_(job.c.project_id == lane.c.project_id, job.c.resource_class == lane.c.resource_class)
ELIGIBLE = and_(job.c.status == Status.QUEUED, job.c.run_at <= now_expression())
ORDER = (job.c.priority.desc(), job.c.run_at, job.c.created_at, job.c.id)
OPEN = and_(
    lane.c.paused.is_(False),
    or_(lane.c.max_running.is_(None), lane.c.running < lane.c.max_running),
)

BUSY = or_(
    lane.c.running > 0, exists().where(IN_LANE, job.c.status == Status.QUEUED).correlate(lane)
)


def head(project_id: Any, resource_class: Any) -> Select[tuple[str]]:
    """The id of the job that goes next in one lane: one step into `ix_job_queue`."""
    return (
        select(job.c.id)
        .where(job.c.project_id == project_id, job.c.resource_class == resource_class, ELIGIBLE)
        .order_by(*ORDER)
        .limit(1)
    )


def next_lane(conn: Connection, resource_classes: Collection[str]) -> tuple[str, str] | None:
    """(project_id, resource_class) of the open lane whose head goes first, or none."""
    row = conn.execute(next_lane_query(resource_classes)).one_or_none()
    return (row.project_id, row.resource_class) if row else None


def next_lane_query(resource_classes: Collection[str]) -> Select[tuple[str, str]]:
    """One step into the index for each open lane, then the best of those heads."""
    own_head = head(lane.c.project_id, lane.c.resource_class).correlate(lane)
    open_lanes = (
        select(lane, own_head.scalar_subquery().label("head"))
        .where(lane.c.resource_class.in_(sorted(resource_classes)), OPEN)
        .subquery()
    )
    return (
        select(open_lanes.c.project_id, open_lanes.c.resource_class)
        .join(job, job.c.id == open_lanes.c.head)
        .order_by(job.c.priority.desc(), open_lanes.c.virtual_time, *ORDER[1:])
        .limit(1)
    )


def lane_of(conn: Connection, job_id: str) -> tuple[str, str] | None:
    """The lane of a job that may start now, or none."""
    row = conn.execute(
        select(job.c.project_id, job.c.resource_class).where(job.c.id == job_id, ELIGIBLE)
    ).one_or_none()
    return (row.project_id, row.resource_class) if row else None


def enter(conn: Connection, project_id: str, resource_class: str) -> bool:
    """Count one more lease; false when the lane is closed or its quota is used up.

    The UPDATE locks the lane's row until the transaction ends, so claims of one lane take turns.
    """
    entered = conn.execute(
        update(lane)
        .where(_is(project_id, resource_class), OPEN)
        .values(running=lane.c.running + 1, virtual_time=lane.c.virtual_time + 1)
    )
    return entered.rowcount == 1


def leave(conn: Connection, project_id: str, resource_class: str) -> None:
    """Count one lease less."""
    conn.execute(
        update(lane).where(_is(project_id, resource_class)).values(running=lane.c.running - 1)
    )


def wake(conn: Connection, project_id: str, resource_class: str) -> None:
    """Before a job is queued: make its lane, and let an idle lane not save up its past.

    A lane that was idle starts level with the busy one that is furthest behind; otherwise it would
    hold every worker until it had caught up.
    """
    insert_new(conn, lane, {"project_id": project_id, "resource_class": resource_class})
    idle = conn.scalar(
        select(lane.c.virtual_time).where(_is(project_id, resource_class), not_(BUSY))
    )
    level = conn.scalar(
        select(func.min(lane.c.virtual_time)).where(lane.c.resource_class == resource_class, BUSY)
    )
    if idle is not None and level is not None and idle < level:
        conn.execute(update(lane).where(_is(project_id, resource_class)).values(virtual_time=level))


def waiting(conn: Connection, resource_class: str, limit: int, rung_before: int) -> list[str]:
    """The jobs that would start next on `limit` free slots and were not rung since `rung_before`.

    Deals slots to lanes one by one, as claims would: each slot moves its lane's virtual time on.
    """
    lanes = conn.execute(select(lane).where(lane.c.resource_class == resource_class, OPEN)).all()
    dealt: list[tuple[Any, ...]] = []
    for row in lanes:
        room = limit if row.max_running is None else min(limit, row.max_running - row.running)
        jobs = conn.execute(
            select(job.c.id, job.c.priority, job.c.run_at, job.c.created_at, job.c.rung_at)
            .where(
                job.c.project_id == row.project_id,
                job.c.resource_class == row.resource_class,
                ELIGIBLE,
            )
            .order_by(*ORDER)
            .limit(room)
        )
        for turn, each in enumerate(jobs):
            unrung = each.rung_at is None or each.rung_at < rung_before
            rank = (-each.priority, row.virtual_time + turn, each.run_at, each.created_at)
            dealt.append((*rank, each.id, unrung))
    return [id for *_, id, unrung in sorted(dealt)[:limit] if unrung]


def _is(project_id: str, resource_class: str) -> ColumnElement[bool]:
    return and_(lane.c.project_id == project_id, lane.c.resource_class == resource_class)
