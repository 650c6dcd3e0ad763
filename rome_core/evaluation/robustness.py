"""How often a student is right on test images, clean and attacked.

Owns the measurements and the rule that no number mixes attack domains: a `Measurement` carries its
domain, and `worst_case` refuses measurements of two. Must not train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rome_core import attacks
from rome_core.attacks import Budget
from rome_core.attacks.gradient import ascent
from rome_core.attacks.pgd import start_noise
from rome_core.randomness import generator
from rome_core.recipes.evaluate import DomainBudget, EvaluateSpec

CHUNK = 500  # images a pass; changes no value, for no image's attack looks at another

Tick = Callable[[int], None]
"""Told how many more images a measurement is done with."""


@dataclass(frozen=True)
class Measure:
    """One thing to measure. Only `clean` has no domain; only aimed attacks have a mode."""

    attack: str
    domain: str | None = None
    mode: str | None = None

    @property
    def name(self) -> str:
        """Such as `pixel/pgd/untargeted`: a number's name begins with its domain."""
        return "/".join(part for part in (self.domain, self.attack, self.mode) if part)

    def gradients(self, budget: DomainBudget) -> int:
        """Input gradients an image of this attack."""
        return {"fgsm": 1, "pgd": budget.steps}.get(self.attack, 0)


@dataclass(frozen=True, eq=False)
class Measurement:
    """Which test images one student gets right under one measure: (n,) bool."""

    measure: Measure
    correct: Tensor

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())


@dataclass(frozen=True, eq=False)
class TestSet:
    """Test images as pixels in [0,1] (n, c, h, w), labels (n,), and what normalises them."""

    __test__ = False  # A set of test images, not a set of tests.

    pixels: Tensor
    labels: Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def measures(spec: EvaluateSpec) -> list[Measure]:
    """Everything a spec asks for, cheap ones first."""
    asked: list[Measure] = []
    if "clean" in spec.attacks:
        asked.append(Measure("clean"))
    for domain in spec.domains:
        if "clamp" in spec.attacks:
            asked.append(Measure("clamp", domain))
        asked.extend(
            Measure(attack, domain, mode)
            for attack in ("fgsm", "pgd")
            if attack in spec.attacks
            for mode in spec.modes
        )
    return asked


def measure(
    model: attacks.gradient.Model,
    test: TestSet,
    what: Measure,
    budget: DomainBudget | None,
    *,
    seed: int,
    tick: Tick = lambda done: None,
) -> Measurement:
    """Attack a network, a callable from normalised images to logits, and see what it gets right.

    Accuracy is against the true label in both modes. Random starts are drawn once for the whole set
    and are the same for every student.
    """
    # Clean images pass through no domain: in either the network sees them normalised.
    adapted = attacks.adapt(model, what.domain or "pixel", test.mean, test.std)
    noise: Tensor | None = None
    limits = None
    if budget is not None and what.mode is not None:
        limits = Budget.of(budget.epsilon, budget.step, budget.steps, budget.random_start)
        if what.attack == "pgd" and budget.random_start:
            draws = generator(seed, "attack", what.name)
            noise = start_noise(test.pixels, limits, draws)
    correct = []
    for start in range(0, len(test.pixels), CHUNK):
        part = slice(start, start + CHUNK)
        x, labels = adapted.to_input(test.pixels[part]), test.labels[part]
        aims = None
        if budget is not None and what.mode == "targeted":
            aims = attacks.targets(budget.target_rule, labels, test.classes)
        match what.attack:
            case "clamp":
                x = x.clamp(0, 1)
            case "fgsm":
                assert limits is not None
                x = (x + float(limits.epsilon) * ascent(adapted.model, x, labels, aims)).clamp(0, 1)
            case "pgd":
                assert limits is not None
                own = None if noise is None else noise[part].to(x)
                x = attacks.perturb(adapted.model, x, labels, limits, targets=aims, noise=own)
        with torch.no_grad():
            correct.append(adapted.model(x).argmax(dim=1) == labels)
        tick(len(x))
    return Measurement(what, torch.cat(correct).cpu())


def worst_case(measurements: Sequence[Measurement]) -> Measurement:
    """An image counts only if the student is right under every measure of one domain.

    Clean measurements belong to either domain. Raises ValueError for measurements of two domains:
    their budgets and clamps differ, so a number over both means nothing.
    """
    domains = {m.measure.domain for m in measurements} - {None}
    if len(domains) != 1:
        raise ValueError(
            f"a worst case is over exactly one attack domain, not {sorted(map(str, domains))}"
        )
    (domain,) = domains
    correct = torch.stack([m.correct for m in measurements]).all(dim=0)
    return Measurement(Measure("worst", domain), correct)
