"""One attack of one protocol on one model: what happened to every image.

Owns what a protocol's rules mean for an image: who is attacked, what counts as an adversarial
image, and that accuracy is always against the true label, seen by a fresh forward pass. Must not
train, aggregate or write.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from rome_core import attacks
from rome_core.attacks import Adapted, Attacked, Goal, Oracle, norms
from rome_core.attacks.autoattack import autoattack
from rome_core.attacks.catalogue import attack
from rome_core.attacks.gradient import Model
from rome_core.attacks.oracle import Poll, go_on
from rome_core.errors import CoreError
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import ApgdSettings, AutoAttackSettings, Mode
from rome_core.recipes.protocols import Entry, Protocol
from rome_core.space import Space

PUBLISHED_BATCH = 256
"""Images of a batch in the published code, where some attacks look at their batch."""


@dataclass(frozen=True)
class Measure:
    """One number to take: an attack of a protocol in a mode; None where it has no aim."""

    protocol: str  # its id
    attack: str  # the entry's name
    mode: Mode | None

    @property
    def name(self) -> str:
        """Such as `pgd/untargeted`, within its protocol."""
        return f"{self.attack}/{self.mode}" if self.mode else self.attack


@dataclass(frozen=True, eq=False)
class TestSet:
    """Test images as pixels in [0,1] (n, c, h, w), labels (n,), and the space of networks.

    `numbers` (n,) are the images' places in the dataset's test file: their draws belong to them.
    """

    __test__ = False  # A set of test images, not a set of tests.

    pixels: Tensor
    labels: Tensor
    numbers: Tensor
    classes: int
    space: Space

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, rows: slice) -> TestSet:
        """Some of the images."""
        return TestSet(
            self.pixels[rows], self.labels[rows], self.numbers[rows], self.classes, self.space
        )

    def blocks(self, size: int, first: int = 0) -> Iterable[slice]:
        """Consecutive parts of at most `size` images, beginning with image `first`."""
        return (slice(start, start + size) for start in range(first, len(self), size))


@dataclass(frozen=True, eq=False)
class Faced:
    """What n images came to under one measure; every field has n rows, on the CPU.

    `correct` is against the true label, `clean_correct` the same of the image as it was. `hit` says
    whether a targeted attack's class was predicted. Sizes are of the perturbation, in the attack's
    space. `margin` is the true class's logit less the best other's on the final image, `spread` its
    largest logit less its smallest. `queries` is -1 where the attack did not succeed. `stage` says
    which stage of AutoAttack succeeded, counted from 1 in the order of `recipes.autoattack.stages`,
    0 for the clamp before them; -1 where none did, and of every other attack.
    """

    prediction: Tensor  # int64
    target: Tensor  # int64, -1 without one
    clean_correct: Tensor  # bool
    correct: Tensor  # bool
    hit: Tensor  # bool
    linf: Tensor  # float32
    l2: Tensor  # float32
    margin: Tensor  # float32
    spread: Tensor  # float32
    forwards: Tensor  # int64
    backwards: Tensor  # int64
    queries: Tensor  # int64
    stage: Tensor  # int64

    def __len__(self) -> int:
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    def state_dict(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def joined(cls, parts: Iterable[Mapping[str, Tensor]]) -> Faced:
        """The parts' images, one after another."""
        columns = list(parts)
        return cls(
            **{
                field.name: torch.cat([part[field.name] for part in columns])
                for field in fields(cls)
            }
        )


@dataclass(frozen=True, eq=False)
class Block:
    """One block of images faced, its adversarial images (in the attack's space), and the time."""

    faced: Faced
    images: Tensor
    seconds: float


def measures(protocol: Protocol, entries: Iterable[Entry], modes: Iterable[Mode]) -> list[Measure]:
    """Everything to measure, clean first; modes in which an attack means nothing are left out."""
    asked = list(modes)
    return [
        Measure(protocol.id, entry.name, mode)
        for entry in entries
        for mode in ([m for m in asked if m in entry.modes] if entry.modes else [None])
    ]


def check_suits(
    protocol: Protocol, asked: Iterable[Measure], test: TestSet, field: str = "protocols"
) -> None:
    """Raises CoreError where an attack or its targets mean nothing here.

    So it is with too few classes, or in a space that the protocol does not know; the protocol was
    chosen in `field`. Called before any work: hours of training must not end in a bad target rule.
    """
    attacks.check_domain(protocol.domain, test.space, field)
    for what in asked:
        settings = protocol.entry(what.attack).settings
        if isinstance(settings, ApgdSettings) and test.classes < settings.classes_needed():
            raise CoreError(
                "attack_unsuitable",
                f"{what.attack} climbs the loss {settings.loss}, which means nothing with fewer "
                f"than {settings.classes_needed()} classes, and there are {test.classes}.",
                f"Leave {what.attack} out of attacks, or set its loss to margin.",
                f"overrides.{what.attack}.loss",
            )
        if what.mode != "targeted":
            continue
        try:
            attacks.targets(protocol.target_rule, test.labels[:1], test.classes)
        except CoreError as error:
            raise CoreError(
                error.code,
                f"{protocol.id} cannot target here: {error.detail}",
                "Take another protocol, or modes: [untargeted].",
                "modes",
            ) from error


