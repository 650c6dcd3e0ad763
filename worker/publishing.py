"""The way of finished files into the blob store: look, load in a clean process, hash, pin, put.

Owns the order of these steps. Nothing here is visible to anyone: that is the one transaction that
follows.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from service.attempts import protocol
from service.attempts.leases import Lease, Published
from service.blobs.store import CHUNK, BlobStore, Stored
from service.errors import PublishRefused
from worker.messages import Message
from worker.process import Child

PROOF_SECONDS = 300.0
"""Longer than loading the largest set takes from a slow disk."""

TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Output:
    """A finished file as the child announced it."""

    name: str
    path: Path
    kind: str
    media_type: str
    metadata: Mapping[str, Any]


def collect(announced: Sequence[Message], folder: Path) -> list[Output]:
    """The announced files, each of its own name and inside the attempt's folder.

    Raises PublishRefused.
    """
    outputs = [Output(**{**output, "path": Path(output["path"])}) for output in announced]
    names = [output.name for output in outputs]
    if len(set(names)) != len(names):
        raise PublishRefused(f"Two outputs share a name: {', '.join(sorted(names))}.")
    for output in outputs:
        if not output.path.resolve().is_relative_to(folder.resolve()):
            raise PublishRefused(f"{output.name} does not lie in the attempt's folder.")
        if not output.path.is_file():
            raise PublishRefused(f"{output.name} is missing.")
    return outputs


def prove(child: Child, outputs: Sequence[Output], go_on: Callable[[], None]) -> None:
    """Have a child that had no part in writing them load the files.

    Raises PublishRefused, ChildDied and what `go_on` raises to stop it.
    """
    files = [
        {"name": output.name, "path": str(output.path), "media_type": output.media_type}
        for output in outputs
    ]
    child.send({"type": "prove", "outputs": files})
    give_up_at = time.monotonic() + PROOF_SECONDS
    while time.monotonic() < give_up_at:
        message = child.receive(TICK_SECONDS)
        go_on()
        if message is not None and message["type"] == "proved":
            return
        if message is not None and message["type"] == "failed":
            raise PublishRefused(message["detail"])
    raise PublishRefused(f"The outputs could not be loaded within {PROOF_SECONDS:g} s.")


def store(
    engine: Engine,
    blobs: BlobStore,
    lease: Lease,
    outputs: Sequence[Output],
    go_on: Callable[[], None],
) -> list[Published]:
    """Put the files into the blob store, each pinned before.

    Raises PublishRefused, Fenced, StorageFull and what `go_on` raises to stop it.
    """
    published = []
    for output in outputs:
        announced = _measure(output.path)
        protocol.pin(engine, lease, announced.digest, announced.size)
        if blobs.put(output.path) != announced:
            raise PublishRefused(f"{output.name} changed while it was stored.")
        published.append(
            Published(
                name=output.name,
                kind=output.kind,
                media_type=output.media_type,
                size=announced.size,
                digest=announced.digest,
                metadata=output.metadata,
            )
        )
        go_on()
    return published


def _measure(path: Path) -> Stored:
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            size += len(chunk)
    return Stored(sha.hexdigest(), size)
