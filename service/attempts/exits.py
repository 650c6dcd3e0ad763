"""What becomes of a job whose attempt ended without publishing. Pure.

Charged attempts are the job's own failures and bounded by `max_attempts`; uncharged ones (drain,
pause, suspension) are bounded by `max_uncharged`, so that nothing runs for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service import errors
from service.attempts.leases import Outcome
from service.jobs.states import Status


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a job, what the decision depends on."""

    attempts_charged: int
    attempts_uncharged: int
    max_attempts: int
    cancel_requested: bool
    pause_requested: bool


@dataclass(frozen=True, slots=True)
class Exit:
    status: Status
    charged: int  # the job's counters afterwards
    uncharged: int
    error: Mapping[str, Any] | None


LONGEST_WAIT_SECONDS = 3600.0
FAILURES = frozenset({Outcome.FAILED, Outcome.CRASHED})
"""Ends that come at once, so that all attempts could burn on a disk that is full for a minute."""

ERRORS: dict[Outcome, type[errors.RomeError]] = {
    Outcome.CRASHED: errors.ChildCrashed,
    Outcome.STALLED: errors.Stalled,
    Outcome.LOST: errors.LeaseLost,
    Outcome.EXPIRED: errors.RunExpired,
}


def wait_seconds(outcome: Outcome, failures: int, first: float) -> float:
    """How long a job that is queued again waits, after its `failures`-th charged attempt."""
    return min(LONGEST_WAIT_SECONDS, first * 4 ** (failures - 1)) if outcome in FAILURES else 0.0


def decide(
    standing: Standing,
    outcome: Outcome,
    *,
    reason: str,
    charged: bool,
    retry: bool,
    error: Mapping[str, Any] | None,
    max_uncharged: int,
) -> Exit:
    """A cancel the user was promised comes first, then the limits, then another attempt."""
    total = standing.attempts_charged + charged
    free = standing.attempts_uncharged + (not charged)
    said = error or ERRORS.get(outcome, errors.AttemptsExhausted)(reason).as_job_error()

    def ends(status: Status, error: Mapping[str, Any] | None = None) -> Exit:
        return Exit(status, total, free, error)

    if standing.cancel_requested or outcome is Outcome.CANCELLED:
        return ends(Status.CANCELLED)
    if outcome is Outcome.EXPIRED:
        return ends(Status.EXPIRED, said)
    if not retry or total >= standing.max_attempts:
        return ends(Status.FAILED, said)
    if free > max_uncharged:
        detail = f"Interrupted {free} times without being charged; the last time: {reason}"
        return ends(Status.FAILED, errors.AttemptsExhausted(detail).as_job_error())
    if standing.pause_requested or outcome is Outcome.PAUSED:
        return ends(Status.PAUSED)
    return ends(Status.QUEUED)
