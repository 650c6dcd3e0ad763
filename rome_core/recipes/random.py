"""The method `random`: a random real subset, the baseline every distilled set must beat.

Owns its hyperparameters and presets. `factor` 2 makes it comparable with methods that pack four
half-size images into one (Kim et al. 2022; Zhao et al. 2023): four real images an image.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from rome_core.recipes.augmentation import SIGNS
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.presets import Preset, per_class
from rome_core.recipes.subsets import (
    BENCHMARKS,
    UNAUGMENTED,
    SubsetHyperparameters,
    images_per_class,
)

__all__ = ["PRESETS", "RandomHyperparameters", "images_per_class"]


class RandomHyperparameters(SubsetHyperparameters):
    """Of the random subset."""

    iterations: Literal[1] = Field(
        default=1, description="Always one: the subset is drawn, nothing is optimised."
    )


def _packed(dataset: str, title: str, ipc: int) -> Preset:
    return Preset(
        name=f"random-{dataset}-ipc{ipc}",
        title=f"Random real subset, {title}, {per_class(ipc)}, packed 2x2",
        method="random",
        dataset=dataset,
        ipc=ipc,
        hyperparameters=MappingProxyType({"factor": 2}),
        source="Ours: the baseline of the same size and packing as the ROME presets.",
        notes="Four real images at half size fill the space of one, as in ROME's packed sets.",
    )


_DIGITS = Preset(
    name="random-digits-ipc10",
    title="Random real subset, digits, 10 images per class",
    method="random",
    dataset="digits",
    ipc=10,
    hyperparameters=MappingProxyType({"augmentation": SIGNS}),
    source="Ours: the baseline of rome-quick-digits-ipc10.",
    notes="Digits of 8x8 pixels are not packed: nothing of them is left at half size.",
)


def _published(dataset: str, ipc: int) -> Preset:
    return Preset(
        name=f"random-2021-{dataset}-ipc{ipc}",
        title=f"Random real subset as published, {DATASETS[dataset].title}, {per_class(ipc)}",
        method="random",
        dataset=dataset,
        ipc=ipc,
        hyperparameters=MappingProxyType({"augmentation": "none"}),
        source="Zhao et al., Dataset Condensation with Gradient Matching, ICLR 2021, table 1, and "
        "later tables that quote it",
        notes=UNAUGMENTED,
    )


def _modern(dataset: str, ipc: int) -> Preset:
    return Preset(
        name=f"random-modern-{dataset}-ipc{ipc}",
        title=f"Random real subset, {DATASETS[dataset].title}, {per_class(ipc)}",
        method="random",
        dataset=dataset,
        ipc=ipc,
        hyperparameters=MappingProxyType({}),
        source="this project",
        notes="For sets of plain images whose students train with DSA. random-DATASET-ipcN is for "
        "packed ones.",
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            _DIGITS,
            *(_packed("cifar10", "CIFAR-10", ipc) for ipc in (1, 10, 50)),
            *(_packed("cifar100", "CIFAR-100", ipc) for ipc in (1, 10, 50)),
            *(_published(dataset, ipc) for dataset in BENCHMARKS for ipc in (1, 10, 50)),
            *(_modern(dataset, ipc) for dataset in BENCHMARKS for ipc in (1, 10, 50)),
        )
    }
)
