"""One evaluation from subjects to measurements: train, attack, probe, resume where it stopped.

Owns the order of work, its checkpoints and its progress. What happens to an image is
`robustness`'s, what the numbers mean `reporting`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from torch import Tensor

from rome_core import attacks, costs
from rome_core.data import Dataset
from rome_core.distillation.checkpoints import Checkpoints
from rome_core.evaluation.probes import probe
from rome_core.evaluation.robustness import (
    Block,
    Faced,
    Measure,
    TestSet,
    block_size,
    check_suits,
    face,
    measures,
)
from rome_core.evaluation.students import Student, TrainingSet
from rome_core.evaluation.subjects import Subject
from rome_core.evaluation.work import Work
from rome_core.passes import Bound, Passes, Plan
from rome_core.progress import Report
from rome_core.provenance import circumstances
from rome_core.randomness import generator
from rome_core.recipes.attacks import Mode, parse_fraction
from rome_core.recipes.evaluate import EvaluateSpec, chosen, resolved
from rome_core.recipes.protocols import Entry, Protocol
from rome_core.space import Space

SAMPLES = 8
"""Adversarial images kept to be looked at."""


UNBOUNDED = "unbounded"
"""Instead of a ball, of attacks that may go as far as they must."""


@dataclass(frozen=True, eq=False)
class Part:
    """One protocol's share of an evaluation: its test images, attacks and measures.

    `modes` are those asked for, also where no attack has them.
    """

    protocol: Protocol
    entries: tuple[Entry, ...]
    measures: tuple[Measure, ...]
    test: TestSet
    modes: tuple[Mode, ...]

    def ball(self, entry: Entry) -> str:
        """The ball an attack stays in, in the words of the first attack of it: 0.5 is 1/2."""
        if entry.threat is None:
            return UNBOUNDED
        for other in self.entries:
            if other.threat is not None and _radius(other.threat) == _radius(entry.threat):
                return other.threat
        return entry.threat


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one subject's images came to under one measure, and the seconds it took."""

    measure: Measure
    faced: Faced
    seconds: float


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of one measure on the first subject: (k, c, h, w) pixels in [0,1], classes (k,)."""

    measure: Measure
    clean: Tensor
    adversarial: Tensor
    labels: Tensor
    clean_prediction: Tensor
    prediction: Tensor

    def classes(self) -> tuple[Tensor, Tensor, Tensor]:
        """The true ones, those seen in the images as they were, and in the attacked ones."""
        return self.labels, self.clean_prediction, self.prediction


@dataclass(frozen=True, eq=False)
class Evaluated:
    """Subjects and what they came to; `train_accuracy` is of each student's last epoch."""

    subjects: tuple[Subject, ...]
    train_accuracy: tuple[float, ...]
    parts: tuple[Part, ...]
    measurements: Mapping[tuple[str, str], tuple[Measurement, ...]]
    """By (protocol id, measure name), one a subject."""
    evidence: Mapping[str, Sequence[Mapping[str, Any]]]
    """By protocol id, of one subject or of each; empty where nobody looked."""
    samples: Mapping[str, Sample]  # by protocol id
    test_images_of: int
    notes: tuple[str, ...]  # what a reader of the provenance should know about resuming


@dataclass(frozen=True)
class _Place:
    """Where a measure stands in the whole: images before it and of all, and the same in passes."""

    before: int
    total: int
    effort: float
    weight: float
    whole: float


