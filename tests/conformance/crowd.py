"""What the processes of a concurrency test do. Each builds its own engine on the same database."""

import os
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import func, select

from service import database, tables
from service.attempts import protocol
from service.attempts.leases import Lease, Owner
from service.database import read
from service.errors import CancelWon, Fenced, IdempotencyConflict, IllegalTransition
from service.settings import Settings
from tests.conformance.moves import World

starting_line: list[Barrier] = []


def enter(barrier: Barrier) -> None:
    starting_line.append(barrier)


def run(settings: Settings, task: Callable[..., Any], *arguments: Any) -> Any:
    """Wait for the others, then act."""
    engine = database.create_engine(settings)
    try:
        with read(engine) as conn:
            conn.execute(select(tables.project))  # connected before the start
        starting_line[0].wait(timeout=60)
        return task(World(engine, settings), *arguments)
    finally:
        engine.dispose()


def me() -> Owner:
    return Owner(f"process-{os.getpid()}", "host", os.getpid())


def claim_all(world: World) -> list[tuple[str, int]]:
    """Claim one while all others do the same, then until nothing is left; (job, epoch) of each."""
    first = world.claim(owner=me())
    assert first is not None
    starting_line[0].wait(timeout=60)
    leases = [(first.lease.job_id, first.lease.epoch)]
    while (claim := world.claim(owner=me())) is not None:
        leases.append((claim.lease.job_id, claim.lease.epoch))
    return leases


def work(world: World, turns: int) -> int:
    """Claim and finish or release in turn; the most leases ever seen at once."""
    most = 0
    leased = select(func.count()).where(tables.job.c.lease_expires_at.is_not(None))
    for turn in range(turns):
        claim = world.claim(owner=me())
        with read(world.engine) as conn:
            most = max(most, conn.scalar(leased) or 0)
        if claim is None:
            continue
        if turn % 3:
            world.release(claim.lease, "drained", charged=False)
        else:
            protocol.begin_publishing(world.engine, claim.lease)
            world.publish(claim.lease)
    return most


def reap(world: World) -> list[str]:
    return sorted(world.reap().ended)


def publish(world: World, leases: list[Lease]) -> list[str]:
    """Publish each; how each went."""
    return [_outcome(world.publish, lease) for lease in leases]


def cancel(world: World, job_ids: list[str]) -> list[str]:
    return [_outcome(world.cancel, job_id) for job_id in job_ids]


def report(world: World, lease: Lease, times: int) -> int:
    for step in range(times):
        world.progress(lease, step=step)
    return times


def watch(world: World, job_id: str, times: int) -> bool:
    """Follow the events as a reader does; true when no number was ever missing."""
    seen = 0
    for _ in range(times):
        for event in world.history(job_id, after=seen):
            if event.seq != seen + 1:
                return False
            seen = event.seq
    return seen > 0


def pester(world: World, job_id: str, times: int) -> str:
    """Pause and resume a job over and over."""
    for _ in range(times):
        _outcome(world.pause, job_id)
        _outcome(world.resume, job_id)
    return "pestered"


def submit(world: World, key: str, seed: int) -> str:
    """The job's id, or the error's code."""
    try:
        return world.submit(key=key, seed=seed)
    except IdempotencyConflict as error:
        return error.code


def _outcome(act: Callable[[Any], Any], on: Any) -> str:
    try:
        act(on)
    except (Fenced, CancelWon, IllegalTransition) as error:
        return error.code
    return "done"
