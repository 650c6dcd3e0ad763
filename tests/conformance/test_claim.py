"""Who gets a job, and in which order."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import select, update

from service import jobs, tables
from service.attempts import protocol
from service.attempts.leases import Claim, Lease
from service.database import read, write
from service.jobs import Status
from service.jobs.tables import job
from service.lanes import queue
from service.principals import LOCAL
from tests.conformance import crowd
from tests.conformance.moves import CPU, OWNER, World

Together = Callable[..., list[list[tuple[str, int]]]]


def test_every_job_is_claimed_once_by_many_processes(world: World, together: Together) -> None:
    submitted = {world.submit() for _ in range(60)}
    claimed = together(*[(crowd.claim_all,)] * 4)
    leases = [lease for each in claimed for lease in each]
    assert sorted(job_id for job_id, _ in leases) == sorted(submitted)
    assert {epoch for _, epoch in leases} == {1}
    assert world.running() == 60


def test_a_quota_holds_under_concurrent_claims(
    world: World, together: Callable[..., list[int]]
) -> None:
    for _ in range(40):
        world.submit()
    world.set_quota(2)
    world.lease()  # stays: whoever claims sees two, and a third would be too many
    most = together(*[(crowd.work, 15)] * 4)
    assert max(most) == 2
    assert world.running() == 1


def test_a_claim_carries_what_a_worker_needs(world: World) -> None:
    job_id = world.submit()
    claim = world.claim()
    assert claim is not None
    found = world.job(job_id)
    assert claim == Claim(Lease(job_id, 1), found.spec, inputs={})
    assert claim.spec["seed"] == 7
    assert (found.status, found.wait_reason, found.lease_owner) == ("running", None, OWNER.name)
    assert world.types(job_id) == ["job.queued", "job.started"]


def test_an_evaluation_is_claimed_with_the_digest_of_its_artifact(world: World) -> None:
    source = world.submit(priority=5)
    world.finish(world.lease(source))
    made = world.artifacts(source)[0]
    with write(world.engine) as conn:
        body = {"kind": "evaluate", "artifact": made.id}
        job_id = jobs.submit(conn, LOCAL, body, settings=world.settings).job.id
    claim = world.claim(job_id)
    assert claim is not None
    assert claim.inputs == {made.id: made.digest}


def test_higher_priority_goes_first_then_the_older(world: World) -> None:
    first, low, second, high = (world.submit(priority=p) for p in (0, -1, 0, 9))
    assert [world.lease().job_id for _ in range(4)] == [high, first, second, low]
    assert world.claim() is None


def test_a_job_waits_for_its_time(world: World) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    job_id = world.submit(run_at=later.isoformat())
    assert world.job(job_id).wait_reason == "scheduled"
    assert world.claim() is None
    assert world.claim(job_id) is None
    with write(world.engine) as conn:
        conn.execute(update(job).values(run_at=1))
    assert world.lease().job_id == job_id


def test_why_a_job_waits_follows_the_clock(world: World) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    job_id = world.submit(run_at=later.isoformat())
    seen = [world.job(job_id).wait_reason, world.pause(job_id).wait_reason]
    seen.append(world.resume(job_id).wait_reason)
    with write(world.engine) as conn:
        conn.execute(update(job).values(run_at=1))
    seen.append(world.job(job_id).wait_reason)
    assert seen == ["scheduled", "paused", "scheduled", "worker"]


def test_a_claim_by_name_takes_that_job_or_none(world: World) -> None:
    head, other = world.submit(), world.submit()
    assert world.lease(other).job_id == other
    assert world.claim(other) is None, "running"
    assert world.claim("job_unknown") is None
    wrong = protocol.claim(
        world.engine, world.settings, owner=OWNER, resource_classes=("gpu",), job_id=head
    )
    assert wrong is None
    assert world.lease().job_id == head


def test_neither_a_paused_lane_nor_a_used_up_quota_gives_a_job(world: World) -> None:
    first, second = world.submit(), world.submit()
    world.set_quota(1)
    lease = world.lease()
    assert lease.job_id == first
    assert world.claim() is None
    assert world.claim(second) is None
    world.finish(lease)
    with write(world.engine) as conn:
        conn.execute(update(tables.lane).values(paused=True))
    assert world.claim() is None
    with write(world.engine) as conn:
        conn.execute(update(tables.lane).values(paused=False))
    assert world.lease().job_id == second


def test_projects_take_turns(world: World) -> None:
    greedy, modest = world.project("greedy"), world.project("modest")
    mine = {world.submit(greedy) for _ in range(6)}
    for _ in range(3):
        world.submit(modest)
    turns = [world.lease().job_id in mine for _ in range(6)]
    assert sum(turns) == 3
    assert all(a != b for a, b in pairwise(turns))


def test_an_idle_project_does_not_save_up_turns(world: World) -> None:
    busy, late = world.project("busy"), world.project("late")
    world.finish(world.lease(world.submit(late)))
    mine = {world.submit(busy) for _ in range(10)}
    for _ in range(5):
        world.lease()
    for _ in range(4):
        world.submit(late)
    turns = [world.lease().job_id in mine for _ in range(4)]
    assert sum(turns) == 2


def test_the_claim_finds_its_way_by_index(world: World) -> None:
    if world.engine.dialect.name != "sqlite":
        pytest.skip("reads SQLite's form of a plan")
    world.submit()
    plans = {}
    for name, query in {
        "head": queue.head("prj_local", "cpu"),
        "lane": queue.next_lane_query(CPU),
    }.items():
        text = query.compile(world.engine, compile_kwargs={"literal_binds": True})
        with read(world.engine) as conn:
            rows = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
        plans[name] = [row.detail for row in rows]
    assert plans["head"] == [
        "SEARCH job USING COVERING INDEX ix_job_queue "
        "(project_id=? AND resource_class=? AND status=?)"
    ]
    assert not any("SCAN job" in step for step in plans["lane"])
    assert any("ix_job_queue" in step for step in plans["lane"])


def test_bells_ring_for_the_jobs_that_start_next_and_not_twice(world: World) -> None:
    made = [world.submit(priority=p) for p in (0, 5, 0, 1)]
    expected = [made[1], made[3]]
    assert protocol.heads(world.engine, world.settings, "cpu", 2) == expected
    assert protocol.mark_rung(world.engine, expected) == dict.fromkeys(expected, 1)
    assert protocol.heads(world.engine, world.settings, "cpu", 2) == []
    assert protocol.heads(world.engine, world.settings, "cpu", 3) == [made[0]]
    with write(world.engine) as conn:
        conn.execute(update(job).where(job.c.id == made[3]).values(rung_at=1))
    assert protocol.heads(world.engine, world.settings, "cpu", 2) == [made[3]]
    assert protocol.mark_rung(world.engine, [made[3]]) == {made[3]: 2}
    lease = world.lease(made[1])
    assert protocol.mark_rung(world.engine, [made[1]]) == {}, "not queued any more"
    world.release(lease, "drained", charged=False)
    assert made[1] in protocol.heads(world.engine, world.settings, "cpu", 1), "rings anew"
    assert protocol.heads(world.engine, world.settings, "gpu", 9) == []


def test_bells_respect_a_quota(world: World) -> None:
    for _ in range(4):
        world.submit()
    world.set_quota(2)
    world.lease()
    assert len(protocol.heads(world.engine, world.settings, "cpu", 4)) == 1


def test_attempts_are_numbered_by_epoch(world: World) -> None:
    job_id = world.submit()
    for _ in range(2):
        world.release(world.lease(), "drained", charged=False)
    assert world.lease().epoch == 5
    with read(world.engine) as conn:
        numbers = conn.scalars(
            select(tables.attempt.c.number).where(tables.attempt.c.job_id == job_id)
        ).all()
    assert sorted(numbers) == [1, 3, 5]
    assert world.job(job_id).status is Status.RUNNING
