"""The method `random`: a random real subset, the baseline every distilled set must beat.

Owns its hyperparameters and presets. `factor` 2 makes it comparable with methods that pack four
half-size images into one (Kim et al. 2022; Zhao et al. 2023): four real images an image.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rome_core.recipes.augmentation import parse_strategy
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
    augmentation: str | None = Field(
        default=None,
        max_length=128,
        description="DSA strategy that students train with; null takes all operators, without flip "
        "for grey images.",
    )

    @field_validator("augmentation")
    @classmethod
    def _known_strategy(cls, strategy: str | None) -> str | None:
        if strategy is not None:
            parse_strategy(strategy)
        return strategy


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class the draw needs."""
    assert isinstance(hyperparameters, RandomHyperparameters)
    return ipc * hyperparameters.factor**2


def _packed(dataset: str, title: str, ipc: int) -> Preset:
    images = "image" if ipc == 1 else "images"
    return Preset(
        name=f"random-{dataset}-ipc{ipc}",
        title=f"Random real subset, {title}, {ipc} {images} per class, packed 2x2",
        method="random",
        dataset=dataset,
        ipc=ipc,
        hyperparameters={"factor": 2},
        source="Ours: the baseline of the same size and packing as the ROME presets.",
        notes="Four real images at half size fill the space of one, as in ROME's packed sets.",
    )


_DIGITS = Preset(
    name="random-digits-ipc10",
    title="Random real subset, digits, 10 images per class",
    method="random",
    dataset="digits",
    ipc=10,
    hyperparameters={"augmentation": "color_crop_cutout_scale_rotate"},
    source="Ours: the baseline of rome-quick-digits-ipc10.",
    notes="Digits of 8x8 pixels are not packed: nothing of them is left at half size.",
)

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        _DIGITS,
        *(_packed("cifar10", "CIFAR-10", ipc) for ipc in (1, 10, 50)),
        *(_packed("cifar100", "CIFAR-100", ipc) for ipc in (1, 10, 50)),
    )
}
