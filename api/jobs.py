"""Routes of jobs: submit, read, list, cancel, and what hangs below a job."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from api import examples
from api.bodies import JsonObject
from api.edge import Asking, AtEdge, Edge
from api.parameters import After
from api.problems import responses
from api.schemas import Artifact, Attempt, EventPage, Job, Json, Listing, Metric, Paged
from api.schemas import Event as EventAnswer
from service import artifacts, attempts, errors, events
from service.attempts.service import MAX_POINTS
from service.jobs import service as jobs
from service.jobs.repository import Job as JobRow
from service.pages import MAX_LIMIT
from service.principals import Principal

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

LONGEST_WAIT_SECONDS = 60

Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]


@router.post(
    "",
    status_code=202,
    summary="Submit a job",
    response_model=Job,
    responses=responses(
        errors.MalformedRequest,
        errors.ValidationFailed,
        errors.IdempotencyConflict,
        errors.BodyTooLarge,
        errors.StorageFull,
        errors.DatabaseBusy,
    ),
    openapi_extra=examples.SUBMIT,
)
def submit_job(
    body: JsonObject,
    edge: AtEdge,
    principal: Asking,
    idempotency_key: Annotated[
        str | None,
        Header(description="The same key with the same body gives the same job, queued once."),
    ] = None,
    traceparent: Annotated[
        str | None, Header(description="W3C trace context, recorded with the job.")
    ] = None,
) -> Response:
    """Validates the spec, fills in every default and the seed, and queues the job.

    The answer is the job with its canonical spec; the same spec gives the same result again.
    """
    with edge.write() as conn:
        submission = jobs.submit(
            conn,
            principal,
            body,
            idempotency_key=idempotency_key,
            settings=edge.settings,
            traceparent=traceparent,
        )
        headers = {"Location": f"/v1/jobs/{submission.job.id}"}
        if submission.replayed:
            headers["Idempotent-Replayed"] = "true"
        # Written out before the commit: a job that could not be shown is not stored.
        return _answer(Job.of(submission.job), status=202, headers=headers)


@router.get(
    "",
    summary="List jobs, newest first",
    response_model=Paged[Job],
    responses=responses(errors.ValidationFailed, errors.InvalidCursor),
)
def list_jobs(
    edge: AtEdge,
    principal: Asking,
    status: str | None = None,
    kind: str | None = None,
    method: str | None = None,
    dataset: str | None = None,
    cursor: Cursor = None,
    limit: Annotated[int, Query(description=f"1 to {MAX_LIMIT}.")] = 50,
) -> Paged[Job]:
    asked = {"status": status, "kind": kind, "method": method, "dataset": dataset}
    filters = {name: value for name, value in asked.items() if value is not None}
    with edge.read() as conn:
        page = jobs.find(conn, principal, filters=filters, cursor=cursor, limit=limit)
    return Paged(items=[Job.of(row) for row in page.items], next_cursor=page.next_cursor)


@router.get(
    "/{job_id}",
    summary="Read a job",
    response_model=Job,
    responses={
        304: {"description": "The job is still at the version in If-None-Match."},
        **responses(errors.NotFound),
    },
)
async def get_job(
    job_id: str,
    edge: AtEdge,
    principal: Asking,
    if_none_match: Annotated[str | None, Header()] = None,
    prefer: Annotated[
        str | None,
        Header(
            description="`wait=SECONDS` holds the answer until the job has ended, or, with "
            f"If-None-Match, has changed; at most {LONGEST_WAIT_SECONDS}.",
            examples=["wait=30"],
        ),
    ] = None,
) -> Response:
    def is_news(row: JobRow) -> bool:
        return row.finished if if_none_match is None else not _matches(if_none_match, _etag(row))

    job, progress = await asyncio.to_thread(_read, edge, principal, job_id)
    seconds = _wait(prefer)
    if seconds and not job.finished and not is_news(job):
        try:
            async with (
                asyncio.timeout(seconds),
                aclosing(edge.poller.follow(job_id, job.last_seq)) as followed,
            ):
                async for event in followed:
                    if event.type != "job.progress":
                        job, progress = await asyncio.to_thread(_read, edge, principal, job_id)
                        if is_news(job):
                            break
        except TimeoutError:
            pass  # the answer is the job as it stands
    headers = {"Preference-Applied": f"wait={seconds}"} if seconds else {}
    if if_none_match is not None and _matches(if_none_match, _etag(job)):
        return Response(status_code=304, headers={"ETag": _etag(job), **headers})
    return _answer(Job.of(job, progress), headers=headers)


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a job",
    response_model=Job,
    responses=responses(errors.NotFound, errors.IllegalTransition),
)
def cancel_job(job_id: str, edge: AtEdge, principal: Asking) -> Response:
    """A waiting job is cancelled at once; a running one is asked to stop. Asking twice is once."""
    with edge.write() as conn:
        return _answer(Job.of(jobs.request_cancel(conn, principal, job_id)))


@router.get(
    "/{job_id}/events",
    summary="Events of a job",
    response_model=EventPage,
    responses=responses(errors.NotFound),
)
def list_job_events(
    job_id: str,
    edge: AtEdge,
    principal: Asking,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 500,
) -> EventPage:
    with edge.read() as conn:
        jobs.get(conn, principal, job_id)
        found = events.after(conn, principal, job_id, after, limit)
    return EventPage(
        items=[EventAnswer.of(row) for row in found], last_seq=found[-1].seq if found else after
    )


@router.get(
    "/{job_id}/attempts",
    summary="Attempts of a job",
    response_model=Listing[Attempt],
    responses=responses(errors.NotFound),
)
def list_job_attempts(job_id: str, edge: AtEdge, principal: Asking) -> Listing[Attempt]:
    """Who ran it, when, how it ended, and its newest log lines."""
    with edge.read() as conn:
        jobs.get(conn, principal, job_id)
        found = attempts.of_job(conn, principal, job_id)
    return Listing(items=[Attempt.model_validate(row) for row in found])


@router.get(
    "/{job_id}/metrics",
    summary="Metric points of a job",
    response_model=Paged[Metric],
    responses=responses(errors.NotFound, errors.ValidationFailed, errors.InvalidCursor),
)
def list_job_metrics(
    job_id: str,
    edge: AtEdge,
    principal: Asking,
    name: Annotated[str | None, Query(description="Only the series of this name.")] = None,
    cursor: Cursor = None,
    limit: Annotated[int, Query(description=f"1 to {MAX_POINTS}.")] = 1000,
) -> Paged[Metric]:
    """By name, attempt and step."""
    with edge.read() as conn:
        jobs.get(conn, principal, job_id)
        page = attempts.metrics(conn, principal, job_id, name=name, cursor=cursor, limit=limit)
    points = [Metric.model_validate(row) for row in page.items]
    return Paged(items=points, next_cursor=page.next_cursor)


@router.get(
    "/{job_id}/artifacts",
    summary="Artifacts of a job",
    response_model=Listing[Artifact],
    responses=responses(errors.NotFound),
)
def list_job_artifacts(job_id: str, edge: AtEdge, principal: Asking) -> Listing[Artifact]:
    """Nothing is listed before the job has succeeded."""
    with edge.read() as conn:
        jobs.get(conn, principal, job_id)
        found = artifacts.of_job(conn, principal, job_id)
    return Listing(items=[Artifact.of(row) for row in found])


def _read(edge: Edge, principal: Principal, job_id: str) -> tuple[JobRow, Json | None]:
    """The job, and the progress of its newest attempt."""
    with edge.read() as conn:
        job = jobs.get(conn, principal, job_id)
        tries = attempts.of_job(conn, principal, job_id) if job.started_at else []
    return job, tries[-1].progress if tries else None


def _answer(job: Job, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    sent = {"ETag": f'W/"{job.version}"', **(headers or {})}
    return Response(
        job.model_dump_json(), status_code=status, headers=sent, media_type="application/json"
    )


def _etag(job: JobRow) -> str:
    # Weak: progress moves without it.
    return f'W/"{job.version}"'


def _matches(if_none_match: str, etag: str) -> bool:
    wanted = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in wanted or etag.removeprefix("W/") in wanted


def _wait(prefer: str | None) -> int:
    for preference in (prefer or "").split(","):
        name, _, value = preference.strip().partition("=")
        digits = value.strip()
        if name.strip().lower() == "wait" and digits.isdecimal():
            # Python refuses to read numbers of thousands of digits.
            return min(int(digits[:18]), LONGEST_WAIT_SECONDS)
    return 0
