"""What IDM can be told: its hyperparameters, and every published setting by name.

Free of torch; the method itself is `rome_core.distillation.idm`. Source: Zhao et al., "Improved
Distribution Matching for Dataset Condensation", CVPR 2023; "code" is github.com/uitrbn/IDM.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, Field

from rome_core.recipes.augmentation import SIGNS
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.pool import RELEASED, SOUND, PoolHyperparameters, Row
from rome_core.recipes.presets import Preset, reference_network


class IdmHyperparameters(PoolHyperparameters):
    """Everything that decides what an IDM run computes, beside dataset, ipc and seed.

    The attack and curvature fields are this project's: no released code of IDM has them.
    """

    ce_weight: float = Field(
        0.5,
        ge=0,
        le=10_000,
        description="Weight of the cross-entropy of the synthetic images against the squared "
        "distance. Code: 0.5, 0.1 or 0.8. With acc_fraction, a hundred times as much weighs the "
        "same.",
    )


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class the method needs: each quadrant draws its own."""
    assert isinstance(hyperparameters, IdmHyperparameters)
    return ipc


_TABLE = (
    Row("cifar10", 1, 5_000, 5, 0.5, 10, 100),
    Row("cifar10", 10, 256, 30, 0.5, 10, 100),
    Row("cifar10", 50, 256, 30, 0.1, 10, 500),
    Row("cifar100", 1, 5_000, 5, 0.5, 10, 100),
    Row("cifar100", 10, 256, 30, 0.1, 50, 100),
    Row("cifar100", 50, 256, 30, 0.1, 10, 500),
    Row("tinyimagenet", 1, 256, 30, 0.5, 10, 100),
    Row("tinyimagenet", 10, 256, 30, 0.5, 10, 500),
    Row("tinyimagenet", 50, 256, 30, 0.8, 50, 1_000),
)
_ALSO_ROBUST = ("cifar10", "cifar100")

# The published curves (bacon.page, read off a plot): share of the final accuracy that is reached
# at 2,000 of 20,000 iterations.
_CURVES: Mapping[tuple[str, int], str] = {
    ("cifar10", 1): "IDM's published curve stands at 90 % of its end at 2,000 iterations.",
    ("cifar10", 10): "IDM's published curve stands at 95 % of its end at 2,000 iterations.",
    ("cifar10", 50): "IDM's published curve stands at 88 % of its end at 2,000 iterations and at "
    "98 % at 4,000.",
    ("cifar100", 10): "BACON's published curve, of the same loop, stands at 98 % of its end at "
    "2,000 iterations.",
}
_LONG = (
    "20,000 iterations as published: IDM's published curve for CIFAR-100 at 50 images per class "
    "stands at 82 % of its end at 2,000, and nothing says that less would do here."
)


def _published(row: Row) -> Preset:
    notes = (
        "Flaws included: the best iterate is chosen on the test set; the accuracy that weighs the "
        "cross-entropy is 0 after each evaluation until a network is next trained, so the interval "
        "of evaluations changes the images. One job is one of the code's five experiments, and "
        "chooses among its own iterates alone. A branch of the code for one unpacked image per "
        "class, inactive in its commands, is left out."
    )
    if row.dataset == "tinyimagenet":
        notes += (
            " The code of this dataset alone starts from whole images where it should pack four, "
            "and the reverse (an inverted condition): mended here. Depth 3, as its commands say, "
            "not the usual 4."
        )
    if (row.dataset, row.ipc) == ("cifar100", 50):
        notes += (
            " Others get 46 % with this command where 50 % is published; its author then advised "
            "model_train_steps 40 (the repository's issue 1), which idm-modern-cifar100-ipc50 has."
        )
    return Preset(
        name=f"idm-2023-{row.dataset}-ipc{row.ipc}",
        title=f"IDM as released, {row.where}",
        method="idm",
        dataset=row.dataset,
        ipc=row.ipc,
        hyperparameters=MappingProxyType({**RELEASED, **row.settings()}),
        source="github.com/uitrbn/IDM at fe23bbc, command.txt",
        notes=notes,
    )


def _sound(row: Row) -> dict[str, Any]:
    settings = {
        **SOUND,
        **row.sound(),
        "network": reference_network(DATASETS[row.dataset]),
    }
    if (row.dataset, row.ipc) in _CURVES:
        settings["iterations"] = 4_000
    if (row.dataset, row.ipc) == ("cifar100", 50):
        settings["model_train_steps"] = 40
    return settings


def _modern(row: Row) -> Preset:
    return Preset(
        name=f"idm-modern-{row.dataset}-ipc{row.ipc}",
        title=f"IDM with the code's accidents mended, {row.where}",
        method="idm",
        dataset=row.dataset,
        ipc=row.ipc,
        hyperparameters=MappingProxyType(_sound(row)),
        source="the released commands, mended by this project",
        notes="One step an iteration for all classes, equal to the code's but for the tail; an "
        "accuracy that evaluations do not reset, as a fraction, with ce_weight a hundred times the "
        "released one; the last iterate, chosen on nothing. "
        + _CURVES.get((row.dataset, row.ipc), _LONG),
    )


def _pixel(row: Row) -> Preset:
    return Preset(
        name=f"idm-pixel-{row.dataset}-ipc{row.ipc}",
        title=f"IDM made robust in pixel space, {row.where}",
        method="idm",
        dataset=row.dataset,
        ipc=row.ipc,
        hyperparameters=MappingProxyType(
            {**_sound(row), "perturbed": "real", "pool_training": "adversarial"}
        ),
        source="this project: IDM's loss with ROME's attacks",
        notes="Attacked real images are matched in a pool trained on attacked images, as in ROME, "
        "by untargeted PGD in [0,1] with normalisation inside the model. Nobody published this "
        "variant. An iteration costs 8 to 18 times one of idm-modern.",
    )


_QUICK: dict[str, Any] = {
    **SOUND,
    "iterations": 100,
    "batch_real": 64,
    "net_num": 10,
    "net_generate_interval": 10,
    "model_train_steps": 5,
    "batch_train": 64,
    "lr_net": 0.05,
}
_TRIALS = (
    Preset(
        name="idm-quick-cifar10-ipc10",
        title="IDM for a CPU, CIFAR-10, 10 images per class",
        method="idm",
        dataset="cifar10",
        ipc=10,
        hyperparameters=MappingProxyType(
            {
                **_QUICK,
                "network": "convnet-w32",
                "ce_weight": 5.0,
                # A hundred iterations must do the work of thousands: at the published rate, 0.2,
                # the images hardly move.
                "lr_img": 5.0,
                "batch_real": 48,
                "net_num": 5,
                "net_generate_interval": 20,
                "model_train_steps": 4,
            }
        ),
        source="this project, sized for one CPU core",
        notes="A narrow pool and small batches: a trial, not a result.",
    ),
    Preset(
        name="idm-quick-digits-ipc10",
        title="IDM for a minute of CPU, digits, 10 images per class",
        method="idm",
        dataset="digits",
        ipc=10,
        hyperparameters=MappingProxyType(
            {
                **_QUICK,
                # Eight pixels a side leave room for two halvings and none for mosaics.
                "network": "convnet-d2-w32",
                "factor": 1,
                "augmentation": SIGNS,
                "ce_weight": 0.5,
            }
        ),
        source="this project, sized for one CPU core",
        notes="A trial, not a result.",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            *(_published(row) for row in _TABLE),
            *(_modern(row) for row in _TABLE),
            *(_pixel(row) for row in _TABLE if row.dataset in _ALSO_ROBUST),
            *_TRIALS,
        )
    }
)
