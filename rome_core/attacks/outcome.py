"""What an attack leaves: images, which of them reached its goal, and after how many queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rome_core.attacks.goal import Goal
from rome_core.attacks.oracle import Oracle


@dataclass(frozen=True, eq=False)
class Attacked:
    """The images of a batch while they are attacked, and after.

    `images` (n, c, h, w) holds the adversarial image where the goal was `reached`, else the
    attack's best try. `queries` (n,) is how many forward passes the image had seen when it was
    reached, -1 where it was not.
    """

    images: Tensor
    reached: Tensor  # (n,) bool
    queries: Tensor  # (n,) int64

    @classmethod
    def start(cls, x: Tensor) -> Attacked:
        """Nothing has happened yet."""
        n = len(x)
        return cls(
            x.detach().clone(),
            torch.zeros(n, dtype=torch.bool, device=x.device),
            torch.full((n,), -1, dtype=torch.int64, device=x.device),
        )

    def open(self) -> Tensor:
        """The rows still to be attacked: (m,) int64."""
        return (~self.reached).nonzero()[:, 0]

    def keep(self, rows: Tensor, images: Tensor, queries: Tensor) -> None:
        """These reached the goal, with these images after `queries` (m,) forward passes."""
        self.images[rows] = images.to(self.images)
        self.reached[rows] = True
        self.queries[rows] = queries

    def note(self, rows: Tensor, images: Tensor) -> None:
        """The best try so far of images that have not reached the goal."""
        self.images[rows] = images.to(self.images)


def begin(oracle: Oracle, x: Tensor, goal: Goal) -> tuple[Attacked, Tensor]:
    """Try the images as they are, clamped to [0, 1], and leave it at that where they are enough.

    One forward pass; returns its logits (n, classes) too.
    """
    done, rows, clamped = Attacked.start(x), torch.arange(len(x), device=x.device), x.clamp(0, 1)
    logits = oracle.logits(clamped, rows)
    hit = goal.reached(logits, rows)
    done.note(rows, clamped)
    done.keep(rows[hit], clamped[hit], oracle.forwards[rows[hit]])
    return done, logits
