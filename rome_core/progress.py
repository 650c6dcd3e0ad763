"""What a run says about itself while it runs, and how it is told to stop.

Owns the two words every long phase shares. Must not know who listens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    # "loading", "training experts", "distilling", "training students", "testing students",
    # "attacking", "saving"
    phase: str
    step: int  # of this phase, done
    total: int  # of this phase
    scalars: Mapping[str, float] = field(default_factory=dict)  # accuracies are fractions
    eta_seconds: float | None = None  # of this phase; None while unknown
    checkpoint_step: int | None = None  # step of the newest checkpoint on disk


Report = Callable[[Progress], None]


class Stopped(Exception):
    """The run was asked to stop and has left a checkpoint wherever it can resume."""
