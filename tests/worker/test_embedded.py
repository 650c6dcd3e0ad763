"""The loop as a process: signals, the end of its input, and that nothing is orphaned."""

import os
import select
import signal
import threading

import pytest

from service.errors import StorageFull
from tests.chaos.house import PATIENCE, House, check_history
from worker import embedded
from worker.process import Spares
from worker.supervisor import Worker, here


def gone(pids: list[int]) -> bool:
    """Whether all of these processes end in time; one that has ended already counts."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.select([handle], [], [], PATIENCE)[0]
        os.close(handle)
        if not ended:
            return False
    return True


def test_runs_what_is_queued_and_what_comes_later(house: House) -> None:
    first = house.submit()
    loop = house.start_embedded()
    house.ended(first)
    second = house.submit()
    house.ended(second)
    check_history(house, first)
    check_history(house, second)
    assert house.digests(first) == house.digests(second)
    loop.signal(signal.SIGTERM)
    assert loop.wait() == 0


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "end of input"])
def test_leaving_drains_and_the_next_one_resumes(house: House, way: str) -> None:
    job_id = house.submit(steps=600, step_seconds=0.005, checkpoint_every=1_000_000)
    loop = house.start_embedded()
    house.until("a step", lambda: house.step(job_id))
    below = loop.descendants()
    if way == "end of input":
        assert loop.popen.stdin
        loop.popen.stdin.close()
    else:
        loop.signal(signal.Signals[way])
    assert loop.wait() == 0
    assert gone(below)
    (first,) = house.attempts(job_id)
    assert (first.outcome, first.charged) == ("drained", False)
    house.start_embedded()
    house.ended(job_id)
    check_history(house, job_id)
    found = house.job(job_id)
    assert found.attempts_charged == 0


def test_a_second_signal_ends_it_at_once_and_leaves_no_orphan(house: House) -> None:
    job_id = house.submit(steps=10_000_000, behaviour="deaf", at=10_000_000)
    loop = house.start_embedded()
    house.until("a step", lambda: house.step(job_id))
    below = loop.descendants()
    assert len(below) == 2  # the job's child and the spare one
    loop.signal(signal.SIGTERM)
    house.until("the first signal is heard", lambda: "told to stop: drain" in loop.log.read_text())
    loop.signal(signal.SIGTERM)
    assert loop.wait() == 128 + signal.SIGTERM
    assert gone(below)
    assert house.job(job_id).status == "running"


def test_after_a_crash_nobody_waits_for_the_lease_to_run_out(house: House) -> None:
    house.overrides |= {"lease_ttl_seconds": 3600.0}
    job_id = house.submit(steps=600, step_seconds=0.005, checkpoint_every=10)
    loop = house.start_embedded()
    house.until("a checkpoint", lambda: house.step(job_id) > 20)
    loop.kill()
    house.start_embedded()
    house.ended(job_id)
    check_history(house, job_id)
    assert [each.outcome for each in house.attempts(job_id)] == ["lost", "succeeded"]


def test_slots_run_beside_each_other(house: House) -> None:
    house.overrides["slots"] = 3
    jobs = [house.submit(steps=10_000_000) for _ in range(3)]
    loop = house.start_embedded()
    house.until("three run", lambda: all(house.step(job_id) for job_id in jobs))
    loop.signal(signal.SIGTERM)
    assert loop.wait() == 0
    assert {house.job(job_id).status for job_id in jobs} == {"queued"}


def test_a_database_that_can_not_take_a_write_costs_one_line_a_look(
    house: House, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = threading.Event()

    def full(worker: Worker) -> None:
        drain.set()
        raise StorageFull("The database could not grow.")

    monkeypatch.setattr(embedded, "run_one", full)
    spares = Spares((), count=0)
    embedded.work(Worker(house.engine, house.settings, house.blobs, spares, here(), drain))
    (record,) = caplog.records
    assert "could not grow" in record.message
    assert record.exc_info is None


def test_a_file_that_is_no_database_is_told_in_a_line(house: House) -> None:
    other = house.settings.state_dir / "other.db"
    other.write_bytes(b"no database" * 1000)
    house.overrides["database_url"] = f"sqlite:///{other}"
    loop = house.start_embedded()
    assert loop.wait() == 1
    assert "not a database" in loop.log.read_text()
    assert "Traceback" not in loop.log.read_text()


def test_a_database_without_a_schema_is_an_error_with_a_remedy(house: House) -> None:
    house.overrides["database_url"] = f"sqlite:///{house.settings.state_dir / 'other.db'}"
    loop = house.start_embedded()
    assert loop.wait() == 1
    assert "rome db upgrade" in loop.log.read_text()
