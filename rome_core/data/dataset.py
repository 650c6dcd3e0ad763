"""A dataset in memory, and the space that networks see its images in.

Owns the split rule of datasets that come without a test set. Must not read files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rome_core.recipes.augmentation import OBJECTS
from rome_core.space import Normalised, Space, Zca

EVERY_FIFTH = "of each class, in file order, every fifth image is a test image"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images are pixels in [0,1], (n, c, h, w) float32; labels (n,) int64 from 0.

    `digests` maps every file read to its SHA-256. `whitening` takes the place of normalisation.
    `augmentation` is the DSA strategy that suits the images.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor  # (c,) float64, of the training pixels
    std: Tensor  # (c,) float64
    classes: int
    class_names: tuple[str, ...]
    digests: Mapping[str, str]
    split: str
    augmentation: str = OBJECTS
    whitening: Zca | None = None

    @cached_property
    def space(self) -> Space:
        """The units that networks take its images in, and the way there."""
        return self.whitening or Normalised(self.mean, self.std)

    def whitened(self) -> Dataset:
        """The same images, whitened for networks by what the training images show (ZCA).

        A minute of CPU and some hundred megabytes for images of 3x32x32; `data.whitened` keeps
        what it finds. Raises ValueError for fewer than two training images.
        """
        return replace(self, whitening=Zca.fit(self.train_images))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in [0,1] to the units that networks take: (n, c, h, w) -> (n, c, h, w)."""
        return self.space.from_pixels(pixels)

    def denormalise(self, x: Tensor) -> Tensor:
        """The way back to pixels; nothing is clipped: (n, c, h, w) -> (n, c, h, w)."""
        return self.space.to_pixels(x)


def pixels(images: npt.NDArray[np.generic], whole: float = 255) -> Tensor:
    """(n, c, h, w) numbers up to `whole` to float32 in [0,1]."""
    return torch.from_numpy(images.astype(np.float32, order="C")).div_(whole)


def is_test(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which images a set without a test split gives up for one: see EVERY_FIFTH."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test
