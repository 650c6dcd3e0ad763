"""A service in a folder of its own, whose processes a test starts, kills and looks at."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from service import database, events
from service.artifacts import repository as artifacts
from service.attempts.tables import attempt
from service.blobs.store import LocalBlobs
from service.database import read, write
from service.jobs import service as jobs
from service.jobs.repository import Job
from service.jobs.tables import job
from service.principals import LOCAL
from service.settings import Settings

PATIENCE = 60.0
PROBE = "tests.chaos.probe"
FRAGILE = "tests.chaos.fragile"
PLANS = "fragile.json"
ROOT = Path(__file__).parents[2]


class House:
    """One state folder, its settings and an engine on its database."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.overrides = {
            "state_dir": folder,
            "lease_ttl_seconds": 2.0,
            "lease_renew_seconds": 0.5,
            "reaper_interval_seconds": 0.2,
            "poll_seconds": 0.05,
            "threads": 1,
            "spare_children": 1,
            "max_attempts": 10,
            "retry_seconds": 0.0,
            "runner": PROBE,
            **overrides,
        }
        self.settings = Settings(**self.overrides)
        self.engine = database.create_engine(self.settings)
        database.upgrade(self.engine)
        self.blobs = LocalBlobs(self.settings.blobs_dir)
        self._running: list[Process] = []

    def environment(self) -> dict[str, str]:
        ours = {f"ROME_{name.upper()}": str(value) for name, value in self.overrides.items()}
        return {**os.environ, **ours}

    def submit(self, body: dict[str, Any] | None = None, /, **probe: Any) -> str:
        """Queue a job: `body` as a user would, or one for the probe with these options."""
        with write(self.engine) as conn:
            asked = body or {"method": "random", "dataset": "digits", "ipc": 1, "seed": 7}
            made = jobs.submit(conn, LOCAL, asked, settings=self.settings).job
            if body is None:
                spec = {**made.spec, "hyperparameters": probe}
                conn.execute(update(job).where(job.c.id == made.id).values(spec=spec))
        return made.id

    def cancel(self, job_id: str) -> None:
        with write(self.engine) as conn:
            jobs.request_cancel(conn, LOCAL, job_id)

    def pause(self, job_id: str) -> None:
        with write(self.engine) as conn:
            jobs.request_pause(conn, LOCAL, job_id)

    def job(self, job_id: str) -> Job:
        with read(self.engine) as conn:
            return jobs.get(conn, LOCAL, job_id)

    def events(self, job_id: str) -> list[Any]:
        with read(self.engine) as conn:
            return events.after(conn, LOCAL, job_id, 0, 100_000)

    def attempts(self, job_id: str) -> list[Any]:
        with read(self.engine) as conn:
            query = select(attempt).where(attempt.c.job_id == job_id).order_by(attempt.c.number)
            return list(conn.execute(query))

    def rows(self) -> list[Any]:
        """Every row that a worker may write, for comparison."""
        with read(self.engine) as conn:
            return [conn.execute(select(table)).all() for table in (job, attempt)]

    def digests(self, job_id: str) -> dict[str, str]:
        """Name and digest of each artifact, its bytes verified."""
        with read(self.engine) as conn:
            found = artifacts.of_job(conn, LOCAL.project_id, job_id)
        for each in found:
            assert self.blobs.verify(each.digest) == each.size
        return {each.name: each.digest for each in found}

    def until(self, what: str, holds: Callable[[], Any], patience: float = PATIENCE) -> Any:
        """Look again and again until it holds; its value. Fails after `patience` seconds."""
        give_up_at = time.monotonic() + patience
        while time.monotonic() < give_up_at:
            value = holds()
            if value:
                return value
            time.sleep(0.01)
        raise AssertionError(f"not within {patience:g} s: {what}\n{self.logs()}")

    def ended(self, job_id: str, patience: float = PATIENCE) -> Job:
        self.until(f"{job_id} ends", lambda: self.job(job_id).finished, patience)
        return self.job(job_id)

    def step(self, job_id: str) -> int:
        """The last step of the newest attempt that is known to the database."""
        tries = self.attempts(job_id)
        progress = tries[-1].progress if tries else None
        return int(progress["step"]) if progress and progress["phase"] == "distilling" else 0

    def start(self, *command: str) -> Process:
        """Start a process of the service in a session of its own."""
        log = self.settings.state_dir / f"process-{len(self._running)}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                (sys.executable, "-m", *command),
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        started = Process(process, log)
        self._running.append(started)
        return started

    def start_embedded(self) -> Process:
        return self.start("worker.embedded")

    def start_service(self) -> Process:
        """`rome serve`, on any free port."""
        self.overrides["port"] = 0
        return self.start("tests.chaos.rome", "serve")

    def logs(self) -> str:
        return "\n".join(f"{p.log.name}:\n{p.log.read_text()[-4000:]}" for p in self._running)

    def close(self) -> None:
        for process in self._running:
            process.kill()
        self.engine.dispose()


@dataclass
class Process:
    """A process that was started by a test."""

    popen: subprocess.Popen[bytes]
    log: Path
    closed: bool = field(default=False)

    @property
    def pid(self) -> int:
        return self.popen.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, as a crash or an operator would; what it started must notice by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        status = self.popen.wait(PATIENCE)
        if self.popen.stdin:
            self.popen.stdin.close()
        return status

    def descendants(self) -> list[int]:
        """Pids of everything below this process, found through /proc."""
        return list(_below(self.pid))


def _below(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from _below(int(child))


def check_history(house: House, job_id: str) -> None:
    """What holds for every job that succeeded, whatever happened on the way."""
    found, history, tries = house.job(job_id), house.events(job_id), house.attempts(job_id)
    assert [event.seq for event in history] == list(range(1, found.last_seq + 1))
    types = [event.type for event in history]
    assert types[0] == "job.queued"
    assert types[-1] == "job.succeeded"
    assert types.count("job.succeeded") == 1
    # Granting and ending a lease both count, so attempts are odd and never twice the same.
    numbers = [each.number for each in tries]
    assert all(number % 2 for number in numbers)
    assert numbers == sorted(set(numbers))
    assert types.count("job.started") == len(tries)
    assert [each.outcome for each in tries].count("succeeded") == 1
    assert tries[-1].outcome == "succeeded"
    assert history[-1].attempt == numbers[-1]
    assert all(each.ended_at is not None for each in tries)
    assert found.attempts_charged == sum(each.charged for each in tries[:-1])
    assert found.attempts_charged <= found.max_attempts
    folder = house.settings.scratch_dir / job_id
    house.until("scratch is removed, a moment after the commit", lambda: not folder.exists())
