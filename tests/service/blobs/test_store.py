"""Local blobs: whole or not there, whatever happens in between."""

import errno
import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.blobs import LocalBlobs
from service.errors import BlobDamaged, BlobMissing, StorageFull

CONTENT = bytes(range(256)) * 5000  # longer than one chunk
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def files(store: LocalBlobs) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_bytes_and_files_come_back_as_they_were(store: LocalBlobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    for source in (CONTENT, tmp_path / "file"):
        stored = store.put(source)
        assert (stored.digest, stored.size) == (DIGEST, len(CONTENT))
    assert b"".join(store.open_range(DIGEST)) == CONTENT
    assert (store.head(DIGEST), store.verify(DIGEST)) == (len(CONTENT), len(CONTENT))
    assert files(store) == [store.root / "sha256" / DIGEST[:2] / DIGEST]
    assert list(store.list()) == [DIGEST]
    assert (tmp_path / "file").exists()


def test_an_empty_blob_is_a_blob(store: LocalBlobs) -> None:
    stored = store.put(b"")
    assert store.verify(stored.digest) == 0
    assert b"".join(store.open_range(stored.digest)) == b""


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (5, 5), (7, None), (1 << 20, (1 << 20) + 3), (len(CONTENT) - 1, 10**9), (10**9, None)],
)
def test_a_range_is_the_slice(store: LocalBlobs, start: int, end: int | None) -> None:
    store.put(CONTENT)
    assert b"".join(store.open_range(DIGEST, start, end)) == CONTENT[start:end]


def test_what_is_not_there(store: LocalBlobs) -> None:
    assert store.head(DIGEST) is None
    store.delete(DIGEST)
    for use in (store.open_range, store.verify):
        with pytest.raises(BlobMissing):
            use(DIGEST)
    assert list(store.list()) == []


def test_only_digests_are_names(store: LocalBlobs) -> None:
    for name in ("../../etc/passwd", "", DIGEST.upper(), DIGEST + "\n"):
        with pytest.raises(ValueError):
            store.head(name)


def test_damage_is_noticed_and_healed_by_another_put(store: LocalBlobs) -> None:
    store.put(CONTENT)
    path = store.path(DIGEST)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"!")
    with pytest.raises(BlobDamaged, match=DIGEST):
        store.verify(DIGEST)
    store.put(CONTENT)
    store.verify(DIGEST)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """The kernel refuses to let a file grow further, as a full disk or quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_fills_up_leaves_nothing_behind(store: LocalBlobs) -> None:
    with pytest.raises(StorageFull), file_size_limit(1 << 16):
        store.put(CONTENT)
    assert files(store) == []
    assert store.put(CONTENT).digest == DIGEST


@pytest.mark.parametrize("step", ["mkstemp", "fsync", "replace"])
def test_no_space_at_any_step_leaves_nothing_behind(
    store: LocalBlobs, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = {"mkstemp": "service.blobs.store.tempfile", "fsync": "os", "replace": "os"}[step]
    if step == "replace":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(f"{owner}.{step}", fail)
    with pytest.raises(StorageFull, match="No space left"):
        store.put(CONTENT)
    assert files(store) == []


def test_another_failure_stays_what_it_is(store: LocalBlobs, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put(tmp_path / "missing")
    assert files(store) == []


DIES_BETWEEN_WRITE_AND_RENAME = """
import os, pathlib, signal, sys
from service.blobs import LocalBlobs
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
LocalBlobs(pathlib.Path(sys.argv[1])).put(bytes(range(256)) * 5000)
"""


def test_a_crash_in_the_middle_leaves_no_blob_and_is_cleared_away(store: LocalBlobs) -> None:
    store.put(b"sound")
    died = subprocess.run(
        [sys.executable, "-c", DIES_BETWEEN_WRITE_AND_RENAME, str(store.root)], check=False
    )
    assert died.returncode == -signal.SIGKILL
    assert store.head(DIGEST) is None
    assert len(list(store.list())) == 1
    assert len(files(store)) == 2
    assert store.clear_incoming() == 0, "an upload may still be on its way"
    assert store.clear_incoming(older_than_seconds=0) == 1
    assert len(files(store)) == 1


def test_the_name_appears_only_after_the_bytes_are_on_disk(
    store: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(handle: int) -> None:
        folder = os.path.isdir(f"/proc/self/fd/{handle}")
        seen.append(("folder" if folder else "file", store.path(DIGEST).exists()))
        real_sync(handle)

    def replace(self: Path, target: Path) -> Path:
        seen.append(("rename", store.path(DIGEST).exists()))
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    store.put(CONTENT)
    assert seen[:2] == [("file", False), ("rename", False)]
    assert set(seen[2:]) == {("folder", True)}
