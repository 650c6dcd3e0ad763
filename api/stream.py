"""The route of live events: server-sent events with resumption.

Owns the wire form. The id of a message is the event's number, so that a client which comes back
with `Last-Event-ID` misses nothing and sees nothing twice. Silence is filled with comments every
15 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.edge import Asking, AtEdge
from api.parameters import MAX_SEQ, After
from api.problems import responses
from api.schemas import Event
from service import errors
from service.jobs import service as jobs
from service.jobs.repository import Job

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

RETRY_MILLISECONDS = 1000


async def job_of(job_id: str, edge: AtEdge, principal: Asking) -> Job:
    def read() -> Job:
        with edge.read() as conn:
            return jobs.get(conn, principal, job_id)

    return await asyncio.to_thread(read)


@router.head("/{job_id}/stream", include_in_schema=False)
async def head_job_stream(job: Annotated[Job, Depends(job_of)], after: After = 0) -> Response:
    # The headers alone: the stream itself may stay open for days.
    return Response(media_type="text/event-stream")


@router.get(
    "/{job_id}/stream",
    summary="Live events of a job",
    response_class=EventSourceResponse,
    responses=responses(errors.NotFound, errors.ValidationFailed),
)
async def stream_job_events(
    job: Annotated[Job, Depends(job_of)],
    edge: AtEdge,
    after: After = 0,
    last_event_id: Annotated[
        int | None,
        Header(
            ge=0,
            le=MAX_SEQ,
            description="The same; what a browser sends when it comes back.",
        ),
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """All events after the one named, then live ones; the stream ends with the job's last event.

    The id of each message is the event's `seq`, its type the event's `type`, its data the event as
    JSON, as in `/events`.
    """
    # A number that the job has not reached can't have been seen; waiting beyond it would miss the
    # job's end.
    seq = min(after if last_event_id is None else last_event_id, job.last_seq)
    yield ServerSentEvent(retry=RETRY_MILLISECONDS)
    if job.finished and seq >= job.last_seq:
        return
    async with aclosing(edge.poller.follow(job.id, seq)) as followed:
        async for event in followed:
            yield ServerSentEvent(
                id=str(event.seq), event=event.type, raw_data=Event.of(event).model_dump_json()
            )
