"""A Celery consumer that finds its broker again soon after an outage, however long that was.

Owns the pauses between attempts to connect, and nothing else of Celery's consumer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer

LONGEST_PAUSE_SECONDS = 5.0
"""Celery's own pauses grow to 30 s; jobs are to start within 15 s of the broker's return."""


class SteadyConsumer(Consumer):  # type: ignore[misc]  # Celery ships no types
    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=1,
            interval_step=1,
            interval_max=LONGEST_PAUSE_SECONDS,
        )
        return super().ensure_connected(conn)
