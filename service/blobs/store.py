"""Where bytes lie: content-addressed, never changed, whole or not there at all.

Owns the port that a store must satisfy and its adapter for local files. Knows nothing of jobs or
of the database: who keeps a blob alive is decided in `service.blobs.sweep`.
"""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from service.errors import BlobDamaged, BlobMissing, StorageFull

CHUNK = 1 << 20
DIGEST = re.compile(r"[0-9a-f]{64}")
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
STALE_SECONDS = 86_400  # no honest upload takes a day


@dataclass(frozen=True, slots=True)
class Stored:
    digest: str  # SHA-256, lower-case hex
    size: int  # bytes


class BlobStore(Protocol):
    """The port. Every adapter gives the same answers and raises the same errors."""

    def put(self, source: Path | bytes | BinaryIO) -> Stored:
        """Store a copy and say its digest. Putting twice is putting once; it heals a damaged blob.

        An open file is read from its beginning. Raises StorageFull with nothing left behind.
        """
        ...

    def open_range(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to but not including `end`, in chunks. Raises BlobMissing."""
        ...

    def head(self, digest: str) -> int | None:
        """The size in bytes, or none when there is no such blob."""
        ...

    def verify(self, digest: str) -> int:
        """Read it all; its size in bytes. Raises BlobDamaged, BlobMissing."""
        ...

    def delete(self, digest: str) -> None:
        """Deleting what is not there is no error."""
        ...

    def list(self) -> Iterator[str]:
        """Every digest stored, in no order."""
        ...


class LocalBlobs:
    """`root/sha256/ab/<digest>`. A name appears only once its bytes are on the disk.

    Written to a temporary file, flushed, renamed, and the folder flushed: after a power cut there
    is the whole blob or none. What a crash leaves in `root/incoming` is cleared away later.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._incoming = root / "incoming"

    def put(self, source: Path | bytes | BinaryIO) -> Stored:
        with full_disk_told(self.root):
            self._incoming.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._incoming)
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as out:
                    stored = _copy(source, out)
                    out.flush()
                    os.fsync(out.fileno())
                self._settle(temporary, stored)
            finally:
                temporary.unlink(missing_ok=True)
        return stored

    def open_range(self, digest: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        # Looked for here, not at the first chunk: a missing blob is known before an answer begins.
        if self.head(digest) is None:
            raise BlobMissing(f"There is no blob {digest}.")
        return _chunks(self.path(digest), start, end)

    def head(self, digest: str) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def verify(self, digest: str) -> int:
        sha, size = hashlib.sha256(), 0
        for chunk in self.open_range(digest):
            sha.update(chunk)
            size += len(chunk)
        if sha.hexdigest() != digest:
            raise BlobDamaged(f"The content of {digest} has the digest {sha.hexdigest()}.")
        return size

    def delete(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def list(self) -> Iterator[str]:
        for path in self.root.glob("sha256/??/*"):
            if DIGEST.fullmatch(path.name):
                yield path.name

    def list_stale(self) -> Iterator[str]:
        """The digests whose files nobody has put for a day."""
        for digest in self.list():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - self.path(digest).stat().st_mtime >= STALE_SECONDS:
                    yield digest

    def path(self, digest: str) -> Path:
        """Where a blob lies or would lie; read it, never write it."""
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"not a SHA-256 digest: {digest!r}")
        return self.root / "sha256" / digest[:2] / digest

    def clear_incoming(self, older_than_seconds: float = STALE_SECONDS) -> int:
        """Remove what crashed uploads left behind; how many files."""
        cleared = 0
        if self._incoming.is_dir():
            for path in self._incoming.iterdir():
                try:
                    if time.time() - path.stat().st_mtime >= older_than_seconds:
                        path.unlink()
                        cleared += 1
                except FileNotFoundError:  # its upload has just ended
                    continue
        return cleared

    def _settle(self, temporary: Path, stored: Stored) -> None:
        final = self.path(stored.digest)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o444)
        # Replacing a blob by itself is harmless, and mends one whose bytes have rotted.
        temporary.replace(final)
        for folder in (final.parent, final.parent.parent, self.root):
            _sync(folder)


def _copy(source: Path | bytes | BinaryIO, out: BinaryIO) -> Stored:
    sha, size = hashlib.sha256(), 0
    for chunk in _whole(source):
        sha.update(chunk)
        out.write(chunk)
        size += len(chunk)
    return Stored(sha.hexdigest(), size)


def _whole(source: Path | bytes | BinaryIO) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
    elif isinstance(source, Path):
        yield from _chunks(source)
    else:
        source.seek(0)
        while chunk := source.read(CHUNK):
            yield chunk


def _chunks(path: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = None if end is None else max(0, end - start)
        while left is None or left > 0:
            chunk = file.read(CHUNK if left is None else min(CHUNK, left))
            if not chunk:
                return
            if left is not None:
                left -= len(chunk)
            yield chunk


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def full_disk_told(root: Path) -> Iterator[None]:
    """What a write under `root` says of a full disk becomes StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(f"{root}: {error.strerror}.") from error
        raise
