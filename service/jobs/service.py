"""What a user does to jobs: submit, read, list, cancel, pause, resume.

Runs inside the caller's transaction and never commits. A running job is changed only by asking its
worker, through the flags that `renew` brings back.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, update

from rome_core.recipes import FieldProblem
from service import clock, events, ids, pages
from service.artifacts import repository as artifacts
from service.artifacts.repository import Artifact
from service.artifacts.tables import job_input
from service.database import insert_new
from service.errors import (
    IdempotencyConflict,
    IllegalTransition,
    MalformedRequest,
    NotFound,
    ValidationFailed,
)
from service.jobs import repository, specs, states
from service.jobs.repository import FILTERS, Job
from service.jobs.specs import Input
from service.jobs.states import Cause, Status
from service.jobs.tables import idempotency_key, job
from service.lanes import queue
from service.pages import Page
from service.principals import Principal
from service.settings import Settings

SEEDS = 2**31  # drawn seeds are short enough to read aloud; given ones may be larger
MAX_KEY = 255
TRACEPARENT = re.compile(  # https://www.w3.org/TR/trace-context/#traceparent-header
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


@dataclass(frozen=True, slots=True)
class Submission:
    job: Job
    replayed: bool  # an earlier request with the same idempotency key made it


def submit(
    conn: Connection,
    principal: Principal,
    body: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    settings: Settings,
    traceparent: str | None = None,
) -> Submission:
    """Queue one job. The row is the outbox: nothing else has to happen for it to run.

    A `traceparent` that is none is ignored, as its specification asks.
    Raises ValidationFailed, MalformedRequest and IdempotencyConflict.
    """
    job_id = ids.new("job")
    if idempotency_key is not None:
        earlier = _take_key(conn, principal, idempotency_key, specs.body_hash(body), job_id)
        if earlier is not None:
            return Submission(get(conn, principal, earlier), replayed=True)
    request = specs.parse(body, seed=secrets.randbelow(SEEDS))
    read = _check_inputs(conn, principal, request.inputs)
    now = clock.now(conn)
    directions, spec = request.directions, request.spec
    deadline = directions.deadline_micros(now)
    if deadline is not None and deadline <= now:
        raise ValidationFailed(
            [FieldProblem("queue_deadline", "lies in the past", "Give a time that is to come.")]
        )
    queue.wake(conn, principal.project_id, request.resource_class)
    conn.execute(
        insert(job).values(
            id=job_id,
            project_id=principal.project_id,
            created_by=principal.subject,
            name=directions.name,
            kind=spec["kind"],
            method=spec.get("method"),
            dataset=_dataset(spec, read),
            resource_class=request.resource_class,
            priority=directions.priority,
            status=Status.QUEUED,
            wait_reason="worker",
            spec=spec,
            spec_hash=request.spec_hash,
            labels=directions.labels,
            run_at=directions.run_at_micros(now),
            queue_deadline=deadline,
            run_seconds=directions.run_seconds,
            traceparent=traceparent if TRACEPARENT.fullmatch(traceparent or "") else None,
            last_seq=1,
            max_attempts=directions.max_attempts or settings.max_attempts,
            created_at=now,
        )
    )
    for artifact_id in read:
        conn.execute(insert(job_input).values(job_id=job_id, artifact_id=artifact_id))
    events.append(conn, job_id, "job.queued", {}, seq=1, at=now)
    return Submission(get(conn, principal, job_id), replayed=False)


def get(conn: Connection, principal: Principal, job_id: str) -> Job:
    """Raises NotFound, for another project's job as well."""
    found = repository.get(conn, principal.project_id, job_id)
    if found is None:
        raise NotFound(f"There is no job {job_id}.")
    return found


