"""A child process as its supervisor holds it, and the spare one that waits with torch imported.

Owns starting (in a session of its own), the two pipes, the log and the end of the whole process
group. It knows nothing of jobs, leases or the database, and must not import torch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import IO

from worker.messages import STACK_DUMP_SIGNAL, Message, encode

log = logging.getLogger(__name__)

LOG_LINE_LENGTH = 2_000
DUMP_SECONDS = 2.0
DUMP_QUIET_SECONDS = 0.2


class ChildDied(Exception):
    """The child ended without a last word. `reason` names its signal or exit status."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def child_command(runner: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "worker.child", "--runner", runner)


class Child:
    """One `python -m worker.child`. Any thread may kill it; all else belongs to one thread."""

    def __init__(self, command: Sequence[str], *, log_lines: int = 200) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._stdin: IO[bytes] = self._process.stdin
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._log: deque[str] = deque(maxlen=log_lines)
        self._logged_at = time.monotonic()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._log_reader = threading.Thread(
            target=self._read_log, args=(self._process.stderr,), daemon=True
        )
        self._log_reader.start()
        threading.Thread(
            target=self._read_messages, args=(self._process.stdout,), daemon=True
        ).start()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._ended.is_set()

    @property
    def log_tail(self) -> tuple[str, ...]:
        """The newest lines of the child's standard error, oldest first."""
        return tuple(self._log)

    def send(self, message: Message) -> None:
        """Write one line. A child that is gone is not an error here: `receive` says so."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._stdin.write(encode(message))
            self._stdin.flush()

    def receive(self, timeout: float) -> Message | None:
        """The next line, None when none came in `timeout` seconds. Raises ChildDied at the end."""
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            return None
        if message is None:
            self._messages.put(None)
            raise ChildDied(self._status())
        return message

    def dump_stacks(self) -> None:
        """Have the child write its stacks to its log, and give them a moment to arrive."""
        asked_at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, STACK_DUMP_SIGNAL)
        while self.alive and time.monotonic() - asked_at < DUMP_SECONDS:
            quiet = time.monotonic() - self._logged_at
            if self._logged_at > asked_at and quiet > DUMP_QUIET_SECONDS:
                return
            time.sleep(DUMP_QUIET_SECONDS / 4)

    def kill(self) -> None:
        """End the child and everything it started, at once."""
        with self._lock:
            if not self._ended.is_set():
                self._kill_group()
        self._ended.wait()

    def close(self, grace: float = 5.0) -> None:
        """Close the child's standard input, which ends it; kill what is left after `grace` s."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._stdin.close()
        self._ended.wait(timeout=grace)
        self.kill()
        self._log_reader.join(timeout=grace)

    def _watch(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        # The leader is a zombie, so its number is still ours: what it left behind in its group can
        # be ended now without a chance of hitting a stranger.
        with self._lock:
            self._kill_group()
            self._process.wait()
            self._ended.set()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _status(self) -> str:
        # The pipe closes a moment before the status is there.
        if not self._ended.wait(timeout=5):
            self.kill()
            return "closed its output and did not end"
        # Its last words may still be on the way.
        self._log_reader.join(timeout=1)
        status = self._process.returncode
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"ended with exit status {status}"

    def _read_messages(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                try:
                    self._messages.put(json.loads(line))
                except ValueError:
                    log.warning("child %d wrote a line that is not JSON: %r", self.pid, line[:200])
        self._messages.put(None)

    def _read_log(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._log.append(line.decode(errors="replace").rstrip()[:LOG_LINE_LENGTH])
                self._logged_at = time.monotonic()


class Spares:
    """Keeps `count` children waiting with everything imported, so that a job starts at once.

    Safe to use from several slots' threads.
    """

    def __init__(self, command: Sequence[str], *, count: int = 1, log_lines: int = 200) -> None:
        self._command = tuple(command)
        self._log_lines = log_lines
        self._count = count
        self._lock = threading.Lock()
        self._waiting: deque[Child] = deque()
        self._closed = False

    def fill(self) -> None:
        """Start what is missing; ready or not, they are waiting."""
        with self._lock:
            while not self._closed and len(self._waiting) < self._count:
                self._waiting.append(Child(self._command, log_lines=self._log_lines))

    def take(self) -> Child:
        """A child that has had no work yet: the one that waits if it is alive, else a fresh one."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the spare children have been dismissed")
            child = None
            while self._waiting and child is None:
                candidate = self._waiting.popleft()
                if candidate.alive:
                    child = candidate
                else:
                    candidate.close()
            child = child or Child(self._command, log_lines=self._log_lines)
        self.fill()
        return child

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
        for child in waiting:
            child.kill()
            child.close()
