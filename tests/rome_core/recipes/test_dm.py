"""DM's hyperparameters, presets and cost."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rome_core import recipes
from rome_core.recipes import catalogue
from rome_core.recipes.cost import Problem, graph_bytes
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.dm import PRESETS, DmHyperparameters, predict_cost


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "convnet-batch"},
        {"network": "resnet18-batch"},
        {"augmentation": "twist"},
        {"whitening": "zca", "attack_domain": "reference"},
        {"selection": "holdout", "iterations": 10},
        {"selection": "test", "selection_score": "robust"},
        {"networks_per_iteration": 0},
        {"curvature_of_networks": 1.0},  # it trains none
    ],
)
def test_what_dm_cannot_do_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DmHyperparameters(**changes)


def test_every_published_setting_has_a_preset() -> None:
    for dataset in ("cifar10", "cifar100", "tinyimagenet", "svhn", "mnist"):
        for ipc in (1, 10, 50):
            assert f"dm-2023-{dataset}-ipc{ipc}" in PRESETS
    for ipc in (100, 200, 500, 1000, 1250):
        assert PRESETS[f"dm-2023-cifar10-ipc{ipc}"].hyperparameters["lr_img"] == 10.0
    assert PRESETS["dm-2023-cifar10-ipc50"].hyperparameters["lr_img"] == 1.0
    assert PRESETS["dm-2023-tinyimagenet-ipc1"].hyperparameters["network"] == "convnet-d4"
    assert "flip" not in PRESETS["dm-2023-svhn-ipc1"].hyperparameters["augmentation"]


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_specs(name: str) -> None:
    spec = recipes.canonical({"preset": name}, seed=1)
    assert spec["overrides"] == []
    assert spec["hyperparameters"]["perturbed"] == "none"


def problem(ipc: int) -> Problem:
    facts = DATASETS["cifar10"]
    return Problem(facts.shape, facts.train_per_class, ipc)


def test_the_cost_is_that_of_the_published_tables() -> None:
    """5.2, 5.6 and 7.2 PFLOP at 0.1015 GFLOP a forward pass."""
    hp = DmHyperparameters()
    for ipc, wanted in ((1, 5.2), (10, 5.6), (50, 7.2)):
        assert predict_cost(hp, problem(ipc)).passes * 0.1015e-6 == pytest.approx(wanted, rel=0.03)


def test_what_is_asked_for_besides_costs_more() -> None:
    plain = predict_cost(DmHyperparameters(), problem(10))
    attacked = predict_cost(DmHyperparameters(perturbed="real"), problem(10))
    assert attacked.iteration == plain.iteration + 2 * 10 * 2560
    bent = predict_cost(DmHyperparameters(curvature_of_images=1.0), problem(10))
    assert bent.iteration == plain.iteration + 10 * 100
    assert bent.peak_bytes == plain.peak_bytes + 5 * graph_bytes("convnet", 32, 64)
    many = predict_cost(DmHyperparameters(networks_per_iteration=3), problem(10))
    assert many.iteration == 3 * plain.iteration
    assert plain.selection == 0
    judged = predict_cost(DmHyperparameters(selection="holdout"), problem(10))
    # 20 times, five students of 1,001 epochs on 100 images, each judged on a tenth of 50,000.
    assert judged.selection == pytest.approx(20 * 5 * (2.93 * 1001 * 100 + 5_000))
    robust = {"selection": "holdout", "selection_score": "robust"}
    attacked = predict_cost(DmHyperparameters(**robust), problem(10))
    assert attacked.selection == pytest.approx(20 * 5 * (2.93 * 1001 * 100 + 5_000 * 21))
    assert judged.iteration == plain.iteration
    assert plain.peak_bytes > 4 * 50_000 * 3 * 32 * 32


def test_the_catalogue_knows_it() -> None:
    method = catalogue.method("dm")
    assert method is not None
    assert method.experts(DmHyperparameters()) is None
    assert method.images_per_class(DmHyperparameters(), 7) == 7
