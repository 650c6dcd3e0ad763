"""A dataset in memory, and the way between its pixels and normalised tensors.

Owns the split rule of datasets that come without a test set. Must not read files.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

EVERY_FIFTH = "of each class, in file order, every fifth image is a test image"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images are pixels in [0,1], (n, c, h, w) float32; labels (n,) int64 from 0.

    `digests` maps every file read to its SHA-256.
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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    def normalise(self, pixels: Tensor) -> Tensor:
        """Pixels in [0,1] to the units that networks take: (n, c, h, w) -> (n, c, h, w)."""
        return (pixels - self.mean.to(pixels).view(-1, 1, 1)) / self.std.to(pixels).view(-1, 1, 1)

    def denormalise(self, x: Tensor) -> Tensor:
        """The way back to pixels; nothing is clipped: (n, c, h, w) -> (n, c, h, w)."""
        return x * self.std.to(x).view(-1, 1, 1) + self.mean.to(x).view(-1, 1, 1)


def pixels(images: npt.NDArray[np.uint8], whole: float = 255) -> Tensor:
    """(n, c, h, w) integers up to `whole` to float32 in [0,1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(torch.float32).div_(whole)


def is_test(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which images a set without a test split gives up for one: see EVERY_FIFTH."""
    test = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test
