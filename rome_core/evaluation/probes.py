"""Looks at one model more closely: the evidence that findings are made of.

Owns the extra attacks and passes. What they mean is `rome_core.findings`'s. All are on a few
images, so they cost little beside the measures themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from rome_core import attacks
from rome_core.attacks import Adapted, Goal, Oracle
from rome_core.attacks.gradient import Model
from rome_core.attacks.oracle import Poll, go_on
from rome_core.attacks.pgd import pgd
from rome_core.evaluation.robustness import TestSet
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import (
    ApgdSettings,
    AutoAttackSettings,
    Domain,
    PgdSettings,
    Settings,
    parse_fraction,
)
from rome_core.recipes.protocols import Entry, Protocol
from rome_core.space import Normalised

CURVE = ("0", "1/510", "1/255", "2/255", "4/255", "8/255", "16/255", "32/255")
"""Linf radii of the curve, in the attack's space."""

CURVE_STEPS = 10
LONGER = 4
"""Times as many steps, to see whether an attack had converged."""

SAME = 1e-6
"""Of the spread of all logits: outputs of different images that differ by less are the same."""

UNBOUNDED = PgdSettings(epsilon="10000", step="1/16", steps=50, random_start=False)
"""A ball that holds every image in [0, 1], around normalised ones as well, whose values may lie far
outside: no model can be right in all of it."""

CLAMP_CHUNK = 500


@torch.no_grad()
def probe(
    model: Model,
    test: TestSet,
    protocol: Protocol,
    untargeted: Sequence[Entry],
    *,
    whole: TestSet,
    seed: int,
    poll: Poll = go_on,
) -> dict[str, Any]:
    """Evidence as plain data; accuracies are fractions in [0, 1].

    `model` is a callable from normalised images to logits, `test` the few images to look at and
    `whole` all those that the evaluation attacks. `untargeted` are the protocol's attacks that it
    runs untargeted: of those that do not choose their steps themselves, and stand alone in their
    ball, it is seen whether they had converged.
    """
    adapted = attacks.adapt(model, protocol.domain, test.space)
    x, labels = adapted.to_input(test.pixels), test.labels
    logits = adapted.model(x)
    again = adapted.model(x)
    right = logits.argmax(dim=1) == labels
    draws = ImageDraws(seed, "probe", images=test.numbers)
    looked = _Looked(adapted, x, labels, right, draws, poll)
    return {
        "images": len(test),
        "outputs_are_constant": _are_constant(x, logits),
        "outputs_are_probabilities": _are_probabilities(logits),
        "forward_difference": _difference(logits, again),
        "zero_gradients": looked.zero_gradients(),
        "clean": float(right.double().mean()),
        "curve": [[text, looked.robust(_at(text, CURVE_STEPS))] for text in CURVE],
        "unbounded": looked.robust(UNBOUNDED),
        "converged": [looked.converged(entry) for entry in _fixed_steps(untargeted)],
        "images_all": len(whole),
        **_clamped(model, whole),
    }


class _Looked:
    """One model and a few images, attacked again and again."""

    def __init__(
        self,
        adapted: Adapted,
        x: Tensor,
        labels: Tensor,
        right: Tensor,
        draws: ImageDraws,
        poll: Poll,
    ) -> None:
        self._adapted, self._x, self._labels, self._right = adapted, x, labels, right
        self._draws, self._poll = draws, poll

    def robust(self, settings: PgdSettings) -> float:
        """Share of the images that are right, and stay so under the attack."""
        oracle = self._oracle()
        made = pgd(oracle, self._x, Goal(self._labels), settings, self._draws)
        right = self._adapted.model(made.images).argmax(dim=1) == self._labels
        return float((self._right & right & ~made.reached).double().mean())

    def converged(self, entry: Entry) -> dict[str, Any]:
        """What an attack leaves as it is, and with more steps."""
        settings = entry.settings
        assert isinstance(settings, PgdSettings)
        steps = [settings.steps, LONGER * settings.steps]
        return {
            "attack": entry.name,
            "ball": entry.threat,
            "steps": steps,
            "accuracy": [self.robust(settings.model_copy(update={"steps": n})) for n in steps],
        }

    def zero_gradients(self) -> float:
        """Share of the images at which the loss has no slope at all."""
        rows = torch.arange(len(self._x), device=self._x.device)
        loss = Goal(self._labels).loss("ce")
        _, _, gradient = self._oracle().gradient(self._x, rows, loss)
        return float((gradient.flatten(1).abs().amax(dim=1) == 0).double().mean())

    def _oracle(self) -> Oracle:
        return Oracle(self._adapted.model, len(self._x), device=self._x.device, poll=self._poll)


def _at(epsilon: str, steps: int) -> PgdSettings:
    """PGD without a random start, its step a quarter of the ball."""
    step = str(Fraction(epsilon) / 4)
    # Unchecked: a quarter of a number of many digits is a longer text than a user may give.
    return PgdSettings.model_construct(epsilon=epsilon, step=step, steps=steps, random_start=False)


def _fixed_steps(entries: Sequence[Entry]) -> Iterator[Entry]:
    """The PGD attacks in whose ball no attack ran that chooses its own steps."""
    adaptive = {
        _ball(entry.settings)
        for entry in entries
        if isinstance(entry.settings, AutoAttackSettings | ApgdSettings)
    }
    for entry in entries:
        if isinstance(entry.settings, PgdSettings) and _ball(entry.settings) not in adaptive:
            yield entry


def _ball(settings: Settings) -> tuple[str, Fraction]:
    assert isinstance(settings, PgdSettings | ApgdSettings | AutoAttackSettings)
    return settings.norm, parse_fraction(settings.epsilon)


def _are_constant(x: Tensor, logits: Tensor) -> bool:
    """Whether images that differ (in any value) all have the same outputs."""
    if bool((x == x[:1]).all()):
        return False
    spread = logits.amax() - logits.amin()
    return bool((logits.amax(dim=0) - logits.amin(dim=0)).amax() <= SAME * spread)


def _difference(logits: Tensor, again: Tensor) -> float:
    """How far an image's outputs differ between two passes, at the most, in units of its spread."""
    spread = logits.amax(dim=1) - logits.amin(dim=1)
    difference = (logits - again).abs().amax(dim=1)
    return float((difference / spread.clamp_min(torch.finfo(spread.dtype).tiny)).max())


def _are_probabilities(logits: Tensor) -> bool:
    sums = logits.sum(dim=1)
    return bool((logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3))


def _clamped(model: Model, test: TestSet) -> dict[str, float]:
    """What the published protocol's clamp alone does to this model, over all images.

    Nothing where the protocol knows no such model, as of whitened images.
    """
    if not isinstance(test.space, Normalised):
        return {}
    published = attacks.adapt(model, Domain.REFERENCE, test.space)
    right = {"clean_all": 0, "clamped_all": 0}
    for rows in test.blocks(CLAMP_CHUNK):
        x = test.space.from_pixels(test.pixels[rows])
        for name, images in (("clean_all", x), ("clamped_all", x.clamp(0, 1))):
            guesses = published.model(images).argmax(dim=1)
            right[name] += int((guesses == test.labels[rows]).sum())
    return {name: count / len(test) for name, count in right.items()}
