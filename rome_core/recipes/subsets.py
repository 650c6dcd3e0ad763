"""What every choice of real images can be told: how they are stored and what students do.

Owns the fields that `random` and the coresets share. Free of torch.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, Field

from rome_core.recipes.hyperparameters import MethodHyperparameters, Strategy

BENCHMARKS: Final = ("cifar10", "cifar100", "tinyimagenet", "svhn", "mnist", "fashionmnist")
"""The datasets of the field's tables."""

UNAUGMENTED: Final = (
    "Published students of real subsets train without augmentation, and so do those of this set "
    "unless told otherwise: give students.epochs 300 for the published protocol. With augmentation "
    "real subsets do several points better, which is what to hold against later methods."
)


class SubsetHyperparameters(MethodHyperparameters):
    """Of sets of real images."""

    factor: Literal[1, 2] = Field(
        default=1,
        description=(
            "1: ipc real images a class. 2: each image is a 2x2 mosaic of real images at half "
            "size, 4*ipc of them a class, all different."
        ),
    )
    augmentation: Strategy | None = Field(
        default=None,
        description="DSA strategy that students train with; null takes the dataset's own, which "
        "mirrors no digits.",
    )


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class the choice needs."""
    assert isinstance(hyperparameters, SubsetHyperparameters)
    return ipc * hyperparameters.factor**2
