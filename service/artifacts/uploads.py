"""Files that somebody brings: trained networks, kept as artifacts that no job made.

Owns which kinds and names are taken, and the row. Nothing here opens a file as what it claims to
be: the child does, without running any code of it, when a job reads it.
"""

import re
from pathlib import PurePath
from typing import BinaryIO

from sqlalchemy import Connection, insert

from rome_core.recipes import FieldProblem
from service import clock, ids
from service.artifacts.repository import Artifact
from service.artifacts.tables import artifact
from service.blobs.store import BlobStore, Stored
from service.blobs.tables import blob
from service.database import upsert
from service.errors import ValidationFailed
from service.principals import Principal

MEDIA_TYPES = {
    "student-weights": {
        ".pt": "application/x-pytorch",
        ".pth": "application/x-pytorch",
        ".safetensors": "application/x-safetensors",
    }
}
"""What may be uploaded: kind -> suffix of the name -> media type."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")


def media_type(kind: str, name: str) -> str:
    """That of an upload, by its name. Raises ValidationFailed for what is not taken."""
    problems = []
    known = MEDIA_TYPES.get(kind)
    if known is None:
        remedy = f"One of: {', '.join(MEDIA_TYPES)}."
        problems.append(FieldProblem("kind", f"{kind!r} cannot be uploaded", remedy))
    suffixes = sorted({suffix for each in MEDIA_TYPES.values() for suffix in each})
    suffix = PurePath(name).suffix
    if not NAME.fullmatch(name) or suffix not in suffixes:
        remedy = f"Letters, digits and ._+-, at most 128, ending in {', '.join(suffixes)}."
        problems.append(FieldProblem("name", "is not the name of such a file", remedy))
    if known is None or problems:
        raise ValidationFailed(problems)
    return known[suffix]


def add(
    conn: Connection,
    principal: Principal,
    store: BlobStore,
    file: BinaryIO,
    stored: Stored,
    *,
    kind: str,
    name: str,
) -> Artifact:
    """The artifact of a file that was put into the store just now.

    Raises ValidationFailed, and StorageFull where it had to be put again.
    """
    now = clock.now(conn)
    row = {"digest": stored.digest, "size": stored.size, "state": "stored", "touched_at": now}
    upsert(conn, blob, row)
    # No pin held it until now: a sweep that had condemned equal content before may have taken it
    # since. With the row in this transaction's hands none can any more.
    if store.head(stored.digest) is None:
        store.put(file)
    made = Artifact(
        id=ids.new("art"),
        project_id=principal.project_id,
        job_id=None,
        name=name,
        kind=kind,
        media_type=media_type(kind, name),
        size=stored.size,
        digest=stored.digest,
        metadata={},
        created_at=now,
    )
    columns = {field: getattr(made, field) for field in Artifact.__dataclass_fields__}
    conn.execute(insert(artifact).values(**columns))
    return made
