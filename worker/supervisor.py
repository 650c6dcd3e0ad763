"""One job from claim to publish, by a process that never imports torch.

Owns the attempt: its folder, its child, the renewal of its lease, and which ending it gets. What an
ending means for the job (again or failed, charged or not) is decided in `service.attempts`. Nothing
a job does can raise from here; a database that can't be reached does, and then the lease runs out
and the job is taken up again.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from service.attempts import protocol
from service.attempts.leases import Claim, Lease, Orders, Owner
from service.blobs.store import LocalBlobs
from service.errors import (
    BlobDamaged,
    BlobMissing,
    CancelWon,
    ChildCrashed,
    Fenced,
    InternalError,
    PublishRefused,
    RunExpired,
    Stalled,
    StorageFull,
    Unavailable,
)
from service.jobs.states import TERMINAL
from service.settings import Settings
from worker import publishing, scratch
from worker.endings import CANCELLED, STOPPED, Ending, brief, failed, failed_in_child
from worker.messages import Message
from worker.process import Child, ChildDied, Spares

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
"""How often flags are looked at while the child says nothing."""

STOP_GRACE_SECONDS = 15.0
"""From an order to stop to the kill: an iteration and a checkpoint of a full pool on most machines.

Where it is too short, the attempt ends the same way and the job goes on from an older checkpoint.
"""

FENCED = "fenced"
"""What `run_one` returns when the lease was lost on the way."""


@dataclass(frozen=True)
class Worker:
    """What all attempts of one process share."""

    engine: Engine
    settings: Settings
    blobs: LocalBlobs
    spares: Spares
    owner: Owner
    drain: threading.Event


def here() -> Owner:
    """The owner that this process signs its leases with."""
    host, pid = socket.gethostname(), os.getpid()
    return Owner(name=f"{host}:{pid}", host=host, pid=pid)


def run_one(worker: Worker, job_id: str | None = None) -> str | None:
    """Claim a job (this one, or the head of a lane) and see its attempt to the end.

    Returns None when there was nothing to claim, FENCED when the lease was lost on the way, else
    the status that the job has now.
    """
    if worker.drain.is_set():
        return None
    claim = protocol.claim(
        worker.engine,
        worker.settings,
        owner=worker.owner,
        resource_classes=worker.settings.resource_classes,
        job_id=job_id,
    )
    return None if claim is None else Attempt(worker, claim).run()


class Drained(Exception):
    """The worker is going away while an attempt publishes."""


class Heartbeat:
    """Renews a lease from a thread of its own, so that neither training nor hashing can lose it.

    `orders` is what the last renewal or progress report brought back. When a renewal finds the
    lease gone, `fenced` is set and `on_fenced` is called from this thread, once.
    """

    def __init__(self, worker: Worker, lease: Lease, on_fenced: Callable[[], None]) -> None:
        self._worker = worker
        self._lease = lease
        self._on_fenced = on_fenced
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self.orders: Orders | None = None
        self.fenced = threading.Event()

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        settings = self._worker.settings
        while not self._done.wait(settings.lease_renew_seconds):
            try:
                self.orders = protocol.renew(self._worker.engine, settings, self._lease)
            except Fenced:
                self.fenced.set()
                self._on_fenced()
                return
            except Exception as error:
                # The database may be back before the lease is over; until it says otherwise, work
                # goes on.
                log.warning("%s: lease not renewed: %s", self._lease.job_id, brief(error))


class Watchdog:
    """Counts the time without a sign of life, but not gaps in which this process slept itself."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._silence = 0.0
        self._looked_at = time.monotonic()

    def feed(self) -> None:
        self._silence = 0.0

    def starved(self) -> bool:
        now = time.monotonic()
        # A longer gap was a stopped process or a sleeping host: the child had no chance to speak,
        # or be heard.
        self._silence += min(now - self._looked_at, 4 * TICK_SECONDS)
        self._looked_at = now
        return self._silence > self._limit


