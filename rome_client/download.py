"""Fetching one artifact to disk: resumable, verified, atomic.

Owns the partial file `.NAME.DIGEST.part` beside the target. A target never holds bytes that were
not verified.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from rome_client.errors import DamagedDownload, Problem, RomeError, ServiceUnreachable

OnBytes = Callable[[int, int], None]  # (bytes on disk, size)

TRIES = 5


def fetch(
    http: httpx2.Client,
    url: str,
    artifact: dict[str, Any],
    target: Path,
    on_bytes: OnBytes | None,
) -> Path:
    """Bring `artifact` (its document) to `target`, a file or an existing folder; return the
    file's path.
    """
    name, digest, size = artifact["name"], artifact["digest"], int(artifact["size"])
    if target.is_dir():
        target = target / Path(name).name
    wanted = digest.removeprefix("sha256:")
    if target.is_file() and target.stat().st_size == size and _sha256(target) == wanted:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{wanted[:16]}.part")

    for attempt in range(1, TRIES + 1):
        try:
            _continue(http, artifact, partial, size, on_bytes)
        except httpx2.TransportError as error:
            if attempt == TRIES:
                raise ServiceUnreachable(url, str(error) or type(error).__name__) from error
            time.sleep(0.2 * 2**attempt)
            continue
        break

    found = _sha256(partial)
    if found != wanted:
        partial.unlink()
        raise DamagedDownload(
            f"{name}: got sha256 {found}, expected {wanted}; nothing was kept",
            "try again; if it happens twice the stored file is damaged",
        )
    os.replace(partial, target)
    return target


def _continue(
    http: httpx2.Client,
    artifact: dict[str, Any],
    partial: Path,
    size: int,
    on_bytes: OnBytes | None,
) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have > size:
        partial.unlink()
        have = 0
    if have == size and partial.exists():
        return
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": f'"{artifact["digest"]}"'}
    with http.stream("GET", f"/v1/artifacts/{artifact['id']}/content", headers=headers) as response:
        if not response.is_success:
            response.read()
            raise _problem(response)
        resumed = response.status_code == httpx2.codes.PARTIAL_CONTENT
        done = have if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            # Without a chunk size: what has arrived is on disk when the connection breaks.
            for chunk in response.iter_bytes():
                file.write(chunk)
                done += len(chunk)
                if on_bytes:
                    on_bytes(done, size)
            file.flush()
            os.fsync(file.fileno())


def _problem(response: httpx2.Response) -> RomeError:
    try:
        return Problem(response.status_code, response.json())
    except ValueError:
        return RomeError(f"HTTP {response.status_code} instead of the file")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
