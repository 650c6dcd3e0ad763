"""Checkpoints on disk: chunks named by their content, a manifest written last.

Owns the files, their order of writing, their proof on reading, and how often it is worth writing
one. Must not know what the state means: it sees a flat mapping from chunk name to plain containers
of tensors.

A checkpoint is a manifest naming chunks by SHA-256. A chunk already on disk is not written again,
so a pool of a hundred networks costs only those that changed. The manifest appears by an atomic
rename after every chunk is on disk, so a crash at any instant leaves the checkpoint before it.

What is never changed once made, such as a trained network, can be stored at once and by itself: the
state then holds where it lies, and no checkpoint after it has to hold, hash or write it again.

It also bears the identity of its run, such as the digests of spec and data: a checkpoint of another
identity is passed over, because going on from it would mix two runs into a result that is neither.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rome_core.files import link, write_atomically

FORMAT = 1
KEPT = 2  # a damaged newest checkpoint must have one before it to fall back to

State = Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """A value on disk in the place of the value itself, as part of a state."""

    path: Path
    digest: str
    size: int

    def read(self) -> Any:
        """The value. Raises OSError where it cannot be read, ValueError where it was damaged."""
        content = self.path.read_bytes()
        if _digest(content) != self.digest:
            raise ValueError(f"{self.path} does not match its digest")
        return _value(content)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back whole."""

    step: int
    state: dict[str, Any]
    circumstances: dict[str, Any]  # threads, plan, versions under which it was written
    folder: Path


class Checkpoints:
    """The checkpoints of one run: written into `folder`, read from it and from earlier attempts.

    Args:
        folder: this attempt's own; made when first written to.
        earlier: folders of earlier attempts, newest first; never written to.
        identity: what a checkpoint must agree on with this run; JSON.
    """

    def __init__(
        self,
        folder: Path,
        earlier: Sequence[Path] = (),
        *,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.earlier = tuple(earlier)
        self.identity = dict(identity or {})
        self.passed_over: list[str] = []  # what newest() could not use, and why
        self._proven: set[str] = set()  # digests this object wrote or read back whole

    def store(self, value: object) -> Stored:
        """Write a value now. The next state saved must hold what this returns, or it is dropped."""
        chunk = self._write_chunk(self.folder / "chunks", value)
        return Stored(self.folder / "chunks" / chunk["digest"], chunk["digest"], chunk["size"])

    def save(self, step: int, state: State, circumstances: Mapping[str, Any] | None = None) -> None:
        """Write the state of `step` so that it is either wholly there or not at all.

        Raises OSError (a full disk, for one) with every earlier checkpoint still intact.
        """
        chunks = self.folder / "chunks"
        listing = {
            name: {"digest": value.digest, "size": value.size, "stored": True}
            if isinstance(value, Stored)
            else self._write_chunk(chunks, value)
            for name, value in state.items()
        }
        body = {
            "format": FORMAT,
            "step": step,
            "chunks": listing,
            "identity": self.identity,
            "circumstances": dict(circumstances or {}),
        }
        sealed = {"digest": _digest(_compact(body)), "body": body}
        write_atomically(self.folder / _manifest(step), _compact(sealed))
        self._prune(step)

    def newest(self) -> Checkpoint | None:
        """This run's newest whole checkpoint, here or in an earlier attempt; None without one.

        A damaged one, or one of another run, is noted in `passed_over` and the one before it taken.
        """
        self.passed_over.clear()
        for folder in (self.folder, *self.earlier):
            for path in sorted(folder.glob("step-*.json"), reverse=True):
                try:
                    return self._read(path)
                except _Unusable as damage:
                    self.passed_over.append(f"{path.name}: {damage}")
        return None

    def _write_chunk(self, chunks: Path, value: object) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        content = buffer.getvalue()
        digest = _digest(content)
        # A file of that name from before this process may be damaged, so it is not trusted.
        if digest not in self._proven:
            write_atomically(chunks / digest, content)
            self._proven.add(digest)
        return {"digest": digest, "size": len(content)}

    def _read(self, path: Path) -> Checkpoint:
        try:
            sealed = json.loads(path.read_bytes())
            body, digest = sealed["body"], sealed["digest"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _Unusable(f"the manifest cannot be read ({error})") from error
        if digest != _digest(_compact(body)):
            raise _Unusable("the manifest does not match its digest")
        if body["format"] != FORMAT:
            raise _Unusable(f"its format is {body['format']}, this code reads {FORMAT}")
        others = _differences(self.identity, body.get("identity", {}))
        if others:
            raise _Unusable(f"it is of another run: {', '.join(others)} differed")
        state = {
            name: self._read_chunk(path.parent, name, chunk)
            for name, chunk in body["chunks"].items()
        }
        return Checkpoint(body["step"], state, body["circumstances"], path.parent)

    def _read_chunk(self, folder: Path, name: str, chunk: Mapping[str, Any]) -> Any:
        try:
            content = (folder / "chunks" / chunk["digest"]).read_bytes()
        except OSError as error:
            raise _Unusable(f"chunk {name} cannot be read ({error})") from error
        if _digest(content) != chunk["digest"]:
            raise _Unusable(f"chunk {name} does not match its digest")
        if chunk.get("stored"):
            own = self.folder / "chunks" / chunk["digest"]
            if folder != self.folder:
                link(folder / "chunks" / chunk["digest"], own)  # it outlives the earlier attempt
            self._proven.add(chunk["digest"])
            return Stored(own, chunk["digest"], len(content))
        if folder == self.folder:
            self._proven.add(chunk["digest"])
        return _value(content)

    def _prune(self, step: int) -> None:
        """Drop all but the newest manifests, then the chunks and leftovers nothing names.

        A manifest of a later step than the one just written was damaged and passed over.
        """
        manifests = sorted(self.folder.glob("step-*.json"))
        for path in manifests:
            if path.name > _manifest(step):
                path.unlink()
        manifests = [path for path in manifests if path.name <= _manifest(step)]
        for path in manifests[:-KEPT]:
            path.unlink()
        named: set[str] = set()
        for path in manifests[-KEPT:]:
            try:
                listing = json.loads(path.read_bytes())["body"]["chunks"]
            except (ValueError, KeyError, TypeError):
                continue  # damaged: its chunks serve nobody
            named.update(chunk["digest"] for chunk in listing.values())
        for path in (self.folder / "chunks").iterdir():
            if path.name not in named:
                path.unlink()
                self._proven.discard(path.name)
        for path in self.folder.glob(".*.part"):  # a crash's leftovers
            path.unlink()


class Cadence:
    """When the next checkpoint is worth its cost.

    One is due once the work since the last exceeds `minimum` seconds and the last one's cost over
    `share`, so that writing takes at most that share of the run.
    """

    def __init__(
        self,
        *,
        share: float = 0.03,
        minimum: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share, self._minimum, self._clock = share, minimum, clock
        self._cost = 0.0
        self._last = clock()

    def due(self) -> bool:
        return self._clock() - self._last >= max(self._minimum, self._cost / self._share)

    def record(self, write: Callable[[], None]) -> None:
        """Carry out a write and learn what it costs."""
        before = self._clock()
        write()
        self._last = self._clock()
        self._cost = self._last - before


class _Unusable(Exception):
    """This checkpoint cannot be used; another may."""


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def _manifest(step: int) -> str:
    return f"step-{step:09d}.json"


def _compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _value(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
