"""DC's and DSA's hyperparameters: the table of loops, the published settings, what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from rome_core.recipes.cost import MATCHED_GRADIENT, WEIGHT_GRADIENT, Problem
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.gradient_matching import (
    DcHyperparameters,
    DsaHyperparameters,
    GradientMatchingHyperparameters,
    images_per_class,
    loops,
    predict_cost,
)
from rome_core.recipes.gradient_matching_presets import DC_PRESETS, DSA_PRESETS
from rome_core.recipes.presets import Preset

OBJECTS = "color_crop_cutout_flip_scale_rotate"
SIGNS = "color_crop_cutout_scale_rotate"
MODELS: dict[str, type[GradientMatchingHyperparameters]] = {
    "dc": DcHyperparameters,
    "dsa": DsaHyperparameters,
}
PRESETS = {**DC_PRESETS, **DSA_PRESETS}
PUBLISHED = {
    "iterations": 1_000,
    "outer_loop": None,
    "inner_loop": None,
    "network": "convnet",
    "distance": "layerwise",
    "batch_real": 256,
    "lr_img": 0.1,
    "momentum": 0.5,
    "lr_net": 0.01,
    "batch_train": 256,
    "perturbed": "none",
    "selection": "none",
}
CIFAR10 = Problem((3, 32, 32), (5_000,) * 10, 10)


def settings(preset: Preset) -> dict[str, Any]:
    return MODELS[preset.method](**preset.hyperparameters).model_dump()


@pytest.mark.parametrize(
    ("ipc", "outer", "inner"),
    [(1, 1, 1), (10, 10, 50), (20, 20, 25), (30, 30, 20), (40, 40, 15), (50, 50, 10)],
)
def test_the_published_table(ipc: int, outer: int, inner: int) -> None:
    assert loops(ipc) == (outer, inner)


@pytest.mark.parametrize(
    ("ipc", "outer", "inner"),
    [
        (2, 2, 6),  # 1 + 49 / 9 = 6.4
        (5, 5, 23),  # 22.8
        (15, 15, 38),  # 37.5, a half goes up
        (25, 25, 23),  # 22.5
        (49, 49, 11),  # 10.5
        (75, 75, 6),
        (100, 100, 2),  # what DSA's author reports
        (101, 100, 2),
        (5_000, 100, 2),
    ],
)
def test_between_and_beyond_the_table(ipc: int, outer: int, inner: int) -> None:
    assert loops(ipc) == (outer, inner)


def test_what_is_given_is_not_of_the_table() -> None:
    assert loops(10, 3) == (3, 50)
    assert loops(10, None, 0) == (10, 0)
    assert loops(1, 4, 7) == (4, 7)


@pytest.mark.parametrize("method", ["dc", "dsa"])
@pytest.mark.parametrize("dataset", ["mnist", "fashionmnist", "svhn", "cifar10", "cifar100"])
@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_the_published_settings_field_by_field(method: str, dataset: str, ipc: int) -> None:
    name = f"{method}-2021-{dataset}-ipc{ipc}"
    if name == "dc-2021-cifar100-ipc50":
        assert name not in PRESETS
        return
    preset = PRESETS[name]
    assert (preset.dataset, preset.ipc, preset.method) == (dataset, ipc, method)
    got = settings(preset)
    assert {field: got[field] for field in PUBLISHED} == PUBLISHED
    if method == "dc":
        students = "crop_scale_rotate" if dataset == "mnist" else "none"
        assert (got["init"], got["augmentation"]) == ("noise", students)
    else:
        strategy = SIGNS if dataset in ("mnist", "svhn") else OBJECTS
        assert (got["init"], got["augmentation"]) == ("real", strategy)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_says_where_it_is_from(name: str) -> None:
    preset = PRESETS[name]
    assert preset.name == name
    assert name.startswith(f"{preset.method}-")
    assert f"-{preset.dataset}-ipc{preset.ipc}" in name
    assert preset.title
    assert preset.source
    assert preset.notes
    assert preset.dataset in DATASETS
    settings(preset)


@pytest.mark.parametrize("method", MODELS)
@pytest.mark.parametrize(
    "name", ["modern-cifar10-ipc10", "quick-cifar10-ipc10", "quick-digits-ipc10"]
)
def test_there_are_presets_of_our_own(method: str, name: str) -> None:
    assert f"{method}-{name}" in PRESETS


@pytest.mark.parametrize("model", MODELS.values())
def test_every_field_is_described(model: type[GradientMatchingHyperparameters]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("model", MODELS.values())
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.1),
        ("factor", 2),
        ("iterations", 0),
        ("outer_loop", 0),
        ("inner_loop", -1),
        ("outer_loop", 1.5),
        ("lr_img", math.nan),
        ("lr_img", 0.0),
        ("momentum", 1.0),
        ("lr_net", math.inf),
        ("batch_real", 0),
        ("batch_train", 0),
        ("distance", "cosine"),
        ("init", "mosaic"),
        ("network", "convnet-batch"),
        ("network", "convnet-d9"),
        ("augmentation", "crop_blur"),
        ("perturbed", "all"),
        ("pgd_epsilon", "eight"),
        ("curvature_of_images", -1.0),
        ("whitening", "pca"),
    ],
)
def test_what_is_refused(
    model: type[GradientMatchingHyperparameters], field: str, value: object
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate({field: value})
    assert field in str(caught.value)


def test_nothing_can_be_selected_when_nothing_is_evaluated() -> None:
    """`eval_interval` counts outer steps; how many there are, the table may say later."""
    DcHyperparameters(iterations=10, outer_loop=5, selection="holdout", eval_interval=50)
    with pytest.raises(ValidationError, match=r"eval_interval.*selection=none"):
        DcHyperparameters(iterations=10, outer_loop=5, selection="holdout", eval_interval=51)
    asked = DcHyperparameters(iterations=10, selection="holdout", eval_interval=51)
    assert (asked.selects_nothing(5), asked.selects_nothing(6)) == (True, False)
    assert not DcHyperparameters(iterations=10, eval_interval=51).selects_nothing(5)


def test_robust_accuracy_on_the_test_set_selects_nothing_in_pixels() -> None:
    DcHyperparameters(selection="test")
    DcHyperparameters(selection="test", selection_score="robust", attack_domain="reference")
    with pytest.raises(ValidationError, match="selection=holdout"):
        DcHyperparameters(selection="test", selection_score="robust")


def test_a_start_needs_as_many_real_images_as_it_makes() -> None:
    assert images_per_class(DcHyperparameters(), 7) == 7


def test_the_published_cost() -> None:
    """At 10 images per class of CIFAR-10 an iteration is ten outer steps of 10 x 256 real gradients
    and 100 matched ones, and nine times 50 epochs of 100 images: 21.8 TFLOP at 0.1015 GFLOP a pass.
    """
    cost = predict_cost(DcHyperparameters(), CIFAR10)
    assert (cost.iterations, cost.network, cost.selection) == (10_000, "convnet", 0)
    passes = (
        10 * (2_560 * WEIGHT_GRADIENT + 100 * MATCHED_GRADIENT) + 9 * 50 * 100 * WEIGHT_GRADIENT
    )
    assert 10 * cost.iteration == pytest.approx(passes)
    assert 10 * cost.iteration * 0.1015e9 == pytest.approx(21.8e12, rel=0.01)
    assert cost.peak_bytes > 50_000 * 3_072 * 4


@pytest.mark.parametrize(("ipc", "teraflop"), [(1, 0.77), (50, 131)])
def test_the_published_cost_of_other_sizes(ipc: int, teraflop: float) -> None:
    hp = DcHyperparameters()
    outer = loops(ipc)[0]
    cost = predict_cost(hp, Problem(CIFAR10.shape, CIFAR10.per_class, ipc))
    assert outer * cost.iteration * 0.1015e9 == pytest.approx(teraflop * 1e12, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"perturbed": "real"},
        {"perturbed": "synthetic"},
        {"curvature_of_images": 1.0},
        {"curvature_of_networks": 1.0},
    ],
)
def test_what_is_added_costs_more(changes: dict[str, Any]) -> None:
    plain = predict_cost(DsaHyperparameters(), CIFAR10)
    assert predict_cost(DsaHyperparameters(**changes), CIFAR10).iteration > plain.iteration


def test_judging_costs_passes_of_its_own() -> None:
    hp = DcHyperparameters(selection="holdout", eval_interval=5_000, num_eval=2, eval_epochs=99)
    cost = predict_cost(hp, CIFAR10)
    # Two evaluations of two students: 100 epochs of 100 images, then 5,000 held-out images.
    assert cost.selection == pytest.approx(2 * 2 * (100 * 100 * WEIGHT_GRADIENT + 5_000))
