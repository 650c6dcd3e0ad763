"""What the API answers, as pydantic models: the public shape of jobs, events and artifacts.

Owns the border. Internal columns (lease, lane, rings) have no field here; times leave as RFC 3339.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from service import artifacts, clock, events
from service.jobs.repository import Job as JobRow
from service.jobs.states import Status

JOB_ID = "job_06ev0f3h9p4q2x7k5c8w1m3n4r"
ARTIFACT_ID = "art_06ev0f7m2s8d5b1q9z4k6t3v0x"
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
AT = "2026-11-23T14:17:52.123000Z"

# Stored as microseconds since the epoch; kept as an integer until it is written out.
Time = Annotated[
    int,
    PlainSerializer(clock.rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": [AT]}),
]
Json = dict[str, Any]
T = TypeVar("T")


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Listing(Answer, Generic[T]):
    """Everything there is."""

    items: list[T]


class Paged(Listing[T], Generic[T]):
    """One page; `next_cursor` goes on, and is null on the last one."""

    next_cursor: str | None = None


class Failure(Answer):
    """Why a job did not succeed; `code` is explained at /v1/errors/{code}."""

    model_config = ConfigDict(extra="allow")

    code: str
    detail: str
    remedy: str = ""


class Job(Answer):
    id: str = Field(examples=[JOB_ID])
    name: str | None = None
    kind: str = Field(examples=["distill"])
    method: str | None = Field(default=None, examples=["rome"])
    dataset: str | None = Field(default=None, examples=["cifar10"])
    status: Status
    wait_reason: str | None = Field(default=None, description="Why a queued job waits.")
    version: int = Field(description="Moves with every change but progress; the ETag.")
    priority: int
    labels: dict[str, str]
    resource_class: str
    spec: Json = Field(description="Canonical: every default and the seed filled in.")
    spec_hash: str = Field(description="SHA-256 of the canonical spec.")
    progress: Json | None = Field(
        default=None, description="Of the newest attempt; only where one job is read."
    )
    result: Json | None = Field(default=None, description="The numbers, once it succeeded.")
    provenance: Json | None = Field(
        default=None, description="Code version, hardware, digests of what was read."
    )
    error: Failure | None = None
    last_seq: int = Field(description="Number of the newest event.")
    cancel_requested_at: Time | None = None
    attempts_charged: int
    attempts_uncharged: int
    max_attempts: int
    run_at: Time
    queue_deadline: Time | None = None
    run_seconds: int | None = None
    parent_id: str | None = None
    created_by: str
    created_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None

    @classmethod
    def of(cls, row: JobRow, progress: Mapping[str, Any] | None = None) -> Self:
        job = cls.model_validate(row)
        return job.model_copy(update={"progress": dict(progress)}) if progress else job


class Event(Answer):
    seq: int = Field(description="Counts from 1 without a gap; the id of the server-sent event.")
    type: str = Field(examples=["job.progress"])
    at: Time
    attempt: int | None = None
    data: Json

    @classmethod
    def of(cls, row: events.Event) -> Self:
        return cls.model_validate(row)


class EventPage(Listing[Event]):
    """Events in order. `last_seq` is the number to ask for next: `?after=last_seq`."""

    last_seq: int


class Attempt(Answer):
    number: int = Field(description="The lease's epoch; grows, never reused.")
    owner: str
    host: str
    pid: int
    started_at: Time
    ended_at: Time | None = None
    outcome: str | None = None
    reason: str | None = None
    charged: bool | None = Field(default=None, description="Whether it counts as a failure.")
    resumed_step: int | None = None
    progress: Json | None = None
    progress_at: Time | None = None
    log_tail: list[str] | None = Field(default=None, description="Its newest log lines.")
    code_version: str | None = None


class Metric(Answer):
    attempt: int
    name: str
    step: int
    value: float
    at: Time


class Artifact(Answer):
    id: str = Field(examples=[ARTIFACT_ID])
    job_id: str | None = Field(
        description="The job that made it; null for an upload.", examples=[JOB_ID]
    )
    name: str = Field(examples=["synthetic.pt"])
    kind: str = Field(examples=["synthetic-set"])
    media_type: str = Field(examples=["application/x-pytorch"])
    size: int = Field(description="Bytes.")
    digest: str = Field(
        description="SHA-256, lower-case hex; the content's ETag.", examples=[DIGEST]
    )
    metadata: Json
    created_at: Time

    @classmethod
    def of(cls, row: artifacts.Artifact) -> Self:
        return cls.model_validate(row)


class Entry(Answer):
    """A catalogue entry; what it holds beyond its name depends on the catalogue."""

    model_config = ConfigDict(extra="allow")

    name: str


class Check(Answer):
    name: str
    ok: bool
    detail: str | None = None


class Health(Answer):
    status: str = Field(examples=["ok"])
    version: str


class Readiness(Health):
    checks: list[Check]
