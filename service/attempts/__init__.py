"""Attempts: one lease on one job, and the protocol by which workers hold it.

The API reads with `of_job` and `metrics`; workers use `service.attempts.protocol`, the reaper
`service.attempts.reaper`.
"""

from service.attempts.repository import Attempt, Point
from service.attempts.service import metrics, of_job

__all__ = ["Attempt", "Point", "metrics", "of_job"]
