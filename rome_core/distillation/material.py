"""The real images a run distils from, by class, and the synthetic ones it starts with.

Owns which real images a class has, what is held out, the units images are in, the start and the
decoding of packed images. Every built-in method works on one of these. Must not own a draw's name
(`draws`) nor an update.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from rome_core import augment, networks
from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.errors import CoreError
from rome_core.recipes.networks import NetworkSpec
from rome_core.synthetic import SyntheticSet


def check_packing(size: int, factor: int) -> None:
    """Raises CoreError size_not_divisible where images do not divide into factor^2 equal ones."""
    if size % factor:
        raise CoreError(
            "size_not_divisible",
            f"Images of {size} pixels a side cannot hold {factor**2} smaller ones.",
            "Set factor=1.",
            field="hyperparameters.factor",
        )


class Material:
    """Real and first synthetic images of one run.

    Args:
        dataset: training images as pixels in [0,1], with the space networks take them in.
        ipc: stored images per class; with `factor` 2 each holds four decoded ones.
        holdout: fraction of each class kept out of the distillation, None for nothing.
        device: where images live. Draws are made on the CPU, so they do not depend on it.
        dtype: float64 serves proofs, not runs.

    `members[c]` holds the positions in the training set of class c's images to distil from,
    `training` those of all classes, `held_out` the others'. Raises CoreError class_too_small or
    size_not_divisible.
    """

    def __init__(
        self,
        dataset: Dataset,
        draws: Draws,
        *,
        ipc: int,
        factor: int = 1,
        holdout: float | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dataset, self.draws = dataset, draws
        self.ipc, self.factor, self.classes = ipc, factor, dataset.classes
        self.device, self.dtype = torch.device(device), dtype
        self._pixels = dataset.train_images.to(self.device)  # (n, c, h, w) in [0, 1]
        self._labels = dataset.train_labels.to(self.device)
        self.members, self.held_out = self._split(holdout)
        self.training = torch.cat(self.members).sort().values
        check_packing(self.size, factor)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of an image."""
        return self.dataset.shape

    @property
    def size(self) -> int:
        return self.dataset.shape[2]

    @property
    def decoded(self) -> int:
        """Images a network sees of each class."""
        return self.ipc * self.factor**2

    @property
    def labels(self) -> Tensor:
        """Labels of the stored images, class-major: (classes * ipc,)."""
        return torch.arange(self.classes, device=self.device).repeat_interleave(self.ipc)

    def images(self, chosen: Tensor) -> Tensor:
        """Training images at some positions, as networks take them: (n, c, h, w)."""
        return self.dataset.space.from_pixels(self._pixels[chosen.to(self.device)].to(self.dtype))

    def labels_of(self, chosen: Tensor) -> Tensor:
        """Their labels: (n,)."""
        return self._labels[chosen.to(self.device)]

    def start(self, init: Literal["real", "noise"]) -> Tensor:
        """The first synthetic images: (classes * ipc, c, h, w), class-major.

        Noise is standard normal. Real images are drawn of the class without replacement; a packed
        one is four of them at half size, each drawn by itself.
        """
        return torch.cat([self._start_class(label, init) for label in range(self.classes)])

    def decode(self, images: Tensor, k: int) -> Tensor:
        """Stored images of k classes to what networks see, still class-major."""
        if self.factor == 1:
            return images
        tiles, _ = augment.expand(images, factor=self.factor)
        shape = tiles.shape[1:]
        return tiles.view(self.factor**2, k, self.ipc, *shape).transpose(0, 1).reshape(-1, *shape)

    def strategy(self, asked: str | None) -> str:
        """The strategy asked for, or the dataset's own where none is named."""
        return self.dataset.augmentation if asked is None else asked

    def augmentations(
        self, strategy: str | None, iteration: int, turn: int, labels: Iterable[int]
    ) -> list[augment.Augmentation]:
        """What some classes' real and synthetic images are augmented by alike: a row each."""
        return [
            augment.draw(
                self.strategy(strategy),
                1,
                size=self.size,
                generator=self.draws.augmentation(iteration, turn, label),
                siamese=True,
            )
            for label in labels
        ]

    def network(self, spec: NetworkSpec | str, generator: torch.Generator) -> networks.Network:
        """A freshly initialised network for these images, in training mode."""
        channels, size, _ = self.shape
        made = networks.build(
            spec, channels=channels, size=size, classes=self.classes, generator=generator
        )
        return made.to(self.device, self.dtype)

    def groups(self, counts: Sequence[int], limit: int) -> Iterator[range]:
        """Consecutive classes which together hold at most `limit` images, one class at least."""
        first = held = 0
        for label, count in enumerate(counts):
            if label > first and held + count > limit:
                yield range(first, label)
                first, held = label, 0
            held += count
        yield range(first, len(counts))

    def set_of(
        self,
        images: Tensor,
        *,
        augmentation: str | None,
        method: str,
        learning_rate: float = 0.01,
        soft_labels: Tensor | None = None,
    ) -> SyntheticSet:
        """The synthetic set of class-major images; soft labels are one row a decoded image."""
        return SyntheticSet.of(
            images,
            self.labels,
            self.dataset,
            factor=self.factor,
            ipc=self.ipc,
            augmentation=self.strategy(augmentation),
            method=method,
            learning_rate=learning_rate,
            soft_labels=soft_labels,
        )

    def _split(self, holdout: float | None) -> tuple[list[Tensor], Tensor]:
        labels = self.dataset.train_labels
        used, kept = [], [torch.empty(0, dtype=torch.int64)]
        for label in range(self.classes):
            members = torch.nonzero(labels == label).flatten()
            if holdout is not None:
                order = torch.randperm(len(members), generator=self.draws.holdout(label))
                out = max(1, round(holdout * len(members)))
                kept.append(members[order[:out]])
                members = members[order[out:]].sort().values
            if len(members) < self.ipc:
                raise CoreError(
                    "class_too_small",
                    f"Class {label} has {len(members)} images to distil from, ipc is {self.ipc}.",
                    "Lower ipc.",
                    field="ipc",
                )
            used.append(members)
        return used, torch.cat(kept)

    def _start_class(self, label: int, init: Literal["real", "noise"]) -> Tensor:
        tiles = self.factor**2
        if init == "noise":
            noise = torch.randn((self.ipc, *self.shape), generator=self.draws.init(label, 0))
            return noise.to(self.device, self.dtype)
        quadrants = []
        for quadrant in range(tiles):
            members = self.members[label]
            order = torch.randperm(len(members), generator=self.draws.init(label, quadrant))
            quadrants.append(self.images(members[order[: self.ipc]]))
        if tiles == 1:
            return quadrants[0]
        small = [augment.shrink(quadrant, self.factor) for quadrant in quadrants]
        return augment.mosaic(torch.stack(small, dim=1))
