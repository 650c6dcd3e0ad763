"""One attempt from claim to publish, with a real child, a real database and real blobs."""

import hashlib
import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from service.artifacts import repository as artifacts
from service.artifacts import uploads
from service.attempts import protocol
from service.attempts.leases import Lease
from service.database import read, write
from service.errors import DatabaseBusy, PublishRefused
from service.jobs.tables import job
from service.principals import LOCAL
from tests.chaos.house import House, check_history
from worker import publishing, scratch, supervisor
from worker.messages import Message
from worker.process import Child, Spares, child_command
from worker.reaper import Reaper
from worker.supervisor import FENCED, Worker, here, run_one


@contextmanager
def worker_of(house: House) -> Iterator[Worker]:
    spares = Spares(child_command(house.settings.runner), count=0)
    drain = threading.Event()
    try:
        yield Worker(house.engine, house.settings, house.blobs, spares, here(), drain)
    finally:
        spares.close()


@pytest.fixture
def worker(house: House) -> Iterator[Worker]:
    with worker_of(house) as worker:
        yield worker


@contextmanager
def attempt_running(worker: Worker) -> Iterator[list[str | None]]:
    """An attempt in a thread beside the test; its return value is appended at the end."""
    said: list[str | None] = []
    thread = threading.Thread(target=lambda: said.append(run_one(worker)))
    thread.start()
    yield said
    thread.join()


def test_nothing_to_do(worker: Worker) -> None:
    assert run_one(worker) is None


def test_a_job_is_published_and_its_scratch_removed(house: House, worker: Worker) -> None:
    job_id = house.submit()
    assert run_one(worker) == "succeeded"
    check_history(house, job_id)
    assert set(house.digests(job_id)) == {"chain.json", "bulk.bin"}
    result = house.job(job_id).result
    assert result is not None
    chain = json.loads(house.blobs.path(house.digests(job_id)["chain.json"]).read_text())
    assert result["chain"] == chain["chain"]
    assert run_one(worker) is None


def test_claims_exactly_the_job_it_is_told(house: House, worker: Worker) -> None:
    first, second = house.submit(), house.submit()
    assert run_one(worker, second) == "succeeded"
    assert run_one(worker, second) is None
    assert house.job(first).status == "queued"


def test_a_drained_worker_claims_nothing(house: House, worker: Worker) -> None:
    job_id = house.submit()
    worker.drain.set()
    assert run_one(worker) is None
    assert house.job(job_id).status == "queued"


@pytest.mark.parametrize(
    ("behaviour", "code"), [("bad data", "dataset_missing"), ("bug", "internal_error")]
)
def test_what_another_attempt_can_not_cure_fails_at_once(
    house: House, worker: Worker, behaviour: str, code: str
) -> None:
    job_id = house.submit(behaviour=behaviour)
    assert run_one(worker) == "failed"
    found = house.job(job_id)
    assert found.error is not None
    assert found.error["code"] == code
    assert found.attempts_charged == 1
    assert not (house.settings.scratch_dir / job_id).exists()
    assert run_one(worker) is None


def weights(house: House, content: bytes) -> str:
    """The id of an upload, as the API makes one."""
    with write(house.engine) as conn:
        made = uploads.add(
            conn,
            LOCAL,
            house.blobs,
            io.BytesIO(content),
            house.blobs.put(content),
            kind="student-weights",
            name="mine.pth",
        )
    return made.id


def test_a_child_is_given_every_file_its_job_names_and_a_cache(
    house: House, worker: Worker
) -> None:
    contents = {weights(house, content): content for content in (b"one", b"two")}
    models = [{"artifact": named, "name": f"m{k}"} for k, named in enumerate(contents)]
    job_id = house.submit({"kind": "transfer", "dataset": "digits", "sources": models})
    assert run_one(worker) == "succeeded"
    result = house.job(job_id).result
    assert result is not None
    assert result["inputs"] == {
        named: hashlib.sha256(content).hexdigest() for named, content in contents.items()
    }
    assert result["cache"] == str(house.settings.state_dir / "cache")


@pytest.mark.parametrize(("harm", "code"), [("rot", "blob_damaged"), ("loss", "blob_missing")])
def test_an_input_that_is_not_what_was_published_is_never_read(
    house: House, worker: Worker, harm: str, code: str
) -> None:
    source = house.submit()
    assert run_one(worker) == "succeeded"
    with read(house.engine) as conn:
        made = artifacts.of_job(conn, LOCAL.project_id, source)
    (given,) = [each for each in made if each.kind == "synthetic-set"]
    path = house.blobs.path(given.digest)
    path.unlink()
    if harm == "rot":
        path.write_bytes(b"x" * given.size)
    job_id = house.submit({"kind": "evaluate", "artifact": given.id})
    assert run_one(worker) == "failed"
    found = house.job(job_id)
    assert found.error is not None
    assert found.error["code"] == code
    assert len(house.attempts(job_id)) == 1


