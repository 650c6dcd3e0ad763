"""ROME's hyperparameters: the published table, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.rome import PRESETS, RomeHyperparameters

# The released commands: dataset, ipc, batch_real, net_generate_interval, ce_weight,
# model_train_steps, eval_interval.
PUBLISHED = [
    ("cifar10", 1, 5000, 5, 0.5, 10, 100),
    ("cifar10", 10, 256, 30, 0.5, 10, 100),
    ("cifar10", 50, 256, 30, 0.1, 10, 500),
    ("cifar100", 1, 5000, 5, 0.5, 10, 100),
    ("cifar100", 10, 256, 30, 0.1, 50, 100),
    ("cifar100", 50, 256, 30, 0.1, 50, 500),
]
COMMON = {
    "iterations": 20_001,
    "network": "convnet",
    "embed_layer": "last",
    "augmentation": "color_crop_cutout_flip_scale_rotate",
    "init": "real",
    "factor": 2,
    "alpha": 0.2,
    "rob_loss": "tv2",
    "perf_weight": "acc_percent",
    "perturbed": "real",
    "attack_domain": "reference",
    "pgd_epsilon": "8/255",
    "pgd_step": "2/225",
    "pgd_steps": 10,
    "target_rule": "mod10",
    "image_step": "per_class",
    "lr_img": 0.2,
    "momentum": 0.5,
    "net_begin": 3,
    "net_num": 100,
    "train_net_num": 1,
    "fetch_net_num": 2,
    "batch_train": 256,
    "pool_training": "adversarial",
    "lr_net": 0.01,
    "net_momentum": 0.9,
    "net_decay": 5e-4,
    "meter": "since_evaluation",
    "selection": "test",
    "num_eval": 5,
    "eval_epochs": 1000,
}
FREE = {"holdout", "meter_decay", "compile"}  # nothing of the published protocol


def settings(name: str) -> dict[str, Any]:
    return RomeHyperparameters(**PRESETS[name].hyperparameters).model_dump()


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[0]}-ipc{row[1]}")
def test_the_released_commands_field_by_field(row: tuple[Any, ...]) -> None:
    dataset, ipc, batch_real, interval, ce_weight, steps, evaluation = row
    preset = PRESETS[f"rome-2025-{dataset}-ipc{ipc}"]
    assert (preset.dataset, preset.ipc, preset.method) == (dataset, ipc, "rome")
    expected = COMMON | {
        "batch_real": batch_real,
        "net_generate_interval": interval,
        "ce_weight": ce_weight,
        "model_train_steps": steps,
        "eval_interval": evaluation,
    }
    got = settings(preset.name)
    assert got.keys() == expected.keys() | FREE
    assert {name: got[name] for name in expected} == expected


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[0]}-ipc{row[1]}")
def test_the_pixel_presets_differ_only_in_what_was_mended(row: tuple[Any, ...]) -> None:
    dataset, ipc = row[:2]
    released = settings(f"rome-2025-{dataset}-ipc{ipc}")
    sound = settings(f"rome-pixel-{dataset}-ipc{ipc}")
    changed = {name: sound[name] for name in sound if sound[name] != released[name]}
    assert changed == {
        "iterations": 20_000,
        "attack_domain": "pixel",
        "pgd_step": "2/255",
        "target_rule": "modC",
        "image_step": "batched",
        "perf_weight": "acc_fraction",
        "ce_weight": 100 * row[4],
        "meter": "ema",
        "selection": "none",
    }


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_says_where_it_is_from(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert preset.title
    assert preset.source
    assert preset.dataset in DATASETS
    settings(name)


def test_every_field_is_described() -> None:
    for name, field in RomeHyperparameters.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.1),
        ("lr_img", math.nan),
        ("lr_img", math.inf),
        ("lr_img", 0.0),
        ("lr_img", "0.2"),
        ("iterations", 0),
        ("iterations", 1.5),
        ("iterations", True),
        ("alpha", 1.01),
        ("alpha", -0.1),
        ("momentum", 1.0),
        ("ce_weight", -1.0),
        ("batch_real", 0),
        ("pgd_steps", 0),
        ("pgd_epsilon", "8/0"),
        ("pgd_epsilon", "-8/255"),
        ("pgd_epsilon", "300/255"),
        ("pgd_epsilon", "eight"),
        ("pgd_epsilon", 0.03),
        ("factor", 3),
        ("rob_loss", "tv"),
        ("network", "resnet"),
        ("network", "convnet-d9"),
        ("network", "convnet-batch"),
        ("augmentation", "crop_blur"),
        ("net_begin", 101),
        ("train_net_num", 5),
        ("fetch_net_num", 5),
        ("selection", "test"),
        ("holdout", 0.0),
    ],
)
def test_what_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        RomeHyperparameters.model_validate({field: value})
    assert field in str(caught.value)


def test_nothing_can_be_selected_when_nothing_is_evaluated() -> None:
    with pytest.raises(ValidationError, match=r"eval_interval.*selection=none"):
        RomeHyperparameters(iterations=10, selection="holdout", eval_interval=11)


def test_names_become_canonical() -> None:
    assert RomeHyperparameters(network="ConvNet-W128-d2").network == "convnet-d2"
