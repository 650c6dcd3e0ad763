"""Jobs as Celery tasks: Celery delivers and shows them, the database decides and remembers.

    celery -A worker.celery_app worker

Owns the app, its one task and the ring. The pool process is the torch-free supervisor; it runs the
same `run_one` as the embedded loop. A delivery is only a proposal: the task claims exactly its job
while that is still queued, or ends within milliseconds. So a message may be lost, doubled or late
without harm, and the broker is asked for nothing it can't keep: early acknowledgement, no prefetch,
no results, no schedules.

The ring is level-triggered: at each tick of a worker's maintenance thread and at the end of each
task, as many jobs are proposed as this worker has free slots, each again only after
`ring_again_seconds`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from celery import Celery, signals
from celery.worker import state
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import Engine, select

from service import database
from service.attempts import protocol
from service.blobs.store import LocalBlobs
from service.errors import IllegalTransition
from service.jobs import service as jobs
from service.jobs.tables import job
from service.principals import Principal
from service.settings import Settings, load
from worker.process import Spares, child_command
from worker.reaper import Reaper
from worker.supervisor import Worker, here, run_one

log = logging.getLogger(__name__)

RING_SECONDS = 1.0
"""From a submit to its proposal at most, when a slot is free."""

DRAIN_SIGNAL = signal.SIGUSR2
"""From a worker's main process to its pool: checkpoint, and give the job back."""

BROKER_SECONDS = 2.0
"""How long a proposal waits for a broker that does not answer."""

settings = load()

app = Celery("rome", broker=settings.broker_url or "redis://127.0.0.1:6379/0")
app.conf.update(
    # The broker carries identifiers, so JSON is enough, and nothing can smuggle code in.
    accept_content=["json"],
    task_serializer="json",
    result_backend=None,
    task_ignore_result=True,
    # A message is gone once a worker has it; what was running when a worker died comes back by its
    # lease. (Late acknowledgement redelivered long tasks while they ran, and poison tasks without
    # end.)
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # One supervisor, one job. Started afresh, not forked: a fork copies threads' locks, not the
    # threads.
    worker_pool="prefork",
    worker_pool_start_method="spawn",
    worker_concurrency=1,
    worker_consumer="worker.consumer:SteadyConsumer",
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_redirect_stdouts=False,
    # One queue a resource class: workers are bound to classes by what they consume.
    task_queues={
        name: {"exchange": name, "routing_key": name} for name in settings.resource_classes
    },
    task_default_queue=settings.resource_classes[0],
    task_publish_retry=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "socket_timeout": BROKER_SECONDS,
        "socket_connect_timeout": BROKER_SECONDS,
    },
    # What Flower and other monitors live on.
    worker_send_task_events=True,
    task_send_sent_event=True,
    task_track_started=True,
)


def _run_job(job_id: str) -> str | None:
    """Run one job if it is still queued; returns what became of it, for the log."""
    process = _process()
    status = run_one(process.worker, job_id)
    if not process.worker.drain.is_set():
        process.ringer.ring(1)
    return status


run_job = app.task(_run_job, name="run_job")


class Ringer:
    """Proposes the jobs that go next. A broker that is away costs nothing but the wait for it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._away = False

    def ring(self, slots: int) -> list[str]:
        """Propose at most `slots` jobs of each resource class; returns the task ids."""
        rung: list[str] = []
        try:
            with app.connection_for_write(connect_timeout=BROKER_SECONDS) as connection:
                connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
                for resource_class in self._settings.resource_classes:
                    rung += self._ring_class(connection, resource_class, slots)
        except (OperationalError, RedisError, OSError) as error:
            if not self._away:
                log.warning("the broker is away, jobs stay queued in the database: %s", error)
            self._away = True
            return rung
        self._away = False
        return rung

    def _ring_class(self, connection: Any, resource_class: str, slots: int) -> list[str]:
        known = self._settings
        if self._away:
            # What was proposed before may have gone down with the broker: propose it again.
            known = known.model_copy(update={"ring_again_seconds": 0.0})
        heads = protocol.heads(self._engine, known, resource_class, slots)
        if not heads:
            return []
        # Marked first: a crash in between delays a job by `ring_again_seconds`; the other order
        # could propose it without end.
        counts = protocol.mark_rung(self._engine, heads)
        rung = []
        for job_id, count in counts.items():
            task_id = f"{job_id}.{count}"
            run_job.apply_async(
                (job_id,), task_id=task_id, queue=resource_class, connection=connection
            )
            rung.append(task_id)
        return rung


@dataclass(frozen=True)
class PoolProcess:
    """What the pool process keeps from task to task."""

    worker: Worker
    ringer: Ringer


@lru_cache(maxsize=1)
def _process() -> PoolProcess:
    engine = database.create_engine(settings)
    spares = Spares(
        child_command(settings.runner),
        count=settings.spare_children,
        log_lines=settings.log_lines,
    )
    blobs = LocalBlobs(settings.blobs_dir)
    worker = Worker(engine, settings, blobs, spares, here(), threading.Event())
    return PoolProcess(worker, Ringer(engine, settings))


def _begin_pool_process(**_: Any) -> None:
    process = _process()
    # SIGTERM keeps Celery's meaning, the end of this process; children end with it.
    signal.signal(DRAIN_SIGNAL, lambda *_: process.worker.drain.set())
    process.worker.spares.fill()


def _end_pool_process(**_: Any) -> None:
    _process().worker.spares.close()


class Maintenance:
    """The thread of a worker's main process that rings for its free slots and reaps."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._stop = threading.Event()
        self.engine = database.create_engine(settings)
        self._ringer = Ringer(self.engine, settings)
        reaper = Reaper(self.engine, settings, LocalBlobs(settings.blobs_dir))
        self._threads = (
            threading.Thread(target=reaper.run, args=(self._stop,), name="reaper", daemon=True),
            threading.Thread(target=self._ring, name="ring", daemon=True),
        )

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def drain(self) -> None:
        """Stop proposing; the pool's attempts write a checkpoint and give up their leases."""
        self._stop.set()
        for pid in self._consumer.pool.info["processes"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, DRAIN_SIGNAL)

    def _ring(self) -> None:
        while not self._stop.wait(RING_SECONDS):
            try:
                free = self._consumer.pool.num_processes - len(state.reserved_requests)
                if free > 0:
                    self._ringer.ring(free)
            except Exception:
                log.exception("the ring failed; it tries again in a moment")


_maintenance: list[Maintenance] = []


def _begin_maintenance(sender: Any, **_: Any) -> None:
    maintenance = Maintenance(sender)
    _maintenance.append(maintenance)
    maintenance.start()


def _drain(**_: Any) -> None:
    for maintenance in _maintenance:
        maintenance.drain()


def _cancel_revoked(request: Any, **_: Any) -> None:
    """To revoke a task is to cancel its job; otherwise the ring would propose it again."""
    job_id = request.args[0]
    with database.write(_maintenance[0].engine) as conn:
        project_id = conn.scalar(select(job.c.project_id).where(job.c.id == job_id))
        if project_id is not None:
            with contextlib.suppress(IllegalTransition):
                jobs.request_cancel(conn, Principal(project_id, "celery"), job_id)


signals.worker_process_init.connect(_begin_pool_process)
signals.worker_process_shutdown.connect(_end_pool_process)
signals.worker_ready.connect(_begin_maintenance)
signals.worker_shutting_down.connect(_drain)
signals.task_revoked.connect(_cancel_revoked)
