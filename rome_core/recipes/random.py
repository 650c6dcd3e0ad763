"""The method `random`: a random real subset, the baseline every distilled set must beat.

Owns its hyperparameters and presets. `factor` 2 makes it comparable with methods that pack four
half-size images into one (Kim et al. 2022; Zhao et al. 2023): four real images an image.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rome_core.recipes.presets import Preset


class RandomHyperparameters(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    iterations: Literal[1] = Field(
        default=1, description="Always one: the subset is drawn, nothing is optimised."
    )
    factor: Literal[1, 2] = Field(
        default=1,
        description=(
            "1: ipc real images a class. 2: each image is a 2x2 mosaic of real images at half "
            "size, 4*ipc of them a class, all different."
        ),
    )


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class the draw needs."""
    assert isinstance(hyperparameters, RandomHyperparameters)
    return ipc * hyperparameters.factor**2


def _preset(dataset: str, title: str, ipc: int) -> Preset:
    return Preset(
        name=f"random-{dataset}-ipc{ipc}",
        title=f"Random real subset, {title}, {ipc} images per class, packed 2x2",
        method="random",
        dataset=dataset,
        ipc=ipc,
        hyperparameters={"factor": 2},
        source="Ours: the baseline of the same size and packing as the ROME presets.",
        notes="Four real images at half size fill the space of one, as in ROME's packed sets.",
    )


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        _preset("digits", "digits", 1),
        _preset("digits", "digits", 10),
        _preset("cifar10", "CIFAR-10", 1),
        _preset("cifar10", "CIFAR-10", 10),
        _preset("cifar10", "CIFAR-10", 50),
        _preset("cifar100", "CIFAR-100", 1),
        _preset("cifar100", "CIFAR-100", 10),
        _preset("cifar100", "CIFAR-100", 50),
    )
}
