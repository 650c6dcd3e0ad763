"""IDM's and BACON's settings: the published tables, what was mended, what is refused, the cost."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rome_core import recipes
from rome_core.recipes import catalogue
from rome_core.recipes.bacon import BaconHyperparameters
from rome_core.recipes.cost import Problem, graph_bytes
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.idm import IdmHyperparameters
from rome_core.recipes.pool import PoolHyperparameters, predict_cost
from rome_core.recipes.rome import RomeHyperparameters

MODELS: dict[str, type[PoolHyperparameters]] = {
    "idm": IdmHyperparameters,
    "bacon": BaconHyperparameters,
}

# The released commands: dataset, ipc, batch_real, net_generate_interval, ce_weight,
# model_train_steps, eval_interval.
IDM = [
    ("cifar10", 1, 5000, 5, 0.5, 10, 100),
    ("cifar10", 10, 256, 30, 0.5, 10, 100),
    ("cifar10", 50, 256, 30, 0.1, 10, 500),
    ("cifar100", 1, 5000, 5, 0.5, 10, 100),
    ("cifar100", 10, 256, 30, 0.1, 50, 100),
    ("cifar100", 50, 256, 30, 0.1, 10, 500),
    ("tinyimagenet", 1, 256, 30, 0.5, 10, 100),
    ("tinyimagenet", 10, 256, 30, 0.5, 10, 500),
    ("tinyimagenet", 50, 256, 30, 0.8, 50, 1000),
]
BACON = [
    *IDM[:5],
    ("cifar100", 50, 256, 30, 0.1, 50, 500),
    ("tinyimagenet", 1, 256, 30, 0.5, 10, 100),
    ("tinyimagenet", 10, 256, 30, 0.5, 50, 500),
    ("svhn", 1, 5000, 5, 0.5, 10, 100),
    ("svhn", 10, 256, 30, 0.5, 10, 100),
    ("svhn", 50, 256, 30, 0.1, 10, 500),
    *(
        (dataset, *row)
        for dataset in ("mnist", "fashionmnist")
        for row in (
            (1, 5000, 5, 0.5, 10, 100),
            (10, 256, 30, 0.5, 10, 100),
            (50, 256, 30, 0.5, 10, 100),
        )
    ),
]
PUBLISHED = [("idm", "2023", *row) for row in IDM] + [("bacon", "2024", *row) for row in BACON]
COMMON = {
    "iterations": 20_001,
    "network": "convnet",
    "augmentation": "color_crop_cutout_flip_scale_rotate",
    "init": "real",
    "factor": 2,
    "perf_weight": "acc_percent",
    "perturbed": "none",
    "image_step": "per_class",
    "lr_img": 0.2,
    "momentum": 0.5,
    "net_begin": 3,
    "net_num": 100,
    "train_net_num": 1,
    "fetch_net_num": 2,
    "batch_train": 256,
    "pool_training": "clean",
    "lr_net": 0.01,
    "net_momentum": 0.9,
    "net_decay": 5e-4,
    "meter": "since_evaluation",
    "selection": "test",
    "selection_score": "clean",
    "num_eval": 5,
    "eval_epochs": 1000,
}
# Nothing of the published protocol, or without effect where nothing is attacked.
FREE = {"holdout", "meter_decay", "compile"} | {
    *("attack_domain", "pgd_epsilon", "pgd_step", "pgd_steps", "target_rule")
}


def settings(name: str) -> dict[str, Any]:
    preset = catalogue.preset(name)
    assert preset is not None
    return MODELS[preset.method](**preset.hyperparameters).model_dump()


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: "-".join(map(str, row[:4])))
def test_the_released_commands_field_by_field(row: tuple[Any, ...]) -> None:
    method, year, dataset, ipc, batch_real, interval, ce_weight, steps, evaluation = row
    name = f"{method}-{year}-{dataset}-ipc{ipc}"
    preset = catalogue.preset(name)
    assert preset is not None
    assert (preset.dataset, preset.ipc, preset.method) == (dataset, ipc, method)
    assert "test set" in preset.notes
    expected = COMMON | {
        "batch_real": batch_real,
        "net_generate_interval": interval,
        "ce_weight": ce_weight,
        "model_train_steps": steps,
        "eval_interval": evaluation,
    }
    if method == "bacon":
        expected["tv_weight"] = 0.8
    got = settings(name)
    assert got.keys() == expected.keys() | FREE
    assert {field: got[field] for field in expected} == expected


def test_no_other_preset_says_it_is_released() -> None:
    names = {f"{method}-{year}-{dataset}-ipc{ipc}" for method, year, dataset, ipc, *_ in PUBLISHED}
    for method, year in (("idm", "2023"), ("bacon", "2024")):
        recipe = catalogue.method(method)
        assert recipe is not None
        released = {name for name in recipe.presets if name.startswith(f"{method}-{year}")}
        assert released == {name for name in names if name.startswith(method)}


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: "-".join(map(str, row[:4])))
def test_the_modern_presets_differ_only_in_what_was_mended(row: tuple[Any, ...]) -> None:
    method, year, dataset, ipc, *_, ce_weight, _, _ = row
    released = settings(f"{method}-{year}-{dataset}-ipc{ipc}")
    modern = settings(f"{method}-modern-{dataset}-ipc{ipc}")
    short = dataset == "cifar10" or (dataset, ipc) == ("cifar100", 10)
    expected = {
        "iterations": 4_000 if short else 20_000,
        "image_step": "batched",
        "perf_weight": "acc_fraction",
        "ce_weight": 100 * ce_weight,
        "meter": "ema",
        "selection": "none",
    }
    if (method, dataset, ipc) == ("idm", "cifar100", 50):
        expected["model_train_steps"] = 40
    if dataset in ("mnist", "svhn"):
        expected["augmentation"] = "color_crop_cutout_scale_rotate"
    if dataset == "tinyimagenet":
        expected["network"] = "convnet-d4"  # as every other modern preset for it
    assert {name: modern[name] for name in modern if modern[name] != released[name]} == expected


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_the_robust_presets_attack_and_change_nothing_else(
    method: str, dataset: str, ipc: int
) -> None:
    modern = settings(f"{method}-modern-{dataset}-ipc{ipc}")
    robust = settings(f"{method}-pixel-{dataset}-ipc{ipc}")
    assert robust == modern | {"perturbed": "real", "pool_training": "adversarial"}
    assert robust["attack_domain"] == "pixel"


@pytest.mark.parametrize("method", MODELS)
def test_every_preset_is_valid_and_says_where_it_is_from(method: str) -> None:
    recipe = catalogue.method(method)
    assert recipe is not None
    for name, preset in recipe.presets.items():
        assert preset.name == name
        assert preset.title
        assert preset.source
        assert preset.notes
        assert preset.dataset in DATASETS
        recipes.canonical({"preset": name}, seed=1)
    assert {f"{method}-quick-{dataset}-ipc10" for dataset in ("cifar10", "digits")} <= set(
        recipe.presets
    )


@pytest.mark.parametrize("method", MODELS)
def test_every_field_is_described(method: str) -> None:
    for name, field in MODELS[method].model_fields.items():
        assert field.description, name


def test_specs_of_rome_keep_their_bytes() -> None:
    """Jobs of before the methods shared their fields are found by these."""
    hashes = {
        preset: recipes.spec_hash(recipes.canonical({"preset": preset}, seed=7))[:16]
        for preset in ("rome-2025-cifar10-ipc10", "rome-pixel-cifar100-ipc1")
    }
    assert hashes == {
        "rome-2025-cifar10-ipc10": "5bfe03cde3eccd22",
        "rome-pixel-cifar100-ipc1": "1cba3ea19a35d172",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", 0.2),
        ("rob_loss", "l2"),
        ("perturbed", "pool"),
        ("network", "resnet18-batch"),
        ("network", "convnet-batch"),
        ("net_begin", 101),
        ("fetch_net_num", 5),
        ("curvature_of_images", -1.0),
        ("curvature_step", 0.0),
        ("selection_score", "best"),
    ],
)
@pytest.mark.parametrize("model", MODELS.values())
def test_what_is_refused(model: type[PoolHyperparameters], field: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({field: value})
    assert field in str(caught.value)


def test_a_spread_takes_two_real_images() -> None:
    with pytest.raises(ValidationError, match="batch_real"):
        BaconHyperparameters(batch_real=1)
    assert IdmHyperparameters(batch_real=1).batch_real == 1


@pytest.mark.parametrize("model", [*MODELS.values(), RomeHyperparameters])
def test_robust_scores_of_the_test_set_are_for_the_reference_domain(
    model: type[PoolHyperparameters],
) -> None:
    chosen: dict[str, Any] = {"selection": "test"}
    model.model_validate(chosen | {"selection_score": "clean"})
    model.model_validate(chosen | {"selection_score": "robust", "attack_domain": "reference"})
    with pytest.raises(ValidationError, match="selection=holdout"):
        model.model_validate(chosen | {"selection_score": "robust"})


CIFAR10 = Problem((3, 32, 32), (5_000,) * 10, 10)


def test_the_cost_is_the_counted_passes() -> None:
    """10 classes of 256 real images forward, 400 decoded ones forward and backward; 20 batches of
    256 for the weights.
    """
    preset = catalogue.preset("idm-2023-cifar10-ipc10")
    assert preset is not None
    released = IdmHyperparameters(**preset.hyperparameters)
    plain = predict_cost(released, CIFAR10)
    assert plain.iteration == pytest.approx(2_560 + 400 * 2 + 5_120 * 2.93)
    # Each of 200 times, five students of 1,001 epochs and 10,000 test images.
    assert plain.selection == pytest.approx(200 * 5 * (400 * 1_001 * 2.93 + 10_000))
    assert plain.network == "convnet"


@pytest.mark.parametrize(
    ("changes", "more"),
    [
        ({"perturbed": "real"}, 2_560 * 20),
        ({"perturbed": "synthetic"}, 400 * 20),
        ({"pool_training": "adversarial"}, 5_120 * 20),
        ({"pool_training": "both"}, 5_120 * (20 + 2.93)),
        ({"curvature_of_images": 1.0}, 400 * 10),
        ({"curvature_of_networks": 1.0}, 5_120 * 11.86),
        ({"train_net_num": 2}, 2_560 + 400 * 2),
        ({"batch_real": 5_000, "selection": "holdout"}, (4_500 - 256) * 10),
    ],
)
def test_what_options_add_to_the_cost(changes: dict[str, Any], more: float) -> None:
    plain = predict_cost(IdmHyperparameters(), CIFAR10).iteration
    changed = predict_cost(IdmHyperparameters(**changes), CIFAR10).iteration
    assert changed - plain == pytest.approx(more)


def test_a_curvature_is_held_in_memory_for_a_group_of_images() -> None:
    plain = predict_cost(IdmHyperparameters(), CIFAR10).peak_bytes
    one = graph_bytes("convnet", 32, 64)
    for changes, more in (
        ({"curvature_of_images": 1.0}, 5 * one),
        ({"curvature_of_networks": 1.0}, 0),  # 64 images five times, or the 400 of the set
        ({"batch_train": 8, "curvature_of_images": 1.0, "curvature_of_networks": 1.0}, 5 * one),
    ):
        assert predict_cost(IdmHyperparameters(**changes), CIFAR10).peak_bytes == plain + more
    single = {"image_step": "per_class", "factor": 1}
    plain = predict_cost(IdmHyperparameters(**single), CIFAR10).peak_bytes
    curved = predict_cost(IdmHyperparameters(**single, curvature_of_networks=1.0), CIFAR10)
    assert curved.peak_bytes == plain + 5 * one - graph_bytes("convnet", 32, 10)
