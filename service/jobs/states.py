"""What a job may become, and by whose hand: the one place that decides what is legal.

Pure: no database, no clock. Everything that changes `job.status` asks here.
"""

from enum import StrEnum

from service.errors import IllegalTransition


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PUBLISHING = "publishing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class Cause(StrEnum):
    """Who moves a job."""

    USER = "user"
    WORKER = "worker"  # the holder of its lease, or the one that takes it
    REAPER = "reaper"  # stands in for a worker that is gone, and watches deadlines


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})
LEASED = frozenset({Status.RUNNING, Status.PUBLISHING})

_USER, _WORKER = frozenset({Cause.USER}), frozenset({Cause.WORKER})
_REAPER, _EITHER = frozenset({Cause.REAPER}), frozenset({Cause.WORKER, Cause.REAPER})

TRANSITIONS: dict[tuple[Status, Status], frozenset[Cause]] = {
    (Status.QUEUED, Status.RUNNING): _WORKER,
    (Status.QUEUED, Status.PAUSED): _USER,
    (Status.QUEUED, Status.CANCELLED): _USER,
    (Status.QUEUED, Status.EXPIRED): _REAPER,
    (Status.PAUSED, Status.QUEUED): _USER,
    (Status.PAUSED, Status.CANCELLED): _USER,
    (Status.RUNNING, Status.PUBLISHING): _WORKER,
    (Status.PUBLISHING, Status.SUCCEEDED): _WORKER,
    # Every way out of a lease but success.
    **{
        (leased, after): _EITHER
        for leased in LEASED
        for after in (
            Status.QUEUED,
            Status.PAUSED,
            Status.FAILED,
            Status.CANCELLED,
            Status.EXPIRED,
        )
    },
}


def may(before: Status, after: Status, cause: Cause) -> bool:
    return cause in TRANSITIONS.get((before, after), frozenset())


def check(before: Status, after: Status, cause: Cause) -> None:
    """Raises IllegalTransition."""
    if not may(before, after, cause):
        raise IllegalTransition(
            f"A job that is {before} cannot become {after} by the {cause}.",
            before=str(before),
            after=str(after),
        )
