"""Files that are either wholly there or not at all.

Owns the writing of results. Must not know what is in them.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file to write whose content appears at `path` when the block ends, its folder made.

    Write, fsync, rename, fsync the folder. A block that raises leaves whatever was at `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own name: two processes may make the same content at once.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`, making its folder; raises OSError with what was there before."""
    with atomically(path) as file:
        file.write(content)


def link(source: Path, path: Path) -> None:
    """Put the content of `source` at `path`, sharing its storage where the file system can.

    For files that are only ever replaced, never changed in place: a change would be seen in both.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:  # another file system, or one without links
        with source.open("rb") as content, atomically(path) as file:
            shutil.copyfileobj(content, file, 2**20)
        return
    part.replace(path)
    part.unlink(missing_ok=True)  # a rename onto a link of the same file does nothing


def trim(folder: Path, most: int) -> None:
    """Remove the files of a folder that were touched longest ago until it holds `most` bytes.

    What a crash left half written goes once it is a day old: a younger one may be under way.
    """
    files = []
    for path in folder.iterdir():
        try:
            stat = path.stat()
        except FileNotFoundError:  # another run removed it
            continue
        if path.name.endswith(".part"):
            if time.time() - stat.st_mtime > 86_400:
                path.unlink(missing_ok=True)
            continue
        files.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files, key=lambda file: file[0]):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Put readable JSON at `path`, keys in the order given. Raises ValueError for inf and nan."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