@pytest.mark.parametrize("behaviour", ["disk full", "memory", "segfault"])
def test_what_may_pass_is_tried_again_from_the_checkpoint(
    house: House, worker: Worker, behaviour: str
) -> None:
    calm = house.submit()
    assert run_one(worker) == "succeeded"
    job_id = house.submit(behaviour=behaviour, once=True, at=12)
    assert run_one(worker) == "queued"
    (first,) = house.attempts(job_id)
    assert first.charged
    if behaviour == "segfault":
        assert (first.outcome, first.reason) == ("crashed", "killed by SIGSEGV")
        assert "about to crash" in first.log_tail
    assert run_one(worker) == "succeeded"
    check_history(house, job_id)
    assert house.digests(job_id) == house.digests(calm)


def test_a_job_that_always_kills_its_child_ends(tmp_path: Path) -> None:
    house = House(tmp_path, max_attempts=3)
    with worker_of(house) as worker:
        job_id = house.submit(behaviour="segfault")
        assert [run_one(worker) for _ in range(4)] == ["queued", "queued", "failed", None]
    found = house.job(job_id)
    assert found.error is not None
    assert found.error["code"] == "child_crashed"
    assert "about to crash" in house.attempts(job_id)[-1].log_tail
    house.close()


def test_a_silent_child_is_dumped_and_killed(tmp_path: Path) -> None:
    house = House(tmp_path, stall_seconds=1.0)
    with worker_of(house) as worker:
        job_id = house.submit(behaviour="hang", once=True, at=12)
        assert run_one(worker) == "queued"
        (first,) = house.attempts(job_id)
        assert first.outcome == "stalled"
        assert any("_misbehave" in line for line in first.log_tail)
        assert run_one(worker) == "succeeded"
    check_history(house, job_id)
    house.close()


def test_cancel_stops_the_child(house: House, worker: Worker) -> None:
    job_id = house.submit(steps=10_000_000)
    with attempt_running(worker) as said:
        house.until("a step", lambda: house.step(job_id))
        house.cancel(job_id)
    assert said == ["cancelled"]
    assert not (house.settings.scratch_dir / job_id).exists()
    assert house.digests(job_id) == {}


def test_a_job_that_reports_is_cancelled_before_its_lease_is_renewed(tmp_path: Path) -> None:
    house = House(tmp_path, lease_ttl_seconds=3600.0, lease_renew_seconds=600.0)
    with worker_of(house) as worker:
        job_id = house.submit(steps=10_000_000)
        with attempt_running(worker) as said:
            house.until("a step", lambda: house.step(job_id))
            house.cancel(job_id)
        assert said == ["cancelled"]
    house.close()


