"""One evaluation from set to report: train the students, measure them, resume where it stopped.

Owns the order of work, its checkpoints and its progress. The numbers are `students`' and
`robustness`'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rome_core import attacks
from rome_core.data import Dataset
from rome_core.distillation.checkpoints import Cadence, Checkpoints
from rome_core.errors import CoreError, fields_under
from rome_core.evaluation.robustness import (
    Measure,
    Measurement,
    TestSet,
    measure,
    measures,
    worst_case,
)
from rome_core.evaluation.students import Student, TrainingSet
from rome_core.networks import ConvNet
from rome_core.passes import Passes, Plan
from rome_core.progress import Progress, Report, Stopped
from rome_core.provenance import changes, circumstances
from rome_core.randomness import generator
from rome_core.recipes.evaluate import DomainBudget, EvaluateSpec
from rome_core.recipes.report import Accuracies, DomainReport
from rome_core.synthetic import SyntheticSet


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Trained students and what they got right; `train_accuracy` is of each one's last epoch."""

    networks: tuple[ConvNet, ...]
    train_accuracy: tuple[float, ...]
    measurements: tuple[tuple[Measurement, ...], ...]  # by student, in the order of `measures`
    test_images: int
    test_images_of: int
    notes: tuple[str, ...]  # what a reader of the provenance should know about resuming

    def clean(self) -> Accuracies | None:
        return self._accuracies(Measure("clean"), None)

    def domain(self, domain: str, budget: DomainBudget) -> DomainReport:
        """The report of one attack domain, named in every number it holds."""
        own = [m.measure for m in self.measurements[0] if m.measure.domain == domain]
        scores = {}
        for what in own:
            accuracies = self._accuracies(what, budget)
            assert accuracies is not None
            scores[what.name] = accuracies
        over = [m.measure for m in self.measurements[0] if m.measure.domain in (domain, None)]
        worst = None
        if own:
            values = [
                worst_case([m for m in student if m.measure in over]).accuracy
                for student in self.measurements
            ]
            worst = Accuracies.of(values, sum(m.gradients(budget) for m in over), len(over))
        return DomainReport.model_validate(
            {
                "domain": domain,
                "budget": budget,
                "measures": scores,
                "worst_case": worst,
                "worst_over": [what.name for what in over],
            }
        )

    def _accuracies(self, what: Measure, budget: DomainBudget | None) -> Accuracies | None:
        values = [m.accuracy for student in self.measurements for m in student if m.measure == what]
        return Accuracies.of(values, what.gradients(budget) if budget else 0) if values else None


class Evaluation:
    """The work of one `kind: evaluate` spec on one set.

    Raises CoreError where set and dataset do not fit, or a budget does not suit the classes.
    """

    def __init__(
        self,
        synthetic: SyntheticSet,
        dataset: Dataset,
        spec: EvaluateSpec,
        *,
        plan: Plan,
        device: str = "cpu",
    ) -> None:
        if synthetic.images.shape[1:] != dataset.shape or synthetic.classes != dataset.classes:
            raise CoreError(
                "artifact_mismatch",
                f"The set has {synthetic.classes} classes of {tuple(synthetic.images.shape[1:])}, "
                f"{dataset.name} has {dataset.classes} of {dataset.shape}.",
                "Evaluate it on the dataset it was made from.",
                "dataset",
            )
        self._spec, self._plan, self._device = spec, plan, str(device)
        self._training = TrainingSet.of(
            synthetic, augmentation=spec.students.augmentation, device=device
        )
        self._test = _test_set(synthetic, dataset, spec, device)
        self._test_images_of = len(dataset.test_images)
        self._measures = measures(spec)
        for what in self._measures:  # Hours of training must not end in a bad target rule.
            if what.mode == "targeted":
                budget = self._budget(what)
                with fields_under(f"budgets.{what.domain}", type(budget).model_fields):
                    attacks.targets(budget.target_rule, self._test.labels[:1], self._test.classes)
        self._count = spec.students.count
        self._per_student = spec.students.epochs + 1

    @property
    def training_images(self) -> int:
        """Decoded images that students learn from."""
        return len(self._training.images)

    @property
    def augmentation(self) -> str:
        return self._training.augmentation

    def run(
        self, *, checkpoints: Checkpoints, report: Report, should_stop: Callable[[], bool]
    ) -> Evaluated:
        """Do what is left of the work. Raises Stopped, after a checkpoint, when told to."""
        students = [
            Student(self._training, self._spec.students, seed=self._spec.seed, number=number)
            for number in range(self._count)
        ]
        here = circumstances(plan=self._plan.as_dict(), device=self._device)
        work = _Work(students, checkpoints, report, should_stop, here)
        work.resume()
        for number, student in enumerate(students):
            for epoch in student.train():
                work.train_accuracy[str(number)] = epoch.accuracy
                done = number * self._per_student + student.epochs_done
                scalars = {
                    "student": float(number),
                    "loss": epoch.loss,
                    "train_accuracy": epoch.accuracy,
                    "learning_rate": epoch.learning_rate,
                }
                work.tick("training students", done, self._count * self._per_student, scalars)
        total = self._count * len(self._measures) * len(self._test.pixels)
        work.phase()
        for number, student in enumerate(students):
            for place, what in enumerate(self._measures):
                key = f"{number}/{what.name}"
                before = (number * len(self._measures) + place) * len(self._test.pixels)
                if key in work.correct:
                    continue
                work.correct[key] = self._measure(student, what, work, before, total)
        return Evaluated(
            networks=tuple(student.network for student in students),
            train_accuracy=tuple(work.train_accuracy[str(n)] for n in range(self._count)),
            measurements=tuple(
                tuple(
                    Measurement(what, work.correct[f"{n}/{what.name}"]) for what in self._measures
                )
                for n in range(self._count)
            ),
            test_images=len(self._test.pixels),
            test_images_of=self._test_images_of,
            notes=tuple(work.notes),
        )

    def _measure(
        self, student: Student, what: Measure, work: _Work, before: int, total: int
    ) -> torch.Tensor:
        passes = Passes(student.network, self._plan)
        model = passes.bind(student.network.state_dict())
        done = before

        def tick(images: int) -> None:
            nonlocal done
            done += images
            work.tick("attacking", done, total, {})

        budget = self._budget(what) if what.domain else None
        return measure(model, self._test, what, budget, seed=self._spec.seed, tick=tick).correct

    def _budget(self, what: Measure) -> DomainBudget:
        budgets = self._spec.budgets
        return budgets.reference if what.domain == "reference" else budgets.pixel