class Evaluation:
    """The work of one `kind: evaluate` spec, on a set to train on or on models there are.

    Raises CoreError where a protocol does not suit the classes.
    """

    def __init__(
        self,
        subjects: TrainingSet | Sequence[Subject],
        dataset: Dataset,
        spec: EvaluateSpec,
        *,
        space: Space,
        plan: Plan,
        device: str = "cpu",
    ) -> None:
        self._spec, self._plan, self._device = spec, plan, str(device)
        self._training = subjects if isinstance(subjects, TrainingSet) else None
        self._models = () if isinstance(subjects, TrainingSet) else tuple(subjects)
        self._count = spec.students.count if self._training else len(self._models)
        self._test_images_of = len(dataset.test_images)
        self.parts = tuple(
            _part(resolved(name, spec), dataset, spec, space, device) for name in spec.protocols
        )
        for model, part in product(self._models, self.parts):
            attacks.check_domain(part.protocol.domain, model.test(part.test).space, "protocols")
        self._per_student = spec.students.epochs + 1

    def run(
        self, *, checkpoints: Checkpoints, report: Report, should_stop: Callable[[], bool]
    ) -> Evaluated:
        """Do what is left of the work. Raises Stopped, after a checkpoint, when told to."""
        students: list[Student] = []
        if self._training is not None:
            students = [
                Student(self._training, self._spec.students, seed=self._spec.seed, number=number)
                for number in range(self._count)
            ]
        here = circumstances(plan=self._plan.as_dict(), device=self._device)
        state = _State(students)
        work = Work(checkpoints, report, should_stop, here, state.snapshot)
        earlier = work.resume()
        if earlier is not None:
            state.restore(earlier)
        self._train(students, state, work)
        subjects = self._models or tuple(
            Subject(f"student {number}", student.network) for number, student in enumerate(students)
        )
        work.phase()
        self._attack(subjects, state, work)
        work.phase()
        if self._spec.probes:
            # Students of one set are alike; models may be anything.
            self._probe(subjects[:1] if students else subjects, state, work)
        return Evaluated(
            subjects=subjects,
            train_accuracy=tuple(state.train_accuracy[str(n)] for n in range(len(students))),
            parts=self.parts,
            measurements={
                (part.protocol.id, what.name): tuple(
                    state.measurement(number, what) for number in range(len(subjects))
                )
                for part in self.parts
                for what in part.measures
            },
            evidence=dict(state.evidence),
            samples={name: _sample(held) for name, held in state.samples.items()},
            test_images_of=self._test_images_of,
            notes=tuple(work.notes),
        )

    def _train(self, students: Sequence[Student], state: _State, work: Work) -> None:
        for number, student in enumerate(students):
            for epoch in student.train():
                state.train_accuracy[str(number)] = epoch.accuracy
                done = number * self._per_student + student.epochs_done
                scalars = {
                    "student": float(number),
                    "loss": epoch.loss,
                    "train_accuracy": epoch.accuracy,
                    "learning_rate": epoch.learning_rate,
                }
                work.tick("training students", done, self._count * self._per_student, scalars)

    def _attack(self, subjects: Sequence[Subject], state: _State, work: Work) -> None:
        every = [
            (number, subject, part, what)
            for number, subject in enumerate(subjects)
            for part in self.parts
            for what in part.measures
        ]
        if every:
            self._warm_up(subjects[0], every[0][2].test)
        total = sum(len(part.test) for _, _, part, _ in every)
        weights = [_weight(part, what) * len(part.test) for _, _, part, what in every]
        before, effort = 0, 0.0
        for (number, subject, part, what), weight in zip(every, weights, strict=True):
            at = _Place(before, total, effort, weight, sum(weights))
            self._measure(number, subject, part, what, state, work, at)
            before += len(part.test)
            effort += weight

    def _warm_up(self, subject: Subject, test: TestSet) -> None:
        """Compile, and touch memory, before anything is timed."""
        model, x = self._bound(subject), test.pixels[:1]
        model(x)
        model.loss_gradient(x, lambda logits, part: logits[:, 0])

    def _measure(
        self,
        number: int,
        subject: Subject,
        part: Part,
        what: Measure,
        state: _State,
        work: Work,
        at: _Place,
    ) -> None:
        """Attack the blocks of images that are left."""
        model, entry = self._bound(subject), part.protocol.entry(what.attack)
        key = f"{number}/{part.protocol.id}/{what.name}"
        held = state.measured.setdefault(key, {"parts": [], "images": 0, "seconds": 0.0})
        for rows in part.test.blocks(block_size(entry, self._device), held["images"]):
            block = subject.test(part.test.part(rows))
            cascade = state.cascades.setdefault(key, {})
            done = face(
                model,
                block,
                part.protocol,
                entry,
                what.mode,
                seed=self._spec.seed,
                poll=lambda: work.pulse("attacking", at.before + held["images"], at.total),
                cascade=cascade,
            )
            if number == 0 and rows.start == 0 and _shows(part, what):
                state.samples[part.protocol.id] = _sampled(model, what, block, part.protocol, done)
            state.cascades.pop(key)
            held["parts"].append(done.faced.state_dict())
            held["images"] += len(block)
            held["seconds"] += done.seconds
            share = (at.effort + at.weight * held["images"] / len(part.test)) / at.whole
            work.tick("attacking", at.before + held["images"], at.total, share=share)

    def _probe(self, subjects: Sequence[Subject], state: _State, work: Work) -> None:
        every = [(part, number) for part in self.parts for number in range(len(subjects))]
        for place, (part, number) in enumerate(every):
            seen = state.evidence.setdefault(part.protocol.id, [])
            if number < len(seen):
                continue

            subject = subjects[number]

            def pulse(place: int = place) -> None:
                work.pulse("probing", place, len(every))

            found = probe(
                self._bound(subject),
                subject.test(part.test.part(slice(0, part.protocol.probe_images))),
                part.protocol,
                [part.protocol.entry(w.attack) for w in part.measures if w.mode == "untargeted"],
                whole=subject.test(part.test),
                seed=self._spec.seed,
                poll=pulse,
            )
            seen.append({"subject": subject.name, **found})
            work.tick("probing", place + 1, len(every))

    def _bound(self, subject: Subject) -> Bound:
        return Passes(subject.network, self._plan).bind(subject.network.state_dict())