class Attempt:
    """One claim's life. Made by `run_one`, used once."""

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker = worker
        self._engine = worker.engine
        self._settings = worker.settings
        self._claim = claim
        self._lease = claim.lease
        self._folder = scratch.attempt_folder(
            worker.settings.scratch_dir, claim.lease.job_id, claim.lease.epoch
        )
        self._heartbeat = Heartbeat(worker, claim.lease, self._kill)
        self._child: Child | None = None
        self._log: list[str] = []
        self._stop_reason: str | None = None
        self._kill_at = float("inf")
        self._checkpoint: int | None = None
        self._checkpoints = 0

    def run(self) -> str:
        log.info("%s: attempt %d begins", self._lease.job_id, self._lease.epoch)
        with self._heartbeat:
            try:
                status = self._run()
            except Fenced:
                status = FENCED
            finally:
                self._dismiss()
        if status in TERMINAL:
            scratch.remove_job(self._settings.scratch_dir, self._lease.job_id)
        log.info("%s: attempt %d ends: %s", self._lease.job_id, self._lease.epoch, status)
        return status

    def _run(self) -> str:
        try:
            ending = self._compute()
            if not isinstance(ending, Ending):
                self._publish(ending)
                return "succeeded"
        except Fenced:
            raise
        except CancelWon:
            ending = CANCELLED
        except Drained:
            ending = STOPPED["drain"]
        except ChildDied as death:
            ending = self._death(death)
        except (PublishRefused, BlobDamaged, BlobMissing) as refusal:
            ending = failed(refusal)
        except Exception as error:
            ending = self._trouble(error)
        return self._release(ending)

    def _compute(self) -> Ending | Message:
        """Run the child to its last line: its `done`, or how the attempt ends without one."""
        scratch.make(self._folder)
        child = self._child = self._worker.spares.take()
        watchdog = Watchdog(self._settings.stall_seconds)
        while True:
            message = child.receive(TICK_SECONDS)
            if self._heartbeat.fenced.is_set():
                raise Fenced
            if message is not None:
                watchdog.feed()
                ending = self._hear(child, message)
                if ending is not None:
                    return ending
            orders = self._heartbeat.orders
            if orders is not None and orders.expired:
                return Ending(
                    "expired", "run_seconds are used up", error=RunExpired().as_job_error()
                )
            self._pass_on_stop(child)
            if watchdog.starved():
                child.dump_stacks()
                silent = f"no progress for {self._settings.stall_seconds:g} s"
                return Ending(
                    "stalled", silent, charged=True, retry=True, error=Stalled().as_job_error()
                )

    def _hear(self, child: Child, message: Message) -> Ending | Message | None:
        match message.pop("type"):
            case "ready":
                child.send(self._order())
            case "progress":
                self._relay(message)
                self._count_checkpoint(message["checkpoint_step"])
            case "done":
                return message
            case "stopped":
                return STOPPED.get(self._stop_reason or "") or failed(
                    InternalError("The child stopped without being asked to.")
                )
            case "failed":
                return failed_in_child(message)
            case other:
                log.warning("%s: the child said %r", self._lease.job_id, other)
        return None

    def _order(self) -> Message:
        """Raises BlobDamaged and BlobMissing: the child may trust what it is given."""
        inputs = self._claim.inputs.items()
        for _, digest in inputs:
            self._worker.blobs.verify(digest)
        return {
            "type": "run",
            "job_id": self._lease.job_id,
            "attempt": self._lease.epoch,
            "spec": dict(self._claim.spec),
            "workdir": str(self._folder),
            "earlier": [str(folder) for folder in scratch.earlier(self._folder)],
            "data_root": str(self._settings.data_root),
            "inputs": {
                artifact: str(self._worker.blobs.path(digest)) for artifact, digest in inputs
            },
            "cache": str(self._settings.cache_dir),
            "device": self._settings.device,
            "threads": self._settings.threads,
        }

    def _relay(self, payload: Message) -> None:
        # What JSON could not carry travelled as null.
        scalars = {k: math.nan if v is None else v for k, v in payload["scalars"].items()}
        payload = {**payload, "scalars": scalars}
        try:
            self._heartbeat.orders = protocol.progress(
                self._engine, self._settings, self._lease, payload
            )
        except (Unavailable, SQLAlchemyError) as error:
            # The next one will do; the lease has a thread of its own.
            log.warning("%s: a progress report was dropped: %s", self._lease.job_id, error)

    def _count_checkpoint(self, step: int | None) -> None:
        """Let earlier attempts' folders go once nobody can need them to go on from.

        The first step told may be that of the checkpoint it resumed from, so the third is the
        second of its own; as many as the core keeps for the case that the newest is damaged.
        """
        if step is None or step == self._checkpoint:
            return
        self._checkpoint = step
        self._checkpoints += 1
        if self._checkpoints == 3:
            scratch.remove_earlier(self._folder)

    def _pass_on_stop(self, child: Child) -> None:
        orders = self._heartbeat.orders
        if orders is not None and orders.cancel:
            reason = "cancel"
        elif orders is not None and orders.pause:
            reason = "pause"
        elif self._worker.drain.is_set():
            reason = "drain"
        else:
            return
        if self._stop_reason is None:
            log.info("%s: the child is told to stop: %s", self._lease.job_id, reason)
            child.send({"type": "stop", "reason": reason})
            self._kill_at = time.monotonic() + STOP_GRACE_SECONDS
        # A cancel that comes while a drain is under way still decides how the attempt ends.
        self._stop_reason = reason
        if time.monotonic() > self._kill_at:
            child.kill()

    def _publish(self, done: Message) -> None:
        protocol.begin_publishing(self._engine, self._lease)
        self._dismiss()
        outputs = publishing.collect(done["outputs"], self._folder)
        self._child = self._worker.spares.take()
        publishing.prove(self._child, outputs, self._go_on)
        self._dismiss()
        published = publishing.store(
            self._engine, self._worker.blobs, self._lease, outputs, self._go_on
        )
        protocol.publish(
            self._engine,
            self._lease,
            outputs=published,
            result=done["metrics"],
            provenance=done["provenance"],
        )

    def _go_on(self) -> None:
        """Between the steps of publishing. Raises Fenced, CancelWon and Drained."""
        orders = self._heartbeat.orders
        if self._heartbeat.fenced.is_set():
            raise Fenced
        if orders is not None and orders.cancel:
            raise CancelWon
        if self._worker.drain.is_set():
            raise Drained

    def _release(self, ending: Ending) -> str:
        self._dismiss()
        return protocol.release(
            self._engine,
            self._settings,
            self._lease,
            outcome=ending.outcome,
            reason=ending.reason,
            charged=ending.charged,
            error=ending.error,
            log_tail=self._log[-self._settings.log_lines :],
            retry=ending.retry,
        )

    def _death(self, death: ChildDied) -> Ending:
        if self._heartbeat.fenced.is_set():
            raise Fenced
        if self._stop_reason is not None:
            return STOPPED[self._stop_reason]
        error = ChildCrashed(f"The child process was {death.reason}.")
        return Ending("crashed", death.reason, charged=True, retry=True, error=error.as_job_error())

    def _trouble(self, error: Exception) -> Ending:
        """What to make of an error of the supervisor's own."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, StorageFull):
            return failed(StorageFull(str(error)), retry=True)
        if isinstance(error, (Unavailable, SQLAlchemyError)):
            log.error("%s: the database fails: %s", self._lease.job_id, brief(error))
        else:
            log.exception("%s: the supervisor failed", self._lease.job_id)
        return failed(InternalError(f"{type(error).__name__}: {error}"), retry=True)

    def _dismiss(self) -> None:
        """End the current child, whatever it does, and keep its log."""
        if self._child is not None:
            self._child.kill()
            self._child.close()
            self._log.extend(self._child.log_tail)
            self._child = None

    def _kill(self) -> None:
        child = self._child
        if child is not None:
            child.kill()
