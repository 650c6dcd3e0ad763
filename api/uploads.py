"""The route of uploads: a trained network of one's own becomes an artifact.

Owns the way of the bytes to the disk. They are counted and hashed, and never opened as what they
claim to be: only the child that a job runs in does that.
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import IO, Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from api.edge import Asking, AtEdge, Edge
from api.problems import responses
from api.schemas import Artifact
from service import errors
from service.artifacts import uploads
from service.blobs.store import CHUNK, full_disk_told
from service.principals import Principal

PATH = "/v1/artifacts"

router = APIRouter(prefix=PATH, tags=["artifacts"])

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The bytes of the file, as they are.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post(
    "",
    status_code=201,
    summary="Upload a trained network",
    response_model=Artifact,
    responses=responses(
        errors.MalformedRequest,
        errors.ValidationFailed,
        errors.BodyTooLarge,
        errors.StorageFull,
        errors.DatabaseBusy,
    ),
    openapi_extra=BODY,
)
async def upload_artifact(
    request: Request,
    edge: AtEdge,
    principal: Asking,
    kind: Annotated[str, Query(description="student-weights", examples=["student-weights"])],
    name: Annotated[
        str, Query(description="What to call it: .pth, .pt or .safetensors.", examples=["mine.pth"])
    ],
) -> Response:
    """Keeps a state dict for `models`, `sources` and `targets` of jobs to name by its id.

    Whether it can be read is found out by the job that does.
    """
    try:
        uploads.media_type(kind, name)
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise errors.MalformedRequest(
                "The body is a form.", remedy="Send the file itself: curl --data-binary @FILE."
            )
    except errors.RomeError:
        # A client that is still sending would see a reset connection, and not why.
        async for _ in request.stream():
            pass
        raise
    # Without a name on the disk: whatever ends this process, nothing stays behind.
    edge.settings.state_dir.mkdir(parents=True, exist_ok=True)  # a database may lie elsewhere
    with tempfile.TemporaryFile(dir=edge.settings.state_dir) as file:
        await _receive(request, edge, file)
        made = await asyncio.to_thread(_keep, edge, principal, file, kind, name)
    return Response(
        made.model_dump_json(),
        status_code=201,
        headers={"Location": f"{PATH}/{made.id}"},
        media_type="application/json",
    )


async def _receive(request: Request, edge: Edge, file: IO[bytes]) -> None:
    """Write the body out, a large piece at a time and never in the event loop's thread.

    Raises MalformedRequest for a body that is empty or breaks off, and StorageFull.
    """

    def write(piece: bytes) -> None:
        with full_disk_told(edge.settings.state_dir):
            file.write(piece)
            file.flush()

    piece, empty = bytearray(), True
    try:
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= CHUNK:
                await asyncio.to_thread(write, bytes(piece))
                piece.clear()
                empty = False
    except ClientDisconnect as error:
        raise errors.MalformedRequest("The body broke off.", remedy="Send it again.") from error
    if empty and not piece:
        raise errors.MalformedRequest("The body is empty.", remedy="Send the file's bytes.")
    await asyncio.to_thread(write, bytes(piece))


def _keep(edge: Edge, principal: Principal, file: Any, kind: str, name: str) -> Artifact:
    stored = edge.blobs.put(file)
    with edge.write() as conn:
        made = uploads.add(conn, principal, edge.blobs, file, stored, kind=kind, name=name)
        return Artifact.of(made)