class _Work:
    """Progress, cancellation and checkpoints of one evaluation."""

    def __init__(
        self,
        students: list[Student],
        checkpoints: Checkpoints,
        report: Report,
        should_stop: Callable[[], bool],
        circumstances: Mapping[str, Any],
    ) -> None:
        self._circumstances = circumstances
        self.train_accuracy: dict[str, float] = {}  # by student, of its last epoch so far
        self.correct: dict[str, torch.Tensor] = {}  # by "student/measure"
        self.notes: list[str] = []
        self._students = students
        self._checkpoints = checkpoints
        self._report = report
        self._should_stop = should_stop
        self._cadence = Cadence()
        self._units = 0  # ticks so far, in all attempts
        self.phase()

    def phase(self) -> None:
        """A new phase begins: its pace is its own."""
        self._start: tuple[float, int] | None = None
        self._checkpoint_step: int | None = None

    def resume(self) -> None:
        """Go on from where an earlier attempt got to, if there was one."""
        found = self._checkpoints.newest()
        self.notes += [f"passed over a checkpoint: {x}" for x in self._checkpoints.passed_over]
        if found is None:
            return
        self.notes.append(f"resumed after {found.step} units of work")
        self.notes += changes(found.circumstances, self._circumstances)
        own = found.state["evaluation"]
        self._units = found.step
        self.train_accuracy.update(own["train_accuracy"])
        self.correct.update(own["correct"])
        for number, student in enumerate(self._students):
            state = found.state.get(f"student/{number}")
            if state is not None:
                student.load_state_dict(state)

    def tick(self, phase: str, step: int, total: int, scalars: dict[str, float]) -> None:
        """One unit of work is done: report, checkpoint if due, stop if told to."""
        self._units += 1
        now = time.monotonic()
        if self._start is None:
            self._start = (now, step)
        began, first = self._start
        eta = (now - began) / (step - first) * (total - step) if step > first else None
        stop = self._should_stop()
        if stop or self._cadence.due():
            self._cadence.record(self._save)
            self._checkpoint_step = step
        self._report(Progress(phase, step, total, scalars, eta, self._checkpoint_step))
        if stop:
            raise Stopped(f"stopped while {phase}, {step} of {total}")

    def _save(self) -> None:
        state: dict[str, Any] = {
            "evaluation": {
                "train_accuracy": self.train_accuracy,
                "correct": self.correct,
            }
        }
        for number, student in enumerate(self._students):
            if student.epochs_done:
                state[f"student/{number}"] = student.state_dict()
        self._checkpoints.save(self._units, state, self._circumstances)


def _test_set(
    synthetic: SyntheticSet, dataset: Dataset, spec: EvaluateSpec, device: str
) -> TestSet:
    """The test images, or `limit` of them drawn by the seed, in the order of the file."""
    pixels, labels = dataset.test_images, dataset.test_labels
    if spec.limit is not None and spec.limit < len(pixels):
        order = torch.randperm(len(pixels), generator=generator(spec.seed, "test images"))
        chosen = order[: spec.limit].sort().values
        pixels, labels = pixels[chosen], labels[chosen]
    pixels, labels = pixels.to(device), labels.to(device)
    return TestSet(pixels, labels, dataset.classes, synthetic.mean, synthetic.std)
