"""The loop every distillation method runs in, and the training of experts before it.

Owns when to step, evaluate, checkpoint, report and stop. Must not know what a task computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch

from rome_core.distillation.checkpoints import Cadence, Checkpoint, Checkpoints
from rome_core.progress import Progress, Report, Stopped
from rome_core.provenance import changes, circumstances
from rome_core.synthetic import SyntheticSet

PHASE = "distilling"


class Task(Protocol):
    """Long work in steps: the engine calls `step` exactly `iterations` times."""

    @property
    def iterations(self) -> int: ...

    def step(self) -> dict[str, float]:
        """Do one update. Returns scalars; "images" counts image passes done, for images/s."""

    def state_dict(self) -> dict[str, Any]:
        """All a resumed run needs: a value a checkpoint chunk, plain containers of tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Method(Task, Protocol):
    """A distillation method: a task with a synthetic set to show at any time."""

    def synthetic_set(self) -> SyntheticSet: ...


@runtime_checkable
class Circumstanced(Protocol):
    """A task whose exact numbers depend on more than its state, such as a compiled kernel."""

    @property
    def circumstances(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Evaluation:
    """When and by what iterates are judged.

    `score` judges a synthetic set (higher is better; `step` names its draws) and may raise Stopped.
    It is called before the update of every `interval`-th iteration except the first, as the
    released code does, and after the last one if that falls on the interval. `finished` is what
    `score` has found out so far about the iterate it was stopped at: the engine keeps it in the
    checkpoint, and puts it back before it calls `score` again.
    """

    score: Callable[[SyntheticSet, int], float]
    interval: int
    finished: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Distilled:
    """What a run ended with: the last iterate, or the best one where iterates were judged."""

    synthetic: SyntheticSet
    step: int  # updates made before this iterate
    scores: Mapping[int, float] = field(default_factory=dict)  # step -> score
    resumed: tuple[str, ...] = ()  # what a reader of the provenance should know about resuming
    last: SyntheticSet | None = None  # the last iterate, where another one was chosen


def carry_out(
    task: Task,
    *,
    phase: str,
    checkpoints: Checkpoints,
    report: Report,
    should_stop: Callable[[], bool],
    cadence: Cadence | None = None,
) -> tuple[str, ...]:
    """Run `task` to its end, from the newest checkpoint if there is one.

    Returns what a reader of the provenance should know about resuming. Raises Stopped, after
    writing a checkpoint, once `should_stop()` says so.
    """
    run = _Run(task, phase, checkpoints, report, cadence or Cadence())
    run.to_the_end(should_stop)
    return run.notes


def distil(
    method: Method,
    *,
    checkpoints: Checkpoints,
    report: Report,
    should_stop: Callable[[], bool],
    evaluation: Evaluation | None = None,
    cadence: Cadence | None = None,
) -> Distilled:
    """As `carry_out`, with iterates judged where there is an evaluation."""
    run = _Distillation(method, checkpoints, report, evaluation, cadence or Cadence())
    run.to_the_end(should_stop)
    return run.distilled()


class _Run:
    """One run of the loop: the counters beside the task's own state."""

    def __init__(
        self,
        task: Task,
        phase: str,
        checkpoints: Checkpoints,
        report: Report,
        cadence: Cadence,
    ) -> None:
        self.step = 0  # updates made
        self.notes: tuple[str, ...] = ()
        self._task, self._phase = task, phase
        self._checkpoints = checkpoints
        self._report = report
        self._cadence = cadence
        self._checkpoint_step: int | None = None
        self._pace = _Pace()

    def to_the_end(self, should_stop: Callable[[], bool]) -> None:
        self._resume()
        while self.step < self._task.iterations:
            if should_stop():
                self.checkpoint()
                raise Stopped(f"stopped after {self.step} of {self._task.iterations} iterations")
            self._before_step()
            self._advance()
        self._before_step()
        if self._checkpoint_step != self.step:
            self.checkpoint()

    def _resume(self) -> None:
        found = self._checkpoints.newest()
        notes = [f"passed over a checkpoint: {what}" for what in self._checkpoints.passed_over]
        scalars = {}
        if found is not None:
            self._take_over(found)
            changed = changes(found.circumstances, self._circumstances())
            notes += [f"resumed at iteration {self.step}", *changed]
            scalars["resumed_at"] = float(self.step)
            if changed:
                scalars["circumstances_changed"] = float(len(changed))
        self.notes = tuple(notes)
        self._tell(scalars)
        self._pace.pause()

    def _take_over(self, found: Checkpoint) -> None:
        state = dict(found.state)
        self._load_own(state)
        self.step = found.step
        self._task.load_state_dict(state)
        if found.folder == self._checkpoints.folder:
            self._checkpoint_step = self.step

    def _load_own(self, state: dict[str, Any]) -> None:
        """Take the loop's own chunks out of a state."""

    def _own(self) -> dict[str, Any]:
        """The loop's own chunks."""
        return {}

    def _before_step(self) -> None:
        """Called before every step and after the last."""

    def _advance(self) -> None:
        scalars = self._task.step()
        self.step += 1
        if self._cadence.due():
            self.checkpoint()
        images = scalars.pop("images", None)
        self._pace.record(images or 0.0)
        if images is not None:
            scalars["images_per_second"] = self._pace.images_per_second
        self._tell(scalars)

    def checkpoint(self) -> None:
        """Write the state of this instant, whatever the cadence says."""

        def write() -> None:
            state = self._task.state_dict() | self._own()
            self._checkpoints.save(self.step, state, self._circumstances())

        self._cadence.record(write)
        self._checkpoint_step = self.step

    def _circumstances(self) -> dict[str, Any]:
        own = self._task.circumstances if isinstance(self._task, Circumstanced) else {}
        return circumstances(**own)

    def _tell(self, scalars: Mapping[str, float]) -> None:
        total = self._task.iterations
        eta = self._pace.seconds_for(total - self.step)
        self._report(Progress(self._phase, self.step, total, scalars, eta, self._checkpoint_step))


class _Distillation(_Run):
    """A run whose iterates may be judged."""

    def __init__(
        self,
        method: Method,
        checkpoints: Checkpoints,
        report: Report,
        evaluation: Evaluation | None,
        cadence: Cadence,
    ) -> None:
        super().__init__(method, PHASE, checkpoints, report, cadence)
        self._method = method
        self._evaluation = evaluation
        self._scores: dict[int, float] = {}
        self._best: dict[str, Any] | None = None  # what the iterate with the best score learned
        self._best_step = 0

    def distilled(self) -> Distilled:
        last = self._method.synthetic_set()
        if self._best is None:
            return Distilled(last, self.step, self._scores, self.notes)
        best = replace(last, **self._best)
        beside = None if self._best_step == self.step else last
        return Distilled(best, self._best_step, self._scores, self.notes, beside)

    def _load_own(self, state: dict[str, Any]) -> None:
        own = state.pop("engine")
        best, self._best_step = state.pop("engine/best", None), own["best_step"]
        # Checkpoints of before methods learned anything else hold the images alone.
        self._best = {"images": best} if isinstance(best, torch.Tensor) else best
        self._scores = own["scores"]
        if self._evaluation is not None:
            self._evaluation.finished.update(own["finished"])

    def _own(self) -> dict[str, Any]:
        own: dict[str, Any] = {
            "engine": {
                "scores": self._scores,
                "best_step": self._best_step,
                "finished": dict(self._evaluation.finished) if self._evaluation else {},
            }
        }
        if self._best is not None:
            own["engine/best"] = self._best
        return own

    def _before_step(self) -> None:
        judge = self._evaluation
        if (
            judge is None
            or self.step == 0
            or self.step % judge.interval
            or self.step in self._scores
        ):
            return
        candidate = self._method.synthetic_set()
        try:
            score = judge.score(candidate, self.step)
        except Stopped:
            self.checkpoint()  # not judged: a resumed run judges it first of all
            raise
        if self._best is None or score > max(self._scores.values()):
            self._best, self._best_step = candidate.learned(), self.step
        self._scores[self.step] = score
        judge.finished.clear()
        self._pace.pause()
        self._tell({"score": score})


class _Pace:
    """Seconds and images a step, smoothed over about the last twenty steps."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = self._images = self._weight = 0.0
        self._mark = clock()

    def pause(self) -> None:
        """What happened since the last step was not stepping."""
        self._mark = self._clock()

    def record(self, images: float) -> None:
        now = self._clock()
        self._seconds = 0.95 * self._seconds + (now - self._mark)
        self._images = 0.95 * self._images + images
        self._weight = 0.95 * self._weight + 1
        self._mark = now

    @property
    def images_per_second(self) -> float:
        return self._images / self._seconds if self._seconds else 0.0

    def seconds_for(self, steps: int) -> float | None:
        return steps * self._seconds / self._weight if self._weight else None
