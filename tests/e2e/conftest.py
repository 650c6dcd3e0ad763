"""`rome serve` as a real process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROME = [sys.executable, "-m", "rome_client"]
URL = re.compile(r"http://127\.0\.0\.1:\d+")


@dataclass
class Serving:
    process: subprocess.Popen[str]
    state_dir: Path
    url: str
    said: list[str]

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, read the rest of what it says, and give the exit status."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> int:
        assert self.process.stderr is not None
        self.said += self.process.stderr.readlines()
        return self.process.wait()

    def kill(self) -> None:
        """Every process of the tree at once, none of which can do anything about it."""
        while pids := processes(self.state_dir):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.end()


def environment(state_dir: Path, **more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ROME_")}
    return {**plain, "ROME_STATE_DIR": str(state_dir), "ROME_THREADS": "1", **more}


@contextlib.contextmanager
def serving(state_dir: Path, *options: str, **more: str) -> Iterator[Serving]:
    process = subprocess.Popen(
        [*ROME, "serve", "--port", "0", *options],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(state_dir, **more),
    )
    assert process.stderr is not None
    said: list[str] = []
    found = None
    try:
        while found is None:
            line = process.stderr.readline()
            assert line, f"it ended: {''.join(said)}"
            said.append(line)
            found = URL.search(line)
        yield Serving(process, state_dir, found.group(), said)
    finally:
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stderr):
            if pipe:
                pipe.close()
        process.wait()


def processes(state_dir: Path) -> list[int]:
    """Those that were started for this state folder and still live."""
    wanted = f"ROME_STATE_DIR={state_dir}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it ended while we looked, or is another user's
                continue
    return found


def rome(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ROME_")}
    return subprocess.run(
        [*ROME, *arguments], capture_output=True, text=True, env={**plain, **environ}
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One service for the tests that only use it."""
    with serving(tmp_path_factory.mktemp("state")) as served:
        yield served
