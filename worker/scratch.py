"""The scratch folders: one per job, in it one per attempt, named by the attempt's epoch.

Owns who may delete what: an attempt with checkpoints of its own the folders before it, the attempt
that ended the job all of the job's, the sweep those of jobs that have ended. A fenced attempt
deletes nothing: its folder may hold the job's newest checkpoint. Must not look inside an attempt's
folder: that is the core's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path


def attempt_folder(scratch: Path, job_id: str, epoch: int) -> Path:
    return scratch / job_id / str(epoch)


def make(folder: Path) -> None:
    """Make an attempt's folder. Raises OSError, among others where the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)


def earlier(folder: Path) -> tuple[Path, ...]:
    """Folders of the same job's earlier attempts that still exist, newest first."""
    epoch = int(folder.name)
    others = [int(other.name) for other in folder.parent.iterdir() if other.name.isdigit()]
    return tuple(
        folder.parent / str(other) for other in sorted(others, reverse=True) if other < epoch
    )


def remove_earlier(folder: Path) -> None:
    """Remove the folders of the attempts before this one."""
    for other in earlier(folder):
        shutil.rmtree(other, ignore_errors=True)


def remove_job(scratch: Path, job_id: str) -> None:
    shutil.rmtree(scratch / job_id, ignore_errors=True)


def sweep(scratch: Path, ended: Callable[[Iterable[str]], Iterable[str]]) -> list[str]:
    """Remove the folders of those jobs that `ended` picks out; returns their ids."""
    if not scratch.is_dir():
        return []
    gone = sorted(ended([folder.name for folder in scratch.iterdir()]))
    for job_id in gone:
        remove_job(scratch, job_id)
    return gone
