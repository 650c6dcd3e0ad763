"""The method `random`: real training images drawn at random, the baseline of the same size.

Owns the draw.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.distillation.subset import Subset
from rome_core.passes import Plan
from rome_core.recipes.random import RandomHyperparameters


class RandomSubset(Subset):
    """One draw; the engine calls `step` once. Raises CoreError where a class is too small."""

    name = "random"

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: RandomHyperparameters,
        *,
        ipc: int,
        seed: int,
        device: torch.device | str = "cpu",
        plan: Plan | None = None,
    ) -> None:
        super().__init__(dataset, hyperparameters, ipc=ipc)
        self._draws = Draws(seed)

    @property
    def iterations(self) -> int:
        return 1

    def choose(self, label: int) -> Tensor:
        members = self.members[label]
        order = torch.randperm(len(members), generator=self._draws.subset(label))
        return members[order[: self.each]]

    def step(self) -> dict[str, float]:
        """Draw the images of all classes; `images` are those drawn."""
        self.chosen = [self.choose(label) for label in range(self.dataset.classes)]
        return {"images": float(self.each * self.dataset.classes)}
