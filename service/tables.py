"""Every table of the service in one place, for migrations and their tests."""

from service.artifacts.tables import artifact, job_input
from service.attempts.tables import attempt, metric
from service.blobs.tables import blob, blob_pin
from service.events.tables import event
from service.jobs.tables import idempotency_key, job
from service.lanes.tables import lane
from service.projects.tables import project
from service.schema import metadata

__all__ = [
    "artifact",
    "attempt",
    "blob",
    "blob_pin",
    "event",
    "idempotency_key",
    "job",
    "job_input",
    "lane",
    "metadata",
    "metric",
    "project",
]