def find(
    conn: Connection,
    principal: Principal,
    *,
    filters: Mapping[str, str] | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    """Newest first. Raises ValidationFailed for a filter or limit, InvalidCursor."""
    filters = dict(filters or {})
    problems = [
        FieldProblem(name, "jobs cannot be filtered by it", f"Filter by: {', '.join(FILTERS)}.")
        for name in filters
        if name not in FILTERS
    ]
    if filters.get("status", Status.QUEUED) not in list(Status):
        remedy = f"One of: {', '.join(Status)}."
        problems.append(FieldProblem("status", "there is no such status", remedy))
    problems += pages.limit_problems(limit)
    if problems:
        raise ValidationFailed(problems)
    return repository.find(conn, principal.project_id, filters, cursor, limit)


def request_cancel(conn: Connection, principal: Principal, job_id: str) -> Job:
    """A waiting job is cancelled at once; a running one is asked to stop. Asking twice is once.

    Raises NotFound, and IllegalTransition for a job that ended in another way.
    """
    found = get(conn, principal, job_id)
    if found.status is Status.CANCELLED or found.cancel_requested_at is not None:
        return found
    now = clock.now(conn)
    if found.status in states.LEASED:
        values = {"cancel_requested_at": now}
        return _change(conn, principal, found, "job.cancel_requested", now, values)
    states.check(found.status, Status.CANCELLED, Cause.USER)
    ended = {"status": Status.CANCELLED, "cancel_requested_at": now, "finished_at": now}
    return _change(conn, principal, found, "job.cancelled", now, {**ended, "wait_reason": None})


def request_pause(conn: Connection, principal: Principal, job_id: str) -> Job:
    """A queued job is paused at once; a running one checkpoints and gives up its lease."""
    found = get(conn, principal, job_id)
    if found.status is Status.PAUSED or found.pause_requested_at is not None:
        return found
    now = clock.now(conn)
    if found.status in states.LEASED:
        values = {"pause_requested_at": now}
        return _change(conn, principal, found, "job.pause_requested", now, values)
    states.check(found.status, Status.PAUSED, Cause.USER)
    paused = {"status": Status.PAUSED, "wait_reason": "paused"}
    return _change(conn, principal, found, "job.paused", now, paused)


def resume(conn: Connection, principal: Principal, job_id: str) -> Job:
    """Queue a paused job again. Raises IllegalTransition for one that is not paused."""
    found = get(conn, principal, job_id)
    states.check(found.status, Status.QUEUED, Cause.USER)
    queue.wake(conn, found.project_id, found.resource_class)
    queued = {"status": Status.QUEUED, "wait_reason": "worker", "rung_at": None}
    return _change(conn, principal, found, "job.queued", clock.now(conn), queued)


def _change(
    conn: Connection,
    principal: Principal,
    found: Job,
    event: str,
    now: int,
    values: Mapping[str, Any],
) -> Job:
    """One visible change to a job that still is as it was read; its event in the same breath."""
    row: Row[Any] | None = conn.execute(
        update(job)
        .where(
            job.c.id == found.id,
            job.c.status == found.status,
            job.c.lease_epoch == found.lease_epoch,
        )
        .values(**values, version=job.c.version + 1, last_seq=job.c.last_seq + 1)
        .returning(job.c.last_seq)
    ).one_or_none()
    if row is None:
        raise IllegalTransition(f"The job {found.id} moved on meanwhile.")
    events.append(conn, found.id, event, {}, seq=row.last_seq, at=now)
    return get(conn, principal, found.id)


def _take_key(
    conn: Connection, principal: Principal, key: str, body_hash: str, job_id: str
) -> str | None:
    """Bind the key to this job, or give the job it is already bound to."""
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise MalformedRequest(
            "The Idempotency-Key is empty, too long or not printable ASCII.",
            remedy=f"Send 1 to {MAX_KEY} printable ASCII characters; a UUID will do.",
        )
    taken = {
        "project_id": principal.project_id,
        "key": key,
        "body_hash": body_hash,
        "job_id": job_id,
        "created_at": clock.now(conn),
    }
    if insert_new(conn, idempotency_key, taken):
        return None
    earlier = repository.by_key(conn, principal.project_id, key)
    assert earlier is not None
    if earlier[0] != body_hash:
        raise IdempotencyConflict(
            f"The key belongs to the job {earlier[1]}, whose body differs.", job_id=earlier[1]
        )
    return earlier[1]


WHERE_ARTIFACTS_ARE = "GET /v1/jobs/{id}/artifacts lists a job's."
EXPECTED = {
    "synthetic set": ("a synthetic set", "of kind synthetic-set, as a distillation leaves it"),
    "weights": ("weights", "with weights, such as student-weights of an evaluation"),
    "experts": ("trained networks", "of kind experts, as a job of that kind leaves it"),
}


def _check_inputs(
    conn: Connection, principal: Principal, inputs: Sequence[Input]
) -> dict[str, Artifact]:
    """The artifacts that a job reads, by id. Raises ValidationFailed with every wrong one."""
    found: dict[str, Artifact] = {}
    problems = []
    for given in inputs:
        read = artifacts.get(conn, principal.project_id, given.artifact)
        noun, what = EXPECTED[given.role]
        if read is None:
            message = f"there is no artifact {given.artifact}"
            problems.append(FieldProblem(given.field, message, WHERE_ARTIFACTS_ARE))
        elif not given.takes(read.kind):
            message, remedy = f"is of kind {read.kind!r}, not {noun}", f"Name an artifact {what}."
            problems.append(FieldProblem(given.field, message, remedy))
        else:
            found[read.id] = read
    if problems:
        raise ValidationFailed(problems)
    return found


def _dataset(spec: Mapping[str, Any], read: Mapping[str, Artifact]) -> str | None:
    """What listings file a job under: the spec's dataset, or the one its set says it is of."""
    if spec.get("dataset") is not None:
        return str(spec["dataset"])
    named = [one.metadata.get("dataset") for one in read.values()]
    return next((name for name in named if isinstance(name, str)), None)
