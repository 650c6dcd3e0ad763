"""The two sides of a matching: each class's real and synthetic images, as a network is shown them.

Owns which real images are drawn, that both sides of a class are augmented alike, and their attack.
What is made of them, embeddings or gradients, is the method's. Must not know how images are
stepped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rome_core import augment
from rome_core.attacks.gradient import Model
from rome_core.distillation.material import Material
from rome_core.distillation.perturbation import Perturbation
from rome_core.passes import Passes, State

Side = Literal["real", "synthetic"]

REAL_GROUP = 4096  # images embedded at once: bounds memory, and changes no value beyond rounding


@dataclass(frozen=True, eq=False)
class Turn:
    """One matching of all classes in one network, and what was drawn for it, by class."""

    iteration: int
    number: int  # of the network, or of the outer step, within the iteration
    real: list[Tensor]  # positions of the real images in the training set
    rows: list[augment.Augmentation]  # one row each


@dataclass(frozen=True, eq=False)
class Shown:
    """Augmented images of some classes, one class after the other."""

    side: Side
    classes: range
    counts: list[int]  # images of each
    x: Tensor  # (n, c, h, w)
    labels: Tensor  # (n,)


class Sides:
    """What a run shows its networks.

    Args:
        perturbation: of the images, None where none are attacked before they are matched.
        strategy: of the augmentation, None for the dataset's own.
        batch_real: real images of a class, all of it if it has fewer.
    """

    def __init__(
        self,
        material: Material,
        perturbation: Perturbation | None,
        *,
        strategy: str | None,
        batch_real: int,
    ) -> None:
        self._material, self._perturbation = material, perturbation
        self._strategy, self._batch_real = strategy, batch_real

    def draw(self, iteration: int, number: int) -> Turn:
        m = self._material
        real = [
            m.draws.real(iteration, number, label, members, self._batch_real)
            for label, members in enumerate(m.members)
        ]
        rows = m.augmentations(self._strategy, iteration, number, range(m.classes))
        return Turn(iteration, number, real, rows)

    def real(self, turn: Turn, classes: range) -> Shown:
        """Real images of some classes."""
        chosen = [turn.real[label] for label in classes]
        x = self._material.images(torch.cat(chosen))
        return _shown("real", turn, classes, [len(some) for some in chosen], x)

    def synthetic(self, turn: Turn, classes: range, stored: Tensor) -> Shown:
        """Synthetic images of some classes, decoded from the stored ones, and differentiable."""
        x = self._material.decode(stored, len(classes))
        return _shown("synthetic", turn, classes, [len(x) // len(classes)] * len(classes), x)

    def attacked(self, model: Model, turn: Turn, shown: Shown) -> Tensor:
        """The images after their attack, without a graph, or as they are if there is none."""
        if not self._attacks(shown.side):
            return shown.x
        assert self._perturbation is not None, "or nothing is attacked"
        made = [
            self._material.draws.noise(turn.iteration, turn.number, label, shown.side)
            for label in shown.classes
        ]
        noise = self._perturbation.noise(shown.counts, made)
        return self._perturbation(model, shown.x.detach(), shown.labels, noise)

    def moved(self, model: Model, turn: Turn, shown: Shown) -> Tensor:
        """The same with a graph. The perturbation is a constant in it: gradients reach the images
        through the sum alone.
        """
        if not self._attacks(shown.side):
            return shown.x
        return shown.x + (self.attacked(model, turn, shown) - shown.x).detach()

    def passes(self, side: Side) -> int:
        """Of an image of that side: the one it is shown for, and its attack's."""
        if not self._attacks(side):
            return 1
        assert self._perturbation is not None, "or nothing is attacked"
        return 1 + self._perturbation.budget.steps

    def embedded(self, passes: Passes, state: State, turn: Turn) -> Iterator[Tensor]:
        """Embeddings (n, d) of each class's real images, attacked where that is asked for."""
        model = passes.bind(state)
        for some in self._material.groups([len(chosen) for chosen in turn.real], REAL_GROUP):
            shown = self.real(turn, some)
            embeddings = passes.embed(state, self.attacked(model, turn, shown))
            yield from torch.split(embeddings, shown.counts)

    def _attacks(self, side: Side) -> bool:
        return self._perturbation is not None and self._perturbation.attacks(side)


def _shown(side: Side, turn: Turn, classes: range, counts: list[int], x: Tensor) -> Shown:
    rows = [turn.rows[label].repeat_interleave(n) for label, n in zip(classes, counts, strict=True)]
    labels = torch.arange(classes.start, classes.stop).repeat_interleave(torch.tensor(counts))
    x = augment.apply(x, augment.concatenate(rows))
    return Shown(side, classes, counts, x, labels.to(x.device))
