"""Files that are either wholly there or not at all.

Owns the writing of results. Must not know what is in them.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path`, making its folder; write, fsync, rename, fsync the folder.

    Raises OSError with whatever was at `path` before still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own name: two processes may make the same content at once.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Put readable JSON at `path`, keys in the order given. Raises ValueError for inf and nan."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())
