"""One `rome serve` per state folder.

Owns `serve.lock`. The lock is the kernel's (flock), so it ends with the process whatever ends it;
the file's text only tells the next one who holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from service.errors import StateDirBusy, StateDirUnusable


@contextlib.contextmanager
def hold(state_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; makes the folder. Raises StateDirBusy or StateDirUnusable."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(state_dir / "serve.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StateDirUnusable(f"{state_dir}: {error.strerror}") from error
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateDirBusy(
                f"{state_dir} is in use by `rome serve` with process id {_holder(file.read())}"
            ) from error
        file.truncate()
        json.dump({"pid": os.getpid()}, file)
        file.flush()
        yield


def check_free(state_dir: Path) -> None:
    """Raises StateDirBusy where somebody holds the folder's lock; makes nothing."""
    if (state_dir / "serve.lock").exists():
        with hold(state_dir):
            pass


def _holder(text: str) -> str:
    try:
        return str(json.loads(text)["pid"])
    except (ValueError, KeyError, TypeError):
        return "unknown"  # the other one has locked, but not yet written