def test_a_child_that_does_not_listen_is_killed_after_the_grace(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_GRACE_SECONDS", 0.1)
    job_id = house.submit(steps=10_000_000, behaviour="deaf")
    with attempt_running(worker) as said:
        house.until("a step", lambda: house.step(job_id))
        house.cancel(job_id)
    assert said == ["cancelled"]


@pytest.mark.parametrize(("order", "status"), [("drain", "queued"), ("pause", "paused")])
def test_drain_and_pause_checkpoint_and_cost_nothing(
    house: House, worker: Worker, order: str, status: str
) -> None:
    job_id = house.submit(steps=10_000_000, checkpoint_every=10_000_000)
    with attempt_running(worker) as said:
        house.until("a step", lambda: house.step(job_id))
        if order == "drain":
            worker.drain.set()
        else:
            house.pause(job_id)
    assert said == [status]
    (only,) = house.attempts(job_id)
    assert not only.charged
    assert house.job(job_id).attempts_charged == 0
    folder = house.settings.scratch_dir / job_id / str(only.number)
    assert list((folder / "checkpoints").glob("*.json"))


def test_the_deadline_of_a_job_ends_it(house: House, worker: Worker) -> None:
    job_id = house.submit(steps=10_000_000)
    with write(house.engine) as conn:
        conn.execute(update(job).where(job.c.id == job_id).values(run_seconds=1))
    assert run_one(worker) == "expired"
    found = house.job(job_id)
    assert found.error is not None
    assert found.error["code"] == "run_expired"


def test_a_fenced_attempt_writes_nothing_and_keeps_its_checkpoints(
    house: House, worker: Worker
) -> None:
    job_id = house.submit(steps=10_000_000)
    folder = house.settings.scratch_dir / job_id
    with attempt_running(worker) as said:
        house.until("a step", lambda: house.step(job_id))
        lease = Lease(job_id, house.attempts(job_id)[-1].number)
        protocol.release(
            house.engine,
            house.settings,
            lease,
            outcome="lost",
            reason="taken away by the test",
            charged=True,
            retry=True,
        )
        after = house.rows()
    assert said == [FENCED]
    assert house.rows() == after
    assert list((folder / str(lease.epoch) / "checkpoints").glob("*.json"))
    house.cancel(job_id)
    Reaper(house.engine, house.settings, house.blobs).tick()
    assert not folder.exists()


def test_outputs_that_do_not_load_are_refused(house: House, worker: Worker) -> None:
    job_id = house.submit(behaviour="unreadable", at=10_000_000)
    assert run_one(worker) == "failed"
    found = house.job(job_id)
    assert found.error is not None
    assert found.error["code"] == "publish_refused"
    assert "chain.json" in found.error["detail"]
    assert house.digests(job_id) == {}


def test_a_cancel_during_the_publishing_wins(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = house.submit()
    prove = publishing.prove

    def prove_and_cancel(*arguments: Any) -> None:
        prove(*arguments)
        house.cancel(job_id)

    monkeypatch.setattr(publishing, "prove", prove_and_cancel)
    assert run_one(worker) == "cancelled"
    assert house.digests(job_id) == {}


@pytest.mark.parametrize("when", ["proving", "storing"])
def test_a_drain_during_the_publishing_costs_nothing(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    job_id = house.submit()
    receive, pin = Child.receive, protocol.pin

    def drain_and_receive(child: Child, timeout: float) -> Message | None:
        message = receive(child, timeout)
        if house.job(job_id).status == "publishing":
            worker.drain.set()
        return message

    def pin_and_drain(*arguments: Any) -> None:
        pin(*arguments)
        worker.drain.set()

    with monkeypatch.context() as patch:
        if when == "proving":
            patch.setattr(Child, "receive", drain_and_receive)
        else:
            patch.setattr(protocol, "pin", pin_and_drain)
        assert run_one(worker) == "queued"
    (first,) = house.attempts(job_id)
    assert (first.outcome, first.charged) == ("drained", False)
    assert house.digests(job_id) == {}
    worker.drain.clear()
    assert run_one(worker) == "succeeded"
    check_history(house, job_id)


def test_earlier_attempts_go_once_two_checkpoints_of_its_own_are_whole(
    house: House, worker: Worker
) -> None:
    job_id = house.submit(behaviour="segfault", once=True, at=12)
    assert run_one(worker) == "queued"
    folder = house.settings.scratch_dir / job_id
    with write(house.engine) as conn:
        probe = {"steps": 10_000_000, "checkpoint_every": 5, "step_seconds": 0.01}
        spec = {**house.job(job_id).spec, "hyperparameters": probe}
        conn.execute(update(job).where(job.c.id == job_id).values(spec=spec))
    (folder / "0").mkdir()
    with attempt_running(worker):
        house.until(
            "the second attempt alone is left",
            lambda: [each.name for each in folder.iterdir()] == ["3"],
        )
        own = list((folder / "3" / "checkpoints").glob("*.json"))
        worker.drain.set()
    assert own
    assert len(list((folder / "3" / "checkpoints").glob("*.json"))) == 2


def test_a_prover_that_dies_costs_an_attempt_and_no_result(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = house.submit()
    prove = publishing.prove

    def prove_and_die(child: Child, *arguments: Any) -> None:
        os.kill(child.pid, signal.SIGKILL)
        prove(child, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "prove", prove_and_die)
        assert run_one(worker) == "queued"
    assert run_one(worker) == "succeeded"
    check_history(house, job_id)


def test_a_full_disk_is_another_attempt_and_not_the_end(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    job_id = house.submit()
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "make", full)
        assert run_one(worker) == "queued"
    assert house.attempts(job_id)[0].reason == "storage_full"
    assert run_one(worker) == "succeeded"


def test_a_busy_database_costs_progress_reports_and_not_the_attempt(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> None:
        raise DatabaseBusy

    job_id = house.submit()
    monkeypatch.setattr(protocol, "progress", busy)
    assert run_one(worker) == "succeeded"
    check_history(house, job_id)


def test_a_lease_is_kept_through_renewals_that_fail(
    house: House, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [DatabaseBusy(), OSError("the network is gone")]
    renew = protocol.renew

    def shaky(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return renew(*arguments)

    monkeypatch.setattr(protocol, "renew", shaky)
    job_id = house.submit(steps=10_000_000)
    with attempt_running(worker) as said:
        house.until("both have failed", lambda: not failures)
        worker.drain.set()
    assert said == ["queued"]
    assert house.attempts(job_id)[0].outcome == "drained"


def test_outputs_must_lie_in_the_attempt_and_have_names_of_their_own(tmp_path: Path) -> None:
    inside, outside = tmp_path / "1" / "a", tmp_path / "b"
    inside.parent.mkdir()
    inside.write_text("a")
    outside.write_text("b")

    def announced(name: str, path: Path) -> Message:
        facts = {"kind": "k", "media_type": "text/plain", "metadata": {}}
        return {"name": name, "path": str(path), **facts}

    folder = tmp_path / "1"
    (output,) = publishing.collect([announced("a", inside)], folder)
    assert output.path == inside
    for wrong in (
        [announced("b", outside)],
        [announced("c", folder / "missing")],
        [announced("a", inside), announced("a", inside)],
    ):
        with pytest.raises(PublishRefused):
            publishing.collect(wrong, folder)
