"""The supervisor loop of a service on one machine: polls, claims, runs; the only place that polls.

    python -m worker.embedded

Slots are threads of one process: a supervisor only waits, and hashing releases the interpreter, so
processes would buy nothing but more memory. One spare child and one reaper then serve all slots.
Everything heavy happens in the children.

SIGTERM or Ctrl-C drains: running jobs write a checkpoint and go back to the queue, uncharged. A
second one of the same kind ends everything at once; leases and checkpoints then do their work. When
standard input is a pipe, its end drains too and bounds the time for it, so that the loop can't
outlive the process that started it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import stat
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from service import database
from service.attempts.reaper import end_orphans
from service.blobs.store import LocalBlobs
from service.errors import RomeError, Unavailable
from service.settings import Settings, load
from worker.endings import brief
from worker.process import Spares, child_command
from worker.reaper import Reaper
from worker.supervisor import STOP_GRACE_SECONDS, Worker, here, run_one

log = logging.getLogger(__name__)


def work(worker: Worker) -> None:
    """One slot: job after job until the drain."""
    while not worker.drain.is_set():
        try:
            status = run_one(worker)
        except (Unavailable, SQLAlchemyError) as error:
            # The lease of whatever ran will run out.
            log.error("a slot could not use the database; it goes on: %s", brief(error))
            status = None
        except Exception:
            log.exception("a slot failed; it goes on")
            status = None
        if status is None:
            worker.drain.wait(worker.settings.poll_seconds)


def serve(settings: Settings, drain: threading.Event) -> None:
    """Work in all slots until `drain` is set and the last attempt has ended."""
    engine = database.create_engine(settings)
    database.check_schema(engine)
    spares = Spares(
        child_command(settings.runner),
        count=settings.spare_children,
        log_lines=settings.log_lines,
    )
    blobs = LocalBlobs(settings.blobs_dir)
    worker = Worker(engine, settings, blobs, spares, here(), drain)
    slots = [
        threading.Thread(target=work, args=(worker,), name=f"slot-{number}")
        for number in range(settings.slots)
    ]
    reaper = threading.Thread(
        target=Reaper(engine, settings, blobs).run, args=(drain,), name="reaper"
    )
    for job_id, status in end_orphans(engine, settings, worker.owner.host, alive=_alive).items():
        log.warning("%s: the process that ran it is gone, it is %s", job_id, status)
    spares.fill()
    for thread in (*slots, reaper):
        thread.start()
    # Not by waiting for `drain`: the signal handler that sets it runs in this thread and would
    # never get the event's lock if it came while this thread held it.
    for thread in (*slots, reaper):
        thread.join()
    spares.close()
    engine.dispose()


def _alive(pid: int) -> bool:
    """Whether another process of this machine has that number; this one has claimed nothing yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def drain_on_signals(drain: threading.Event) -> None:
    """Set `drain` on the first SIGTERM or SIGINT; end at once on the second of a kind.

    Counted apart, because Ctrl-C reaches the whole group and its leader then sends SIGTERM as well.
    """
    seen: Counter[int] = Counter()

    def hear(number: int, frame: FrameType | None) -> None:
        seen[number] += 1
        if seen[number] > 1:
            # The children end with this process: their standard input closes.
            os._exit(128 + number)
        drain.set()

    signal.signal(signal.SIGTERM, hear)
    signal.signal(signal.SIGINT, hear)


def drain_on_end_of_input(drain: threading.Event) -> None:
    """Tie this process to the one at the other end of its standard input, where that is a pipe."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        drain.set()
        # The grace for the child, and as much again for closing the books.
        threading.Event().wait(2 * STOP_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(
        prog="python -m worker.embedded",
        description="Run queued jobs on this machine; settings come from ROME_* variables.",
    ).parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    drain = threading.Event()
    drain_on_signals(drain)
    drain_on_end_of_input(drain)
    try:
        serve(load(), drain)
    except RomeError as error:
        print(f"{error.detail} {error.remedy}", file=sys.stderr)
        return 1
    except (OSError, SQLAlchemyError) as error:
        print(f"The service cannot work: {brief(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
