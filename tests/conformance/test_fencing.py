"""A lease that ended can never write again, however it ended and whatever its holder tries."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from service.attempts import protocol, reaper
from service.attempts.leases import Lease, Owner
from service.database import write
from service.errors import CancelWon, Fenced, IllegalTransition, PublishRefused
from service.jobs import Status
from service.jobs.tables import job
from tests.conformance import crowd
from tests.conformance.moves import DIGEST, PAST, World, synthetic_set


def reaped(world: World, lease: Lease) -> None:
    world.expire(lease.job_id)
    assert world.reap().ended == {lease.job_id: Status.QUEUED}


def reaped_and_claimed_again(world: World, lease: Lease) -> None:
    reaped(world, lease)
    world.lease(lease.job_id)


def drained(world: World, lease: Lease) -> None:
    world.release(lease, "drained", charged=False)


def paused(world: World, lease: Lease) -> None:
    world.release(lease, "paused", charged=False)


def failed(world: World, lease: Lease) -> None:
    world.release(lease, "failed", retry=False)


def cancelled(world: World, lease: Lease) -> None:
    world.cancel(lease.job_id)
    world.release(lease, "cancelled", charged=False, retry=False)


def reaped_while_publishing(world: World, lease: Lease) -> None:
    protocol.begin_publishing(world.engine, lease)
    protocol.pin(world.engine, lease, DIGEST, 3)
    reaped_and_claimed_again(world, lease)
    protocol.begin_publishing(world.engine, Lease(lease.job_id, lease.epoch + 2))


def published(world: World, lease: Lease) -> None:
    world.finish(lease)


EXITS = [
    reaped,
    reaped_and_claimed_again,
    drained,
    paused,
    failed,
    cancelled,
    reaped_while_publishing,
    published,
]
VERBS: dict[str, Callable[[World, Lease], object]] = {
    "renew": World.renew,
    "progress": World.progress,
    "begin_publishing": lambda world, lease: protocol.begin_publishing(world.engine, lease),
    "pin": lambda world, lease: protocol.pin(world.engine, lease, DIGEST, 3),
    "publish": lambda world, lease: world.publish(lease, [synthetic_set()]),
    "release": World.release,
}


@pytest.mark.parametrize("leave", EXITS, ids=lambda leave: leave.__name__)
def test_after_an_exit_every_verb_is_fenced_and_changes_nothing(
    world: World, leave: Callable[[World, Lease], None]
) -> None:
    world.submit()
    lease = world.lease()
    leave(world, lease)
    before = world.everything()
    for name, verb in VERBS.items():
        with pytest.raises(Fenced):
            verb(world, lease)
        assert world.everything() == before, name


@pytest.mark.parametrize("leave", EXITS, ids=lambda leave: leave.__name__)
def test_every_exit_moves_the_epoch_on(world: World, leave: Callable[[World, Lease], None]) -> None:
    job_id = world.submit()
    lease = world.lease()
    leave(world, lease)
    assert world.job(job_id).lease_epoch > lease.epoch


def test_a_renewed_lease_is_not_reaped(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    world.expire(job_id)
    world.renew(lease)
    assert world.reap().ended == {}
    assert world.job(job_id).status is Status.RUNNING


def test_a_lease_renewed_between_the_reapers_look_and_its_hand_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = world.submit()
    lease = world.lease()
    world.expire(job_id)
    real = reaper._end

    def renewed_first(*arguments: Any) -> Status | None:
        world.renew(lease)
        return real(*arguments)

    monkeypatch.setattr(reaper, "_end", renewed_first)
    assert world.reap().ended == {}
    assert world.job(job_id).status is Status.RUNNING
    world.renew(lease)


def test_a_lease_holds_beyond_its_time_until_somebody_ends_it(world: World) -> None:
    """Late is not lost: nobody else has the job, so the work may still be published."""
    job_id = world.submit()
    lease = world.lease()
    world.expire(job_id)
    world.finish(lease)
    assert world.reap().ended == {}
    assert world.job(job_id).status is Status.SUCCEEDED


def test_many_reapers_end_a_lease_once(
    world: World, together: Callable[..., list[list[str]]]
) -> None:
    submitted = sorted(world.submit() for _ in range(10))
    for job_id in submitted:
        world.lease(job_id)
        world.expire(job_id)
    ended = together(*[(crowd.reap,)] * 4)
    assert sorted(job_id for each in ended for job_id in each) == submitted
    for job_id in submitted:
        found = world.job(job_id)
        assert (found.status, found.attempts_charged, found.lease_epoch) == ("queued", 1, 2)
        assert world.types(job_id) == ["job.queued", "job.started", "job.requeued"]
    assert world.running() == 0


def test_nothing_is_visible_before_publish_and_all_of_it_after(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    protocol.begin_publishing(world.engine, lease)
    protocol.pin(world.engine, lease, DIGEST, 3)
    assert (world.artifacts(job_id), world.job(job_id).result) == ([], None)
    world.publish(lease, [synthetic_set()])
    found = world.job(job_id)
    assert (found.status, found.result, found.provenance) == (
        "succeeded",
        {"clean": 0.5},
        {"seed": 7},
    )
    (made,) = world.artifacts(job_id)
    assert (made.name, made.digest, made.size, made.metadata) == (
        "synthetic.pt",
        DIGEST,
        3,
        {"ipc": 1},
    )
    assert world.types(job_id)[-2:] == ["job.publishing", "job.succeeded"]


def test_publishing_comes_after_begin_publishing(world: World) -> None:
    world.submit()
    lease = world.lease()
    protocol.pin(world.engine, lease, DIGEST, 3)
    with pytest.raises(Fenced):
        world.publish(lease, [synthetic_set()])


@pytest.mark.parametrize(
    "output", [synthetic_set(digest="cd" * 32), synthetic_set(size=4)], ids=["unpinned", "size"]
)
def test_what_was_not_pinned_as_such_is_not_published(world: World, output: object) -> None:
    world.submit()
    lease = world.lease()
    protocol.begin_publishing(world.engine, lease)
    protocol.pin(world.engine, lease, DIGEST, 3)
    before = world.everything()
    with pytest.raises(PublishRefused, match=r"synthetic\.pt"):
        world.publish(lease, [synthetic_set(), output])
    assert world.everything() == before


def test_recovery_from_publishing_is_another_attempt_that_publishes(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    protocol.begin_publishing(world.engine, lease)
    protocol.pin(world.engine, lease, DIGEST, 3)
    reaped(world, lease)
    world.finish(world.lease())
    assert [made.name for made in world.artifacts(job_id)] == ["synthetic.pt"]


def test_the_reaper_ends_a_cancelled_job_as_cancelled(world: World) -> None:
    job_id = world.submit()
    world.lease()
    world.cancel(job_id)
    world.expire(job_id)
    assert world.reap().ended == {job_id: Status.CANCELLED}
    assert world.types(job_id)[-2:] == ["job.cancel_requested", "job.cancelled"]


def test_the_reaper_skips_one_look_after_its_own_long_sleep(world: World) -> None:
    job_id = world.submit()
    world.lease()
    world.expire(job_id)
    report = world.reap(last_tick=PAST)
    assert (report.skipped, report.ended) == (True, {})
    assert world.job(job_id).status is Status.RUNNING
    assert world.reap(last_tick=report.at).ended == {job_id: Status.QUEUED}


def test_jobs_that_waited_too_long_expire(world: World) -> None:
    waiting, running, patient = (world.submit(max_wait_seconds=60) for _ in range(3))
    world.lease(running)
    _deadline_passes(world, waiting)
    _deadline_passes(world, running)
    assert world.reap().expired == (waiting,)
    found = world.job(waiting)
    assert (found.status, found.error and found.error["code"]) == ("expired", "queue_expired")
    assert found.finished_at is not None
    assert world.types(waiting) == ["job.queued", "job.expired"]
    assert world.job(running).status is Status.RUNNING
    assert world.job(patient).status is Status.QUEUED
    assert world.reap().expired == ()


def test_leases_of_processes_that_are_gone_need_not_run_out(world: World) -> None:
    """Of this host alone: another's process numbers say nothing here."""
    dead, alive, far = (world.submit() for _ in range(3))
    for job_id, host, pid in ((dead, "here", 1), (alive, "here", 2), (far, "there", 1)):
        assert world.claim(job_id, Owner(f"{host}:{pid}", host, pid))
    ended = reaper.end_orphans(world.engine, world.settings, "here", alive=lambda pid: pid == 2)
    assert ended == {dead: Status.QUEUED}
    assert [world.job(each).status for each in (dead, alive, far)] == ["queued", *["running"] * 2]
    assert (world.job(dead).attempts_charged, world.running()) == (1, 2)
    before = world.everything()
    assert reaper.end_orphans(world.engine, world.settings, "here", alive=lambda pid: True) == {}
    assert world.everything() == before


