"""The history of a job has every number once, at every moment anybody looks."""

from collections.abc import Callable

from service import events
from service.database import read
from service.principals import LOCAL, Principal
from tests.conformance import crowd
from tests.conformance.moves import World


def test_numbers_have_no_gap_and_no_duplicate_under_concurrency(
    world: World, together: Callable[..., list[object]]
) -> None:
    job_id = world.submit()
    lease = world.lease()
    *_, unbroken = together(
        (crowd.report, lease, 40),
        (crowd.pester, job_id, 10),
        (crowd.cancel, [job_id] * 20),
        (crowd.watch, job_id, 60),
    )
    assert unbroken
    history = world.history(job_id)
    assert [event.seq for event in history] == list(range(1, len(history) + 1))
    assert world.job(job_id).last_seq == len(history)
    assert world.types(job_id).count("job.cancel_requested") == 1


def test_readers_go_on_from_the_number_they_have(world: World) -> None:
    job_id = world.submit()
    world.finish(world.lease())
    assert [event.seq for event in world.history(job_id, after=2)] == [3, 4]
    assert world.history(job_id, after=4) == []
    with read(world.engine) as conn:
        assert [e.seq for e in events.after(conn, LOCAL, job_id, 1, limit=2)] == [2, 3]
        assert events.last_seqs(conn, [job_id, "job_unknown"]) == {job_id: 4}
        assert events.last_seqs(conn, []) == {}


def test_another_project_sees_no_events(world: World) -> None:
    job_id = world.submit()
    stranger: Principal = world.project("stranger")
    with read(world.engine) as conn:
        assert events.after(conn, stranger, job_id) == []
