"""The child process: runs one job, or proves one set of files, and ends.

Owns the only door to torch, the JSON lines on its standard output and the end of its own process
group. It knows no database, no lease and no blob store: what it makes lies in the folder it was
given, and whether that counts is the supervisor's business. One job per process, so that memory and
device state end with it.

    python -m worker.child [--runner rome_core.runner]

A runner is a module with `Context` and `run(spec, context) -> Outcome`; see docs/architecture.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import faulthandler
import importlib
import json
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.messages import STACK_DUMP_SIGNAL, Message, encode

PROGRESS_SECONDS = 0.5
"""Shortest time between two progress lines of one phase."""


class Wire:
    """The supervisor as the child sees it: lines out, one assignment in, then the order to stop."""

    def __init__(self, *, source: int, sink: int) -> None:
        self._source = os.fdopen(source, "rb")
        self._sink = os.fdopen(sink, "wb", buffering=0)
        self._assignment: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._stop = threading.Event()
        threading.Thread(target=self._listen, name="stdin", daemon=True).start()

    def send(self, message: Message) -> None:
        try:
            self._sink.write(encode(_finite(message)))
        except BrokenPipeError:
            end_group()

    def assignment(self) -> Message:
        """Wait for the one thing this process is to do."""
        return self._assignment.get()

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def _listen(self) -> None:
        for line in self._source:
            message = json.loads(line)
            if message["type"] == "stop":
                self._stop.set()
            else:
                self._assignment.put(message)
        # The supervisor is gone. Files appear by rename only, so nothing half-written can stay
        # visible.
        end_group()


class Reporter:
    """Sends progress at most every half second and at changes of phase; never loses the last."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._sent_at = -math.inf
        self._phase: str | None = None
        self._held: Message | None = None

    def __call__(self, progress: Any) -> None:
        message = {"type": "progress", **dataclasses.asdict(progress)}
        now = time.monotonic()
        if message["phase"] != self._phase:
            self.flush()
        elif now - self._sent_at < PROGRESS_SECONDS:
            self._held = message
            return
        self._held = message
        self._phase = message["phase"]
        self._sent_at = now
        self.flush()

    def flush(self) -> None:
        if self._held is not None:
            self._wire.send(self._held)
            self._held = None


def end_group() -> None:
    """End this process at once, and with it whatever it started (compilers, loaders)."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def run(runner: Any, order: Message, wire: Wire) -> None:
    """Run one job and report how it ended; raises nothing that a job can cause."""
    report = Reporter(wire)
    threads = order["threads"]
    context = runner.Context(
        workdir=Path(order["workdir"]),
        data_root=Path(order["data_root"]),
        earlier=tuple(Path(folder) for folder in order["earlier"]),
        inputs={artifact: Path(file) for artifact, file in order["inputs"].items()},
        cache=Path(order["cache"]),
        device=_device(order["device"]),
        threads=threads,
        report=report,
        should_stop=wire.should_stop,
    )
    try:
        outcome = runner.run(order["spec"], context)
    except Exception as error:
        report.flush()
        wire.send(_ending(error))
        return
    report.flush()
    outputs = [
        {**dataclasses.asdict(output), "path": str(output.path)} for output in outcome.outputs
    ]
    wire.send(
        {
            "type": "done",
            "outputs": outputs,
            "metrics": dict(outcome.metrics),
            "provenance": dict(outcome.provenance),
        }
    )


def _device(asked: str) -> str:
    if asked != "auto":
        return asked
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def prove(order: Message, wire: Wire) -> None:
    """Load every file the way its reader will, in a process that had no part in writing it."""
    from worker.proof import Unreadable, load

    for output in order["outputs"]:
        try:
            load(Path(output["path"]), output["media_type"])
        except Unreadable as error:
            wire.send(_failed("publish_refused", f"{output['name']}: {error}", "Report it."))
            return
    wire.send({"type": "proved"})


def _ending(error: Exception) -> Message:
    """The last line of a job that did not reach its end."""
    from rome_core.errors import CoreError
    from rome_core.progress import Stopped

    if isinstance(error, Stopped):
        return {"type": "stopped"}
    if isinstance(error, CoreError):
        return _failed(error.code, error.detail, error.remedy, field=error.field)
    traceback.print_exception(error)
    if _out_of_memory(error):
        return _failed(
            "out_of_memory",
            str(error) or "The job needed more memory than there is.",
            "Use fewer images per class, a smaller batch or pool, or a machine with more memory.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failed(
            "storage_full",
            f"No space left while writing {error.filename or 'the attempt folder'}.",
            "Free space under the state folder. While it has attempts left, the job waits and goes "
            "on from its last checkpoint.",
        )
    return _failed(
        "internal_error",
        f"{type(error).__name__}: {error}",
        "This is a bug. Report it with the log of this attempt.",
    )


def _out_of_memory(error: Exception) -> bool:
    # torch raises OutOfMemoryError on a GPU, a bare RuntimeError from its CPU allocator.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )


def _failed(code: str, detail: str, remedy: str, *, field: str | None = None) -> Message:
    return {"type": "failed", "code": code, "detail": detail, "remedy": remedy, "field": field}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: a diverged loss travels as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.child", description=__doc__)
    parser.add_argument("--runner", default="rome_core.runner", help="module that runs a spec")
    arguments = parser.parse_args(argv)

    # From here on descriptor 1 is the log: whatever a library prints can't be taken for a message.
    sink = os.dup(1)
    os.dup2(2, 1)
    faulthandler.enable()
    faulthandler.register(STACK_DUMP_SIGNAL, all_threads=True)
    wire = Wire(source=os.dup(0), sink=sink)

    runner = importlib.import_module(arguments.runner)
    wire.send({"type": "ready", "pid": os.getpid()})
    order = wire.assignment()
    if order["type"] == "prove":
        prove(order, wire)
    else:
        run(runner, order, wire)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # No interpreter shutdown: nothing is left to save, and torch's threads make it slow.
    os._exit(status)