def block_size(entry: Entry, device: str) -> int:
    """Images attacked at a time. It changes no result, but where an attack looks at its batch."""
    if getattr(entry.settings, "stop", None) == "batch":
        return PUBLISHED_BATCH
    return 250 if device == "cpu" else 2500


def face(
    model: Model,
    test: TestSet,
    protocol: Protocol,
    entry: Entry,
    mode: Mode | None,
    *,
    seed: int,
    poll: Poll = go_on,
    cascade: dict[str, Any] | None = None,
) -> Block:
    """Attack a network, a callable from normalised images to logits, and see what becomes of it.

    An attack in stages keeps how far it is in `cascade`, and goes on from what that says.
    """
    cascade = {} if cascade is None else cascade
    started = time.perf_counter()
    adapted = attacks.adapt(model, protocol.domain, test.space)
    x, labels = adapted.to_input(test.pixels), test.labels
    rule = protocol.target_rule if mode == "targeted" else "untargeted"
    goal = Goal(labels, attacks.targets(rule, labels, test.classes))
    clean_correct = adapted.model(x).argmax(dim=1) == labels
    # An adversary need not touch an image that is misclassified already.
    everything = protocol.attacks_everything or not entry.modes
    at_stake = torch.ones_like(clean_correct) if everything else clean_correct
    rows = at_stake.nonzero()[:, 0]
    attacked = test.numbers[rows].tolist()
    if cascade.setdefault("attacked", attacked) != attacked:
        # Of another block, or an answer at the boundary came out otherwise on another machine.
        cascade.clear()
        cascade["attacked"] = attacked
    began = started - cascade.get("seconds", 0.0)
    poll = _noting_time(poll, cascade, began)
    oracle, done = Oracle(adapted.model, len(x), device=x.device, poll=poll), Attacked.start(x)
    stage = torch.full_like(labels, -1)
    if len(rows):
        # The draws are named by the attack alone: every model faces the same ones.
        draws = ImageDraws(seed, "attack", protocol.id, entry.name, mode or "", images=test.numbers)
        made = _attack(
            oracle.view(rows), x[rows], goal.take(rows), entry, draws.take(rows), cascade
        )
        done.images[rows], done.reached[rows] = made.images, made.reached
        done.queries[rows] = made.queries
        if "broken_by" in cascade:
            stage[rows] = cascade["broken_by"].to(stage)
    if not everything:
        # The look that tells who is at stake is a pass like any other. It is counted after the
        # attack, whose queries are its own.
        oracle.forwards += 1
    images = done.images
    if entry.keeps_original:
        images = torch.where(done.reached.view(-1, 1, 1, 1), images, x)
    faced = _look(adapted, x, images, goal, oracle, done, clean_correct, stage)
    if x.is_cuda:
        torch.cuda.synchronize()
    return Block(faced, images, time.perf_counter() - began)


def _attack(
    oracle: Oracle,
    x: Tensor,
    goal: Goal,
    entry: Entry,
    draws: ImageDraws,
    cascade: dict[str, Any],
) -> Attacked:
    if isinstance(entry.settings, AutoAttackSettings):
        return autoattack(oracle, x, goal, entry.settings, draws, held=cascade)
    return attack(oracle, x, goal, entry.settings, draws)


def _noting_time(poll: Poll, cascade: dict[str, Any], began: float) -> Poll:
    """Before a new stage is under way, note the time that those before it took.

    A stage that is interrupted is done again, and takes its time then.
    """
    stages = cascade.get("stages", 0)

    def noting() -> None:
        nonlocal stages
        if cascade.get("stages", 0) > stages:
            stages = cascade["stages"]
            cascade["seconds"] = time.perf_counter() - began
        poll()

    return noting


@torch.no_grad()
def _look(
    adapted: Adapted,
    x: Tensor,
    images: Tensor,
    goal: Goal,
    oracle: Oracle,
    done: Attacked,
    clean_correct: Tensor,
    stage: Tensor,
) -> Faced:
    """One more forward pass over all images, which nobody pays for."""
    logits = adapted.model(images)
    prediction = logits.argmax(dim=1)
    linf, l2 = norms.sizes(x, images)
    targets = goal.targets if goal.targets is not None else torch.full_like(goal.labels, -1)
    return Faced(
        prediction=prediction.cpu(),
        target=targets.cpu(),
        clean_correct=clean_correct.cpu(),
        correct=(prediction == goal.labels).cpu(),
        hit=(prediction == targets).cpu(),
        linf=linf.float().cpu(),
        l2=l2.float().cpu(),
        margin=-attacks.goal.margin(logits, goal.labels).float().cpu(),
        spread=(logits.amax(dim=1) - logits.amin(dim=1)).float().cpu(),
        forwards=oracle.forwards.cpu(),
        backwards=oracle.backwards.cpu(),
        queries=done.queries.cpu(),
        stage=stage.cpu(),
    )
