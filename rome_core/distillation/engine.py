"""The loop every distillation method runs in.

Owns when to step, evaluate, checkpoint, report and stop. Must not know what a method computes.
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


class Method(Protocol):
    """A distillation method: the engine calls `step` exactly `iterations` times."""

    @property
    def iterations(self) -> int: ...

    def step(self) -> dict[str, float]:
        """Do one update. Returns scalars; "images" counts image passes done, for images/s."""

    def state_dict(self) -> dict[str, Any]:
        """All a resumed run needs: a value a checkpoint chunk, plain containers of tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def synthetic_set(self) -> SyntheticSet: ...


@runtime_checkable
class Circumstanced(Protocol):
    """A method whose exact numbers depend on more than its state, such as a compiled kernel."""

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


def distil(
    method: Method,
    *,
    checkpoints: Checkpoints,
    report: Report,
    should_stop: Callable[[], bool],
    evaluation: Evaluation | None = None,
    cadence: Cadence | None = None,
) -> Distilled:
    """Run `method` to its end, from the newest checkpoint if there is one.

    Raises Stopped, after writing a checkpoint, once `should_stop()` says so.
    """
    run = _Run(method, checkpoints, report, evaluation, cadence or Cadence())
    run.resume()
    while run.step < method.iterations:
        if should_stop():
            run.checkpoint()
            raise Stopped(f"stopped after {run.step} of {method.iterations} iterations")
        run.advance()
    return run.finish()


class _Run:
    """One run of the loop: the counters beside the method's own state."""

    def __init__(
        self,
        method: Method,
        checkpoints: Checkpoints,
        report: Report,
        evaluation: Evaluation | None,
        cadence: Cadence,
    ) -> None:
        self.method = method
        self.step = 0  # updates made
        self._checkpoints = checkpoints
        self._report = report
        self._evaluation = evaluation
        self._cadence = cadence
        self._checkpoint_step: int | None = None
        self._scores: dict[int, float] = {}
        self._best: torch.Tensor | None = None  # (n, c, h, w), the images with the best score
        self._best_step = 0
        self._notes: tuple[str, ...] = ()
        self._pace = _Pace()

    def resume(self) -> None:
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
        self._notes = tuple(notes)
        self._tell(scalars)
        self._pace.pause()

    def _take_over(self, found: Checkpoint) -> None:
        state = dict(found.state)
        own = state.pop("engine")
        self._best, self._best_step = state.pop("engine/best", None), own["best_step"]
        self._scores = own["scores"]
        if self._evaluation is not None:
            self._evaluation.finished.update(own["finished"])
        self.step = found.step
        self.method.load_state_dict(state)
        if found.folder == self._checkpoints.folder:
            self._checkpoint_step = self.step

    def advance(self) -> None:
        self._judge()
        scalars = self.method.step()
        self.step += 1
        if self._cadence.due():
            self.checkpoint()
        images = scalars.pop("images", None)
        self._pace.record(images or 0.0)
        if images is not None:
            scalars["images_per_second"] = self._pace.images_per_second
        self._tell(scalars)

    def finish(self) -> Distilled:
        self._judge()
        if self._checkpoint_step != self.step:
            self.checkpoint()
        last = self.method.synthetic_set()
        if self._best is None:
            return Distilled(last, self.step, self._scores, self._notes)
        best = replace(last, images=self._best.to(last.images))
        beside = None if self._best_step == self.step else last
        return Distilled(best, self._best_step, self._scores, self._notes, beside)

    def checkpoint(self) -> None:
        """Write the state of this instant, whatever the cadence says."""

        def write() -> None:
            state = self.method.state_dict()
            own: dict[str, Any] = {
                "scores": self._scores,
                "best_step": self._best_step,
                "finished": dict(self._evaluation.finished) if self._evaluation else {},
            }
            state["engine"] = own
            if self._best is not None:
                state["engine/best"] = self._best
            self._checkpoints.save(self.step, state, self._circumstances())

        self._cadence.record(write)
        self._checkpoint_step = self.step

    def _judge(self) -> None:
        judge = self._evaluation
        if (
            judge is None
            or self.step == 0
            or self.step % judge.interval
            or self.step in self._scores
        ):
            return
        candidate = self.method.synthetic_set()
        try:
            score = judge.score(candidate, self.step)
        except Stopped:
            self.checkpoint()  # not judged: a resumed run judges it first of all
            raise
        if self._best is None or score > max(self._scores.values()):
            self._best, self._best_step = candidate.images.cpu().clone(), self.step
        self._scores[self.step] = score
        judge.finished.clear()
        self._pace.pause()
        self._tell({"score": score})

    def _circumstances(self) -> dict[str, Any]:
        own = self.method.circumstances if isinstance(self.method, Circumstanced) else {}
        return circumstances(**own)

    def _tell(self, scalars: Mapping[str, float]) -> None:
        total = self.method.iterations
        eta = self._pace.seconds_for(total - self.step)
        self._report(Progress(PHASE, self.step, total, scalars, eta, self._checkpoint_step))


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
