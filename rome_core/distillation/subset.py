"""Sets of real training images: what all choices of them have in common.

Owns the loop over classes, packing, and the set that comes of it. Which images of a class are
chosen, and in which order, is a subclass's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation.material import check_packing
from rome_core.errors import CoreError
from rome_core.recipes.subsets import SubsetHyperparameters, images_per_class
from rome_core.synthetic import SyntheticSet


class Subset(ABC):
    """Real images of every class, `ipc * factor^2` each; a step chooses those of one class.

    With factor 2 an image packs the next four of the choice at half size, so that a subset can be
    compared like with like with a packed distilled set. All images of a class are different. Raises
    CoreError class_too_small or size_not_divisible.
    """

    name: ClassVar[str]  # of the method

    def __init__(
        self, dataset: Dataset, hyperparameters: SubsetHyperparameters, *, ipc: int
    ) -> None:
        self.dataset, self.ipc, self.factor = dataset, ipc, hyperparameters.factor
        self.each = images_per_class(hyperparameters, ipc)  # real images of a class
        self.members = [
            torch.nonzero(dataset.train_labels == label).flatten()
            for label in range(dataset.classes)
        ]
        smallest = min(map(len, self.members))
        if self.each > smallest:
            raise CoreError(
                "class_too_small",
                f"{ipc} images per class need {self.each} real ones, and the smallest class of "
                f"{dataset.name} has {smallest}.",
                f"Ask for at most {smallest // self.factor**2}.",
                "ipc",
            )
        check_packing(dataset.shape[1], self.factor)
        self._augmentation = hyperparameters.augmentation or dataset.augmentation
        self.chosen: list[Tensor] = []  # of each class done, positions (each,) in the training set

    @property
    def iterations(self) -> int:
        return self.dataset.classes

    @abstractmethod
    def choose(self, label: int) -> Tensor:
        """Positions in the training set of a class's images, in their order: (each,) int64."""

    def step(self) -> dict[str, float]:
        """Choose the images of the next class; `images` are those chosen among."""
        label = len(self.chosen)
        self.chosen.append(self.choose(label))
        return {"images": float(len(self.members[label]))}

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.chosen = list(state["chosen"])

    def synthetic_set(self) -> SyntheticSet:
        """The images of the classes chosen so far."""
        done = len(self.chosen)
        images = [self._packed(positions) for positions in self.chosen]
        return SyntheticSet.of(
            torch.cat(images) if images else torch.empty(0, *self.dataset.shape),
            torch.arange(done).repeat_interleave(self.ipc),
            self.dataset,
            factor=self.factor,
            ipc=self.ipc,
            augmentation=self._augmentation,
            method=self.name,
        )

    def _packed(self, positions: Tensor) -> Tensor:
        """Images as networks take them, stored: (each,) -> (ipc, c, h, w)."""
        chosen = self.dataset.normalise(self.dataset.train_images[positions])
        if self.factor == 1:
            return chosen
        small = augment.shrink(chosen, self.factor)
        return augment.mosaic(small.view(self.ipc, self.factor**2, *small.shape[1:]))