def test_set(
    dataset: Dataset,
    limit: int | None,
    seed: int,
    space: Space,
    device: str,
) -> TestSet:
    """The test images, or `limit` of them drawn by the seed, in the order of the file."""
    pixels, labels = dataset.test_images, dataset.test_labels
    numbers = torch.arange(len(pixels))
    if limit is not None and limit < len(pixels):
        order = torch.randperm(len(pixels), generator=generator(seed, "test images"))
        numbers = order[:limit].sort().values
        pixels, labels = pixels[numbers], labels[numbers]
    return TestSet(pixels.to(device), labels.to(device), numbers.to(device), dataset.classes, space)


def work_of(spec: EvaluateSpec, subjects: int, classes: int, test_images: int) -> int:
    """Roughly how many images pass through networks, forward and backward, at the most."""
    total = 0.0
    for name in spec.protocols:
        protocol = resolved(name, spec)
        images = min(spec.limit or protocol.images or test_images, test_images)
        for entry in chosen(protocol, spec):
            modes = sum(mode in entry.modes for mode in spec.modes) if entry.modes else 1
            total += images * subjects * modes * costs.expected(entry.settings, classes)
    return int(total)


def _part(
    protocol: Protocol,
    dataset: Dataset,
    spec: EvaluateSpec,
    space: Space,
    device: str,
) -> Part:
    entries = chosen(protocol, spec)
    asked = measures(protocol, entries, spec.modes)
    test = test_set(dataset, spec.limit or protocol.images, spec.seed, space, device)
    check_suits(protocol, asked, test)
    return Part(protocol, tuple(entries), tuple(asked), test, tuple(spec.modes))


def _radius(threat: str) -> tuple[str, Fraction]:
    norm, radius = threat.split()
    return norm, parse_fraction(radius)


def _weight(part: Part, what: Measure) -> float:
    return costs.expected(part.protocol.entry(what.attack).settings, part.test.classes)


def _shows(part: Part, what: Measure) -> bool:
    """Whether samples are taken of this measure: the first attack with steps, away from labels."""
    names = [m.attack for m in part.measures if m.mode == "untargeted"]
    best = "pgd" if "pgd" in names else next(iter(names), None)
    return what.attack == best and what.mode == "untargeted"


def _sampled(
    model: Bound, what: Measure, block: TestSet, protocol: Protocol, done: Block
) -> dict[str, Any]:
    """Some images of a block, broken ones first, as pixels whatever space they are attacked in."""
    adapted = attacks.adapt(model, protocol.domain, block.space)
    chosen = (
        (done.faced.clean_correct & ~done.faced.correct)
        .int()
        .argsort(descending=True, stable=True)[:SAMPLES]
    )
    pixels, shown = block.pixels[chosen], done.images[chosen]
    seen = adapted.model(adapted.to_input(pixels)).argmax(dim=1)
    return {
        "measure": [what.protocol, what.attack, what.mode],
        "clean": pixels.cpu(),
        "adversarial": adapted.to_pixels(shown).clamp(0, 1).cpu(),
        "labels": block.labels[chosen].cpu(),
        "clean_prediction": seen.cpu(),
        "prediction": done.faced.prediction[chosen],
    }


def _sample(state: Mapping[str, Any]) -> Sample:
    rest = {name: value for name, value in state.items() if name != "measure"}
    return Sample(Measure(*state["measure"]), **rest)


class _State:
    """All that an evaluation has done so far, as checkpoints hold it."""

    def __init__(self, students: Sequence[Student]) -> None:
        self._students = students
        self.train_accuracy: dict[str, float] = {}  # by student, of its last epoch so far
        self.measured: dict[str, dict[str, Any]] = {}  # by "subject/protocol/measure"
        self.cascades: dict[str, dict[str, Any]] = {}  # of the block an attack in stages is at
        self.evidence: dict[str, list[dict[str, Any]]] = {}  # by protocol, a subject each
        self.samples: dict[str, dict[str, Any]] = {}  # by protocol

    def snapshot(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "evaluation": {
                "train_accuracy": self.train_accuracy,
                "evidence": self.evidence,
                "samples": self.samples,
                "cascades": self.cascades,
            }
        }
        for name, measured in self.measured.items():
            state[f"measure/{name}"] = measured
        for number, student in enumerate(self._students):
            if student.epochs_done:
                state[f"student/{number}"] = student.state_dict()
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, value in state["evaluation"].items():
            getattr(self, name).update(value)
        for name, value in state.items():
            if name.startswith("measure/"):
                self.measured[name.removeprefix("measure/")] = value
        for number, student in enumerate(self._students):
            held = state.get(f"student/{number}")
            if held is not None:
                student.load_state_dict(held)

    def measurement(self, number: int, what: Measure) -> Measurement:
        state = self.measured[f"{number}/{what.protocol}/{what.name}"]
        return Measurement(what, Faced.joined(state["parts"]), state["seconds"])
