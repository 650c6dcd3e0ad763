"""What passes between a worker and the lease protocol, as plain immutable data."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lease, for people to read; the epoch alone decides what it may write."""

    name: str
    host: str
    pid: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one job, until the epoch moves on."""

    job_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease just granted, and all a worker needs to run the job."""

    lease: Lease
    spec: Mapping[str, Any]
    inputs: Mapping[str, str]  # artifact id -> digest


@dataclass(frozen=True, slots=True)
class Orders:
    """What `renew` and `progress` bring back."""

    cancel: bool
    pause: bool
    expired: bool  # `run_seconds` is used up


@dataclass(frozen=True, slots=True)
class Published:
    """One output that lies in the blob store under its digest."""

    name: str
    kind: str
    media_type: str
    size: int  # bytes
    digest: str  # SHA-256, lower-case hex
    metadata: Mapping[str, Any]


class Outcome(StrEnum):
    """How an attempt ended without publishing (or with it: `succeeded`)."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the core said so
    CRASHED = "crashed"  # the child died
    STALLED = "stalled"  # the watchdog killed it
    LOST = "lost"  # the lease ran out
    DRAINED = "drained"  # the worker is going away
    PAUSED = "paused"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # `run_seconds`
