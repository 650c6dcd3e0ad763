"""Long work in small units: progress, checkpoints, stopping and going on.

Owns when a checkpoint is written and when a run stops; what a state holds belongs to whoever works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rome_core.distillation.checkpoints import Cadence, Checkpoints
from rome_core.progress import Progress, Report, Stopped
from rome_core.provenance import changes

PULSE_SECONDS = 0.25
"""Between two signs of life while a unit is under way."""


class Work:
    """`snapshot()` gives the state to write: a flat mapping of chunks, whole at any moment."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        report: Report,
        should_stop: Callable[[], bool],
        circumstances: Mapping[str, Any],
        snapshot: Callable[[], dict[str, Any]],
    ) -> None:
        self.notes: list[str] = []
        self._checkpoints, self._report, self._should_stop = checkpoints, report, should_stop
        self._circumstances, self._snapshot = circumstances, snapshot
        self._cadence = Cadence()
        self._units = 0  # ticks so far, in all attempts
        self._told = float("-inf")
        self.phase()

    def phase(self) -> None:
        """A new phase begins: its pace is its own."""
        self._start: tuple[float, float] | None = None
        self._eta: float | None = None
        self._checkpoint_step: int | None = None

    def resume(self) -> dict[str, Any] | None:
        """The state of an earlier attempt, if there was one."""
        found = self._checkpoints.newest()
        self.notes += [f"passed over a checkpoint: {x}" for x in self._checkpoints.passed_over]
        if found is None:
            return None
        self.notes.append(f"resumed after {found.step} units of work")
        self.notes += changes(found.circumstances, self._circumstances)
        self._units = found.step
        return found.state

    def tick(
        self,
        phase: str,
        step: int,
        total: int,
        scalars: Mapping[str, float] | None = None,
        *,
        share: float | None = None,
    ) -> None:
        """One unit of work is done: report, checkpoint if due, stop if told to.

        `share` of the phase's work is done, where its steps differ in length.
        """
        self._units += 1
        now, part = time.monotonic(), step / total if share is None else share
        if self._start is None:
            self._start = (now, part)
        began, first = self._start
        self._eta = (now - began) / (part - first) * (1 - part) if part > first else None
        self._settle(phase, step, total, scalars or {})

    def pulse(self, phase: str, step: int, total: int) -> None:
        """A unit is still under way: now and then report, checkpoint if due, stop if told to."""
        if time.monotonic() - self._told >= PULSE_SECONDS or self._should_stop():
            self._settle(phase, step, total, {})

    def _settle(self, phase: str, step: int, total: int, scalars: Mapping[str, float]) -> None:
        stop = self._should_stop()
        if stop or self._cadence.due():
            self._cadence.record(self._save)
            self._checkpoint_step = step
        self._report(Progress(phase, step, total, scalars, self._eta, self._checkpoint_step))
        self._told = time.monotonic()
        if stop:
            raise Stopped(f"stopped while {phase}, {step} of {total}")

    def _save(self) -> None:
        self._checkpoints.save(self._units, self._snapshot(), self._circumstances)
