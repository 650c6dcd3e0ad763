"""The random draws of distillation methods and of experts, by name.

Owns the paths under the run's seed, so that two programs with the same seed and the same names
make the same draws in any order, and a resumed run those of an undisturbed one. Holds no state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rome_core.randomness import generator


@dataclass(frozen=True)
class Draws:
    """The draws of one run. `turn` counts the networks matched within an iteration."""

    seed: int

    def init(self, label: int, quadrant: int) -> torch.Generator:
        """Which real images, or what noise, a class starts from."""
        return generator(self.seed, "init", label, quadrant)

    def holdout(self, label: int) -> torch.Generator:
        """Which real images of a class are kept out of the distillation."""
        return generator(self.seed, "holdout", label)

    def network(self, serial: int) -> torch.Generator:
        """The weights of the serial-th network of the run."""
        return generator(self.seed, "pool", "network", serial)

    def matched(self, iteration: int, pool: int, count: int) -> list[int]:
        """Positions in the pool whose networks are matched, distinct, in order of their turns."""
        return _distinct(generator(self.seed, "images", "networks", iteration), pool, count)

    def real(self, iteration: int, turn: int, label: int, members: Tensor, count: int) -> Tensor:
        """`count` of a class's `members` without replacement, all of them if there are fewer."""
        made = generator(self.seed, "images", "real", iteration, turn, label)
        return _without_replacement(made, members, count)

    def augmentation(self, iteration: int, turn: int, label: int) -> torch.Generator:
        """The Siamese augmentation of a class's real and synthetic images."""
        return generator(self.seed, "images", "augmentation", iteration, turn, label)

    def noise(self, iteration: int, turn: int, label: int, side: str) -> torch.Generator:
        """The random start of the attack on a class's "real" or "synthetic" images."""
        return generator(self.seed, "images", "noise", side, iteration, turn, label)

    def fetched(self, iteration: int, pool: int, count: int) -> list[int]:
        """Positions in the pool whose networks are trained, distinct."""
        return _distinct(generator(self.seed, "pool", "networks", iteration), pool, count)

    def batch(self, iteration: int, slot: int, step: int, members: Tensor, count: int) -> Tensor:
        """`count` of the training images without replacement, for one training step."""
        made = generator(self.seed, "pool", "batch", iteration, slot, step)
        return _without_replacement(made, members, count)

    def training_noise(self, iteration: int, slot: int, step: int) -> torch.Generator:
        """The random start of the attack on that batch."""
        return generator(self.seed, "pool", "noise", iteration, slot, step)

    def epoch(self, iteration: int, turn: int, epoch: int) -> torch.Generator:
        """The order of the synthetic images in one epoch of training a network on them, and how
        its batches are augmented.
        """
        return generator(self.seed, "network", "epoch", iteration, turn, epoch)

    def expert(self, iteration: int, count: int) -> int:
        """The iteration's expert of `count`: each in turn in a random order, then in another."""
        turn, place = divmod(iteration, count)
        made = generator(self.seed, "trajectory", "experts", turn)
        return int(torch.randperm(count, generator=made)[place])

    def start_epoch(self, iteration: int, low: int, high: int) -> int:
        """The epoch to start from, in low .. high - 1."""
        made = generator(self.seed, "trajectory", "epoch", iteration)
        return int(torch.randint(low, high, (1,), generator=made))

    def student_steps(self, iteration: int, low: int, high: int) -> int:
        """How many steps an iteration's student makes, in low .. high."""
        made = generator(self.seed, "trajectory", "steps", iteration)
        return int(torch.randint(low, high + 1, (1,), generator=made))

    def student_order(self, iteration: int, step: int, count: int) -> Tensor:
        """The order of the `count` synthetic images that a student sees from its `step` on."""
        made = generator(self.seed, "trajectory", "order", iteration, step)
        return torch.randperm(count, generator=made)

    def student_augmentation(self, iteration: int, step: int) -> torch.Generator:
        """The augmentation of each image of a student's step."""
        return generator(self.seed, "trajectory", "augmentation", iteration, step)

    def subset(self, label: int) -> torch.Generator:
        """Which real images a random subset has of a class."""
        return generator(self.seed, "random", label)

    def coreset(self, label: int, restart: int = 0) -> torch.Generator:
        """What a choice of a class's images leaves to chance: its start, or the order of ties."""
        return generator(self.seed, "coreset", label, restart)

    def feature_sources(self, label: int) -> torch.Generator:
        """The order of a class's real images, of which the first give a set their features."""
        return generator(self.seed, "robust features", "targets", label)

    def feature_start(self) -> torch.Generator:
        """What the images that take these features start from, if not from images of the class."""
        return generator(self.seed, "robust features", "start")


@dataclass(frozen=True)
class ExpertDraws:
    """The draws of experts, by number, so that each is the same whoever else is trained."""

    seed: int

    def network(self, number: int) -> torch.Generator:
        """Its weights before the first epoch."""
        return generator(self.seed, "experts", number, "network")

    def order(self, number: int, epoch: int) -> torch.Generator:
        """The order of the training images in an epoch."""
        return self._of(number, epoch, "order")

    def augmentation(self, number: int, epoch: int, batch: int) -> torch.Generator:
        """The augmentation of each image of a batch."""
        return self._of(number, epoch, "augmentation", batch)

    def noise(self, number: int, epoch: int, batch: int) -> torch.Generator:
        """The random start of the attack on that batch."""
        return self._of(number, epoch, "attack", batch)

    def _of(self, number: int, epoch: int, *what: str | int) -> torch.Generator:
        return generator(self.seed, "experts", number, "epoch", epoch, *what)


def _distinct(made: torch.Generator, population: int, count: int) -> list[int]:
    chosen: list[int] = torch.randperm(population, generator=made)[:count].tolist()
    return chosen


def _without_replacement(made: torch.Generator, members: Tensor, count: int) -> Tensor:
    return members[torch.randperm(len(members), generator=made)[:count]]
