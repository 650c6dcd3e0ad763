"""How often a job is tried, and what an attempt leaves behind."""

import pytest
from sqlalchemy import update

from service import attempts, tables
from service.attempts import protocol
from service.attempts.leases import Orders
from service.attempts.repository import Attempt
from service.clock import SECOND
from service.database import read, write
from service.errors import InvalidCursor, ValidationFailed
from service.jobs import Status
from service.principals import LOCAL
from tests.conformance.moves import STEP, World


def attempts_of(world: World, job_id: str) -> list[Attempt]:
    with read(world.engine) as conn:
        return attempts.of_job(conn, LOCAL, job_id)


@pytest.mark.parametrize("allowed", [1, 2, 4])
def test_charged_attempts_end_at_the_jobs_bound(world: World, allowed: int) -> None:
    job_id = world.submit(max_attempts=allowed)
    became = [world.release(world.lease(), "crashed") for _ in range(allowed)]
    assert became == [Status.QUEUED] * (allowed - 1) + [Status.FAILED]
    found = world.job(job_id)
    assert (found.attempts_charged, found.attempts_uncharged) == (allowed, 0)
    assert found.error == {
        "code": "child_crashed",
        "detail": "told to",
        "remedy": found.error["remedy"] if found.error else "",
    }
    assert found.finished_at is not None
    assert world.claim() is None


def test_a_failure_waits_longer_each_time_before_it_is_tried_again(world: World) -> None:
    """A full disk must not use up all attempts within a moment."""
    world.settings = world.settings.model_copy(update={"retry_seconds": 30.0})
    job_id = world.submit(max_attempts=10)
    for outcome, seconds in (("failed", 30), ("crashed", 120), ("failed", 480)):
        world.release(world.lease(), outcome)
        found = world.job(job_id)
        ended_at = attempts_of(world, job_id)[-1].ended_at
        assert ended_at is not None
        assert found.run_at - ended_at == seconds * SECOND
        assert (found.wait_reason, world.claim(), world.claim(job_id)) == ("retry", None, None)
        _its_time_comes(world)
    world.release(world.lease(), "drained", charged=False)
    assert world.lease(), "what was no failure need not wait"


def _its_time_comes(world: World) -> None:
    with write(world.engine) as conn:
        conn.execute(update(tables.job).values(run_at=1))


def test_uncharged_attempts_have_a_bound_of_their_own(world: World) -> None:
    settings = world.settings.model_copy(update={"max_uncharged": 3})
    world.settings = settings
    job_id = world.submit(max_attempts=1)
    became = [world.release(world.lease(), "drained", charged=False) for _ in range(4)]
    assert became == [Status.QUEUED] * 3 + [Status.FAILED]
    found = world.job(job_id)
    assert (found.attempts_charged, found.attempts_uncharged) == (0, 4)
    assert found.error is not None
    assert found.error["code"] == "attempts_exhausted"


def test_a_lost_lease_is_charged_so_a_job_that_kills_its_host_ends(world: World) -> None:
    job_id = world.submit(max_attempts=2)
    for became in (Status.QUEUED, Status.FAILED):
        world.lease()
        world.expire(job_id)
        assert world.reap().ended == {job_id: became}
    error = world.job(job_id).error
    assert error is not None
    assert error["code"] == "lease_lost"


def test_an_error_the_user_can_act_on_is_kept_and_not_tried_again(world: World) -> None:
    job_id = world.submit()
    error = {"code": "dataset_missing", "detail": "no digits", "remedy": "install them"}
    lease = world.lease()
    assert world.release(lease, "failed", retry=False, error=error) is Status.FAILED
    assert world.job(job_id).error == error
    last = world.history(job_id)[-1]
    assert (last.type, last.data["error"], last.attempt) == ("job.failed", error, lease.epoch)


