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

BLOCK = 4096  # images at once: bounds memory


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
        images = torch.empty_like(dataset.train_images)
        exact = isinstance(dataset.space, Normalised)
        # In blocks and in place: memory holds the dataset and the set, and little besides.
        for places, made in zip(torch.split(order, BLOCK), torch.split(images, BLOCK), strict=True):
            pixels = dataset.train_images[places]
            made.copy_(dataset.normalise(pixels))
            if exact:
                levels = (pixels * 255).round().to(torch.uint8)
                exact = torch.equal(images_of(levels, dataset.space), made)
        return SyntheticSet(
            images=images,
            labels=labels,
            factor=1,
            dataset=dataset.name,
            classes=dataset.classes,
            ipc=int(labels.bincount().max()),
            space=dataset.space,
            augmentation=self._augmentation,
            learning_rate=0.01,
            method="full",
            storage="uint8" if exact else "float32",
        )
