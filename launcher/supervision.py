"""The embedded supervisor as a process of ours: started, watched, restarted, drained.

Owns the process `python -m launcher.supervisor` and the pipe on its standard input. The pipe ties
the two together: when this process ends in any way, the kernel closes it and the supervisor leaves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

log = logging.getLogger("rome.launcher")

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
# A supervisor that lived this long was healthy: the next failure starts from the first pause.
HEALTHY_SECONDS = 60.0


class Supervision:
    """Keeps one embedded supervisor alive while the context is open; drains it on leaving."""

    def __init__(self, *, drain_seconds: float = 20.0) -> None:
        self.drain_seconds = drain_seconds
        self.command = [sys.executable, "-m", "launcher.supervisor"]
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="supervision", daemon=True)

    def __enter__(self) -> Self:
        self._start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def stop(self) -> None:
        """Drain: jobs go back to the queue. What does not leave in time is killed, and so is
        everything at a KeyboardInterrupt, which goes on.
        """
        with self._lock:
            self._leaving.set()
            process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(self.drain_seconds)
        except subprocess.TimeoutExpired:
            log.warning("the supervisor did not drain in %.0f s; killing it", self.drain_seconds)
            _kill(process)
        except KeyboardInterrupt:
            _kill(process)
            raise
        finally:
            if process.stdin:
                process.stdin.close()
        self._thread.join()

    def _start(self) -> None:
        with self._lock:
            if self._leaving.is_set():
                return
            # Its own session: Ctrl-C on the terminal reaches only the launcher, which then drains.
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=sys.stderr, start_new_session=True
            )

    def _watch(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._leaving.is_set():
            process = self._process
            assert process is not None  # __enter__ starts one before this thread
            born = time.monotonic()
            status = process.wait()
            if self._leaving.is_set():
                return
            if process.stdin:
                process.stdin.close()
            if time.monotonic() - born > HEALTHY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.error("the supervisor ended (%s); starting another in %.1f s", _how(status), pause)
            if self._leaving.wait(pause):
                return
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            self._start()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _how(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
