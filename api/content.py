"""Routes of artifacts: their documents, and their bytes with ranges and validators.

Owns the HTTP of content (RFC 9110, sections 13 and 14). Bytes that do not have the digest they are
stored under are never served as if they did.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Request
from starlette.responses import Response, StreamingResponse

from api.edge import Asking, AtEdge, Edge
from api.problems import responses
from api.schemas import Artifact
from service import artifacts, errors

log = logging.getLogger("rome.api")

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

# A content up to this size is checked in memory before the first byte is sent, so that damage is a
# clear error; of a larger one the last chunk is held back until the digest is known. A range of a
# larger one is not checked here: whoever puts it together has the digest in Repr-Digest.
CHECKED_FIRST_BYTES = 8 << 20

RANGE = re.compile(r"bytes=(?P<first>\d*)-(?P<last>\d*)")


@router.head("/{artifact_id}", include_in_schema=False)
@router.get(
    "/{artifact_id}",
    summary="Read an artifact's document",
    response_model=Artifact,
    responses=responses(errors.NotFound),
)
def get_artifact(artifact_id: str, edge: AtEdge, principal: Asking) -> Artifact:
    with edge.read() as conn:
        return Artifact.of(artifacts.get(conn, principal, artifact_id))


@router.head(
    "/{artifact_id}/content",
    operation_id="head_artifact_content",
    summary="What a download would bring",
    response_class=Response,
    responses=responses(errors.NotFound, errors.BlobDamaged, errors.BlobMissing),
)
@router.get(
    "/{artifact_id}/content",
    operation_id="get_artifact_content",
    summary="Download an artifact",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The whole content, checked against its digest on the way.",
            "content": {"application/octet-stream": {}},
        },
        206: {"description": "The range asked for."},
        304: {"description": "The content has the digest in If-None-Match."},
        **responses(
            errors.NotFound, errors.RangeNotSatisfiable, errors.BlobDamaged, errors.BlobMissing
        ),
    },
)
def get_content(
    artifact_id: str,
    request: Request,
    edge: AtEdge,
    principal: Asking,
    range: Annotated[
        str | None, Header(description="One range of bytes.", examples=["bytes=0-1023"])
    ] = None,
    if_range: Annotated[str | None, Header()] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """The bytes. The ETag is the SHA-256 of the whole content; a download that was interrupted goes
    on with `Range` and `If-Range`.
    """
    with edge.read() as conn:
        found = artifacts.get(conn, principal, artifact_id)
    etag = f'"{found.digest}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": _attachment(found.name),
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(found.digest)).decode()}:",
        "X-Content-Type-Options": "nosniff",
    }
    if if_none_match is not None and _any_matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    _check_size(edge, found)
    span = None
    if range is not None and (if_range is None or if_range == etag):
        span = _span(range, found.size)
    first, last = span or (0, found.size - 1)
    headers["Content-Length"] = str(last - first + 1)
    if span:
        headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    status = 206 if span else 200
    # A small content is checked whole, whatever part of it is asked for.
    whole = _whole(edge, found) if found.size <= CHECKED_FIRST_BYTES else None
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=found.media_type)
    if whole is not None:
        body = iter([whole[first : last + 1]])
    elif span:
        body = _read(edge, found, first, last)
    else:
        body = _checked(edge, found)
    return StreamingResponse(body, status_code=status, headers=headers, media_type=found.media_type)


def _check_size(edge: Edge, found: artifacts.Artifact) -> None:
    stored = edge.blobs.head(found.digest)
    if stored is None:
        raise errors.BlobMissing(f"The content of {found.id} is gone.", digest=found.digest)
    if stored != found.size:
        raise errors.BlobDamaged(
            f"The content of {found.id} has {stored:,} bytes instead of {found.size:,}.",
            digest=found.digest,
        )


def _whole(edge: Edge, found: artifacts.Artifact) -> bytes:
    data = b"".join(_read(edge, found, 0, found.size - 1))
    if hashlib.sha256(data).hexdigest() != found.digest:
        raise _damaged(found)
    return data


def _checked(edge: Edge, found: artifacts.Artifact) -> Iterator[bytes]:
    """The content, its last chunk only once everything is known to be right.

    Raising here cuts the connection short of its Content-Length, which no client takes for success.
    """
    sha256 = hashlib.sha256()
    held = b""
    for chunk in _read(edge, found, 0, found.size - 1):
        if held:
            yield held
        sha256.update(chunk)
        held = chunk
    if sha256.hexdigest() != found.digest:
        raise _damaged(found)
    yield held


def _read(edge: Edge, found: artifacts.Artifact, first: int, last: int) -> Iterator[bytes]:
    return edge.blobs.open_range(found.digest, first, last + 1)


def _damaged(found: artifacts.Artifact) -> errors.BlobDamaged:
    log.error("the blob %s of %s does not match its digest", found.digest, found.id)
    return errors.BlobDamaged(
        f"The content of {found.id} does not have the digest it is stored under.",
        digest=found.digest,
    )


def _span(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a single range; None where the header is to be ignored.

    Several ranges and unknown units may be ignored (RFC 9110, section 14.2), and are.
    """
    match = RANGE.fullmatch(header.strip())
    if match is None or not (match["first"] or match["last"]):
        return None
    if match["first"]:
        first = _at_most(size, match["first"])
        last = _at_most(size, match["last"]) if match["last"] else size
        if last < first:
            return None
    else:
        first, last = size - _at_most(size, match["last"]), size
    if first >= size:
        raise errors.RangeNotSatisfiable(f"The content has {size:,} bytes.", size=size)
    return first, min(last, size - 1)


def _at_most(size: int, digits: str) -> int:
    # Python refuses to read numbers of thousands of digits.
    return min(int(digits), size) if len(digits) <= 18 else size


def _any_matches(if_none_match: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag in tags


def _attachment(name: str) -> str:
    plain = name.encode("ascii", "replace").decode().replace('"', "_").replace("\\", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
