"""What surrounds a run and what comes of it.

Owns the contract with whoever starts runs: the worker's child and `python -m rome_core`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rome_core.distillation.checkpoints import Checkpoints
from rome_core.progress import Progress, Report


def _silent(progress: Progress) -> None:
    """Nobody listens."""


def _go_on() -> bool:
    return False


@dataclass(frozen=True)
class Context:
    """Where a run works and whom it tells.

    `workdir` is this attempt's own folder; `checkpoints/` and `results/` are made in it. `earlier`
    are workdirs of earlier attempts, newest first: a run goes on from the newest whole checkpoint
    of the newest attempt that left one, if spec and data are still those it was written for.
    `inputs` maps artifact ids to files. `should_stop` is polled once an iteration, and while
    students train or are attacked once an epoch or chunk of images; True leads to a checkpoint and
    `Stopped`. `cache` is a folder that outlives runs, for what can be made again; None for none.
    """

    workdir: Path
    data_root: Path
    earlier: tuple[Path, ...] = ()
    inputs: Mapping[str, Path] = field(default_factory=dict)
    cache: Path | None = None
    device: str = "cpu"
    threads: int | None = None
    report: Report = _silent
    should_stop: Callable[[], bool] = _go_on

    @property
    def results(self) -> Path:
        return self.workdir / "results"

    def checkpoints(self, identity: Mapping[str, Any], *, under: str = "") -> Checkpoints:
        """Those of this attempt and the earlier ones; only of a run with the same `identity`.

        `under` names a folder of their own, for work that comes before the main one.
        """
        folder = Path("checkpoints") / under
        return Checkpoints(
            self.workdir / folder,
            [earlier / folder for earlier in self.earlier],
            identity=identity,
        )


@dataclass(frozen=True)
class Output:
    """One file a run leaves in `results/`."""

    name: str
    path: Path
    kind: str
    media_type: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a run ends with: files, the numbers worth showing at once, and the provenance."""

    outputs: tuple[Output, ...]
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