def test_a_pause_gives_the_lease_up_and_a_resume_queues_the_job_again(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    world.pause(job_id)
    assert world.release(lease, "paused", charged=False) is Status.PAUSED
    assert (world.claim(), world.claim(job_id)) == (None, None)
    world.resume(job_id)
    assert world.job(job_id).pause_requested_at is None
    assert world.lease().epoch == lease.epoch + 2
    assert world.types(job_id) == [
        "job.queued",
        "job.started",
        "job.pause_requested",
        "job.paused",
        "job.queued",
        "job.started",
    ]


def test_a_waiting_job_is_paused_resumed_and_cancelled_at_once(world: World) -> None:
    job_id = world.submit()
    assert world.pause(job_id).status is Status.PAUSED
    assert world.resume(job_id).status is Status.QUEUED
    assert world.pause(job_id).status is Status.PAUSED
    assert world.cancel(job_id).status is Status.CANCELLED
    assert world.running() == 0


def test_the_limit_on_running_counts_all_attempts(world: World) -> None:
    job_id = world.submit(run_seconds=100)
    world.release(world.lease(), "drained", charged=False)
    with write(world.engine) as conn:  # that attempt took 60 s
        at = tables.attempt.c.ended_at - 60 * SECOND
        conn.execute(update(tables.attempt).values(started_at=at))
    lease = world.lease()
    assert not world.renew(lease).expired
    with write(world.engine) as conn:  # this one takes 41 s
        at = tables.attempt.c.started_at - 41 * SECOND
        conn.execute(
            update(tables.attempt).where(tables.attempt.c.number == 3).values(started_at=at)
        )
    assert world.renew(lease).expired
    assert world.release(lease, "expired", retry=False) is Status.EXPIRED
    error = world.job(job_id).error
    assert error is not None
    assert error["code"] == "run_expired"


def test_progress_brings_back_orders_as_a_renewal_does(world: World) -> None:
    job_id = world.submit(run_seconds=100)
    lease = world.lease()
    assert world.progress(lease, step=1) == Orders(cancel=False, pause=False, expired=False)
    world.pause(job_id)
    assert world.progress(lease, step=2) == world.renew(lease)
    world.cancel(job_id)
    with write(world.engine) as conn:
        at = tables.attempt.c.started_at - 101 * SECOND
        conn.execute(update(tables.attempt).values(started_at=at))
    assert world.progress(lease, step=3) == world.renew(lease)
    assert world.progress(lease, step=4).cancel
    assert world.progress(lease, step=5).expired


def test_an_attempt_keeps_who_ran_it_how_it_ended_and_its_last_lines(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    world.progress(lease, step=5, scalars={"resumed_at": 4.0})
    world.progress(lease, step=6)
    world.release(lease, "stalled", log_tail=["one", "two"])
    (found,) = attempts_of(world, job_id)
    assert (found.number, found.owner, found.host, found.pid) == (1, "tester", "host", 1)
    assert (found.outcome, found.reason, found.charged) == ("stalled", "told to", True)
    assert (found.log_tail, found.resumed_step) == (["one", "two"], 4)
    assert found.progress is not None
    assert found.progress["step"] == 6
    assert found.ended_at is not None
    assert found.code_version


def test_a_lost_attempt_ends_when_its_lease_did(world: World) -> None:
    """Otherwise a laptop's night would count against `run_seconds`."""
    job_id = world.submit()
    world.lease()
    world.expire(job_id)
    world.reap()
    assert attempts_of(world, job_id)[0].ended_at == 1


def test_progress_is_always_on_the_attempt_and_seldom_an_event(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    world.settings = world.settings.model_copy(update={"progress_event_seconds": 3600.0})
    for step in range(1, 6):
        world.progress(lease, step=step, scalars={"loss": 1.0 / step})
    assert world.types(job_id).count("job.progress") == 1
    with write(world.engine) as conn:
        conn.execute(update(tables.event).values(at=1))
    world.progress(lease, step=6)
    assert world.types(job_id).count("job.progress") == 2
    with read(world.engine) as conn:
        points = attempts.metrics(conn, LOCAL, job_id).items
        assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
        assert {point.name for point in points} == {"distilling/loss"}
        assert attempts.metrics(conn, LOCAL, job_id, name="other").items == []


def test_metrics_are_read_page_by_page_and_none_is_left_out(world: World) -> None:
    job_id = world.submit()
    for _ in range(2):
        lease = world.lease()
        for step in range(1, 6):
            world.progress(lease, step=step, scalars={"loss": 0.5, "müh": 2.0})
        world.release(lease, "drained", charged=False)
    with read(world.engine) as conn:
        whole = attempts.metrics(conn, LOCAL, job_id).items
        seen, cursor = [], None
        while cursor is not None or not seen:
            page = attempts.metrics(conn, LOCAL, job_id, cursor=cursor, limit=3)
            assert len(page.items) <= 3
            seen += page.items
            cursor = page.next_cursor
        assert seen == whole
        assert len(seen) == len(set(seen)) == 20
        first = attempts.metrics(conn, LOCAL, job_id, limit=1).next_cursor
        with pytest.raises(InvalidCursor):
            attempts.metrics(conn, LOCAL, job_id, name="distilling/loss", cursor=first)
        with pytest.raises(ValidationFailed):
            attempts.metrics(conn, LOCAL, job_id, limit=10_001)


def test_a_loss_that_is_not_a_number_is_told_as_null(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    world.progress(lease, scalars={"loss": float("nan"), "speed": 2.0}, eta_seconds=float("inf"))
    event = world.history(job_id)[-1]
    assert event.data["scalars"] == {"loss": None, "speed": 2.0}
    assert event.data["eta_seconds"] is None
    with read(world.engine) as conn:
        assert [p.name for p in attempts.metrics(conn, LOCAL, job_id).items] == ["distilling/speed"]


def test_the_version_moves_on_what_a_user_sees_and_not_on_heartbeats(world: World) -> None:
    job_id = world.submit()
    lease = world.lease()
    version = world.job(job_id).version
    world.renew(lease)
    protocol.progress(world.engine, world.settings, lease, STEP)
    protocol.pin(world.engine, lease, "ab" * 32, 3)
    assert world.job(job_id).version == version
    world.cancel(job_id)
    assert world.job(job_id).version == version + 1
    world.cancel(job_id)
    assert world.job(job_id).version == version + 1, "asking twice is once"
