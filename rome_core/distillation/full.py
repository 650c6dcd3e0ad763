"""The method `full`: the whole training set as a set of its own kind, trained on like any other.

Owns the order of the images and how they are stored.
"""

from __future__ import annotations

from typing import Any

import torch

from rome_core.data import Dataset
from rome_core.passes import Plan
from rome_core.recipes.full import FullHyperparameters
from rome_core.space import Normalised
from rome_core.synthetic import SyntheticSet, images_of


class Full:
    """All training images, class by class; the engine calls `step` once, which does nothing.

    Nobody says how many images a class has (`ipc` is None): the set's `ipc` is that of its largest.
    Images that are pixels of 256 levels are stored as such, if networks take them normalised.
    """

    iterations = 1

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: FullHyperparameters,
        *,
        ipc: None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        plan: Plan | None = None,
    ) -> None:
        self.dataset = dataset
        self._augmentation = hyperparameters.augmentation or dataset.augmentation

    def step(self) -> dict[str, float]:
        return {"images": float(len(self.dataset.train_labels))}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass

    def synthetic_set(self) -> SyntheticSet:
        dataset = self.dataset
        order = dataset.train_labels.argsort(stable=True)
        labels = dataset.train_labels[order]
        images = dataset.normalise(dataset.train_images[order])
        levels = (dataset.train_images[order] * 255).round().to(torch.uint8)
        exact = isinstance(dataset.space, Normalised) and torch.equal(
            images_of(levels, dataset.space), images
        )
        return SyntheticSet.of(
            images,
            labels,
            dataset,
            factor=1,
            ipc=int(labels.bincount().max()),
            augmentation=self._augmentation,
            method="full",
            storage="uint8" if exact else "float32",
        )
