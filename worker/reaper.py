"""The tick that looks after what workers left: lost leases, missed deadlines, idle blobs, scratch.

Owns when to look; what becomes of a job is decided in `service.attempts`. Any number of reapers do
no harm beside each other: each of their changes is fenced.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from service.attempts.reaper import reap
from service.blobs.store import LocalBlobs
from service.blobs.sweep import condemn_strays, sweep
from service.clock import SECOND
from service.database import read
from service.errors import Unavailable
from service.jobs.states import TERMINAL
from service.jobs.tables import job
from service.settings import Settings
from worker import scratch
from worker.endings import brief

STRAYS_SECONDS = 3600.0

log = logging.getLogger(__name__)


class Reaper:
    """Looks every `reaper_interval_seconds`."""

    def __init__(self, engine: Engine, settings: Settings, blobs: LocalBlobs) -> None:
        self._engine = engine
        self._settings = settings
        self._blobs = blobs
        self._looked_at: int | None = None
        self._strays_at: int | None = None

    def tick(self) -> None:
        report = reap(self._engine, self._settings, last_tick=self._looked_at)
        self._looked_at = report.at
        if report.skipped:
            log.warning("this host slept; workers get one more tick to renew their leases")
            return
        for job_id, status in report.ended.items():
            log.warning("%s: its lease ran out, it is %s", job_id, status)
        if self._strays_at is None or report.at - self._strays_at > STRAYS_SECONDS * SECOND:
            condemn_strays(self._engine, self._blobs)  # reads all names, so not at every tick
            self._strays_at = report.at
        sweep(self._engine, self._settings, self._blobs)
        self._blobs.clear_incoming()
        for job_id in scratch.sweep(self._settings.scratch_dir, self._ended):
            log.info("%s: removed what was left in its scratch folder", job_id)

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop` is set; an error costs one tick, not the reaper."""
        while not stop.is_set():
            try:
                self.tick()
            except (Unavailable, SQLAlchemyError) as error:
                log.error("the reaper tries again at its next tick: %s", brief(error))
            except Exception:
                log.exception("the reaper failed; it tries again at its next tick")
            stop.wait(self._settings.reaper_interval_seconds)

    def _ended(self, job_ids: Iterable[str]) -> Iterable[str]:
        with read(self._engine) as conn:
            ended = select(job.c.id).where(job.c.id.in_(list(job_ids)), job.c.status.in_(TERMINAL))
            return conn.scalars(ended).all()
