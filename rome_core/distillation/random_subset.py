"""The method `random`: real training images drawn at random, the baseline of the same size.

Owns the draw. With factor 2 an image packs four real ones at half size, so that it can be compared
like with like with a packed distilled set; all real images of a class are different.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rome_core import augment
from rome_core.data import Dataset
from rome_core.errors import CoreError
from rome_core.passes import Plan
from rome_core.randomness import generator
from rome_core.recipes.random import RandomHyperparameters, images_per_class
from rome_core.synthetic import SyntheticSet

# Digits and other grey signs change their meaning in a mirror.
COLOUR = "color_crop_cutout_flip_scale_rotate"
GREY = "color_crop_cutout_scale_rotate"


class RandomSubset:
    """One draw; the engine calls `step` once. Raises CoreError where a class is too small."""

    iterations = 1

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
        self._dataset, self._factor, self._ipc, self._seed = (
            dataset,
            hyperparameters.factor,
            ipc,
            seed,
        )
        self._each = images_per_class(hyperparameters, ipc)
        smallest = int(dataset.train_labels.bincount().min())
        if self._each > smallest:
            raise CoreError(
                "class_too_small",
                f"{ipc} images per class need {self._each} real ones, and the smallest class of "
                f"{dataset.name} has {smallest}.",
                f"Ask for at most {smallest // self._factor**2}.",
                "ipc",
            )
        if dataset.shape[1] % self._factor:
            raise CoreError(
                "size_not_divisible",
                f"Images of {dataset.shape[1]} pixels a side cannot hold four smaller ones.",
                "Set factor=1.",
                "hyperparameters.factor",
            )
        usual = GREY if dataset.shape[0] == 1 else COLOUR
        self._augmentation = hyperparameters.augmentation or usual
        self._images = torch.zeros(dataset.classes * ipc, *dataset.shape)

    def step(self) -> dict[str, float]:
        self._images = torch.cat([self._draw(label) for label in range(self._dataset.classes)])
        return {"images": float(self._each * self._dataset.classes)}

    def _draw(self, label: int) -> Tensor:
        """The images of one class: (ipc, c, h, w), normalised."""
        members = torch.nonzero(self._dataset.train_labels == label).flatten()
        order = torch.randperm(len(members), generator=generator(self._seed, "random", label))
        chosen = self._dataset.normalise(self._dataset.train_images[members[order[: self._each]]])
        if self._factor == 1:
            return chosen
        small = augment.shrink(chosen, self._factor)
        return augment.mosaic(small.view(self._ipc, self._factor**2, *small.shape[1:]))

    def state_dict(self) -> dict[str, Any]:
        return {"images": self._images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._images = state["images"]

    def synthetic_set(self) -> SyntheticSet:
        return SyntheticSet.of(
            self._images,
            torch.arange(self._dataset.classes).repeat_interleave(self._ipc),
            self._dataset,
            factor=self._factor,
            ipc=self._ipc,
            augmentation=self._augmentation,
            method="random",
        )