def test_a_job_that_started_in_time_does_not_expire_in_the_queue(world: World) -> None:
    job_id = world.submit(max_wait_seconds=60)
    world.release(world.lease(job_id), "drained", charged=False)
    _deadline_passes(world, job_id)
    assert world.reap().expired == ()
    assert world.lease(job_id)


def _deadline_passes(world: World, job_id: str) -> None:
    with write(world.engine) as conn:
        conn.execute(update(job).where(job.c.id == job_id).values(queue_deadline=PAST))


def test_orders_reach_the_holder(world: World) -> None:
    job_id = world.submit(run_seconds=1000)
    lease = world.lease()
    assert world.renew(lease) == protocol.Orders(cancel=False, pause=False, expired=False)
    world.pause(job_id)
    assert world.renew(lease).pause
    world.cancel(job_id)
    assert world.renew(lease) == protocol.Orders(cancel=True, pause=True, expired=False)


def test_cancel_before_publish_wins(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    protocol.begin_publishing(world.engine, lease)
    protocol.pin(world.engine, lease, DIGEST, 3)
    world.cancel(job_id)
    before = world.everything()
    with pytest.raises(CancelWon):
        world.publish(lease, [synthetic_set()])
    assert world.everything() == before
    assert world.release(lease, "cancelled", charged=False, retry=False) is Status.CANCELLED
    assert world.artifacts(job_id) == []


def test_cancel_before_publishing_begins_wins(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    world.cancel(job_id)
    with pytest.raises(CancelWon):
        protocol.begin_publishing(world.engine, lease)


def test_publish_before_cancel_wins(world: World) -> None:
    job_id = world.submit()
    world.finish(world.lease())
    with pytest.raises(IllegalTransition):
        world.cancel(job_id)
    assert world.job(job_id).status is Status.SUCCEEDED


def test_of_cancel_and_publish_that_race_exactly_one_wins(
    world: World, together: Callable[..., list[list[str]]]
) -> None:
    submitted = [world.submit() for _ in range(25)]
    leases = [world.lease(job_id) for job_id in submitted]
    for lease in leases:
        protocol.begin_publishing(world.engine, lease)
    cancels, publishes, *_ = together(
        (crowd.cancel, submitted),
        (crowd.publish, leases),
        (crowd.reap,),
        (crowd.reap,),
    )
    for job_id, lease, cancel, publish in zip(submitted, leases, cancels, publishes, strict=True):
        if publish == "done":
            assert cancel == "illegal_transition"
            assert world.job(job_id).status is Status.SUCCEEDED
        else:
            assert (publish, cancel) == ("cancel_won", "done")
            assert world.release(lease, "failed", retry=True) is Status.CANCELLED
    assert world.running() == 0
