"""What choices of real images can be told, which networks they need, and specs without ipc."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rome_core import recipes
from rome_core.recipes import SpecError, catalogue, random
from rome_core.recipes.coresets import (
    PRESETS,
    ForgettingHyperparameters,
    HerdingHyperparameters,
    KMeansHyperparameters,
    experts,
    images_per_class,
    predict_cost,
)
from rome_core.recipes.cost import Problem
from rome_core.recipes.datasets import DATASETS

EVERY = {name: preset for presets in PRESETS.values() for name, preset in presets.items()}


def test_features_that_need_no_training_need_no_experts() -> None:
    for features in ("pixels", "random"):
        assert experts(HerdingHyperparameters(features=features)) is None
    needed = experts(HerdingHyperparameters(network="convnet-w32", net_epochs=7, lr_net=0.05))
    assert needed is not None
    assert (needed.network, needed.epochs, needed.count, needed.keep) == (
        "convnet-w32",
        7,
        1,
        "last",
    )
    assert (needed.learning_rate, needed.schedule) == (0.05, "step")
    assert (needed.momentum, needed.weight_decay, needed.adversarial) == (0.9, 5e-4, None)


def test_rules_share_their_network() -> None:
    """Two choices by the same network ask for equal experts, so that one training serves both."""
    assert experts(HerdingHyperparameters()) == experts(KMeansHyperparameters(restarts=9))
    counted = experts(ForgettingHyperparameters(net_count=3))
    assert counted is not None
    assert counted.count == 3


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (HerdingHyperparameters, {"network": "convnet-batch"}),
        (HerdingHyperparameters, {"net_augmentation": "twist"}),
        (HerdingHyperparameters, {"start": "random"}),
        (ForgettingHyperparameters, {"features": "pixels"}),
        (KMeansHyperparameters, {"restarts": 0}),
    ],
)
def test_what_a_rule_does_not_know_is_refused(model: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model(**changes)


def test_every_number_of_the_tables_has_a_preset() -> None:
    for dataset in ("cifar10", "cifar100", "tinyimagenet", "svhn", "mnist", "fashionmnist"):
        for ipc in (1, 10, 50):
            assert f"herding-2021-{dataset}-ipc{ipc}" in EVERY
            assert f"random-2021-{dataset}-ipc{ipc}" in random.PRESETS
            known = (dataset, ipc) != ("tinyimagenet", 50)
            assert (f"k-center-2021-{dataset}-ipc{ipc}" in EVERY) is known
    for dataset in ("cifar10", "cifar100"):
        for ipc in (1, 10, 50):
            assert f"forgetting-2021-{dataset}-ipc{ipc}" in EVERY
            assert f"k-means-2022-{dataset}-ipc{ipc}" in EVERY
            assert f"k-means-modern-{dataset}-ipc{ipc}" in EVERY


@pytest.mark.parametrize("name", list(EVERY))
def test_presets_are_specs(name: str) -> None:
    spec = recipes.canonical({"preset": name}, seed=1)
    assert spec["overrides"] == []
    plain = spec["hyperparameters"]["augmentation"] == "none"
    assert plain is ("-2021-" in name)  # published students train without
    signs = spec["dataset"] in ("mnist", "svhn", "digits")
    assert ("flip" in spec["hyperparameters"]["net_augmentation"]) is not signs


def test_packing_takes_four_times_the_images() -> None:
    assert images_per_class(HerdingHyperparameters(factor=2), 10) == 40
    body = {"method": "herding", "dataset": "digits", "hyperparameters": {"factor": 2}}
    with pytest.raises(SpecError) as caught:
        recipes.canonical({**body, "ipc": 36}, seed=1)
    assert caught.value.problems[0].remedy == "Ask for at most 35."


def test_the_cost_is_the_networks_training() -> None:
    facts = DATASETS["cifar10"]
    problem = Problem(facts.shape, facts.train_per_class, 10)
    trained = predict_cost(HerdingHyperparameters(net_epochs=20), problem)
    assert trained.preparation == pytest.approx(2.93 * 20 * 50_000)
    assert trained.iterations * trained.iteration == 50_000
    assert predict_cost(HerdingHyperparameters(features="random"), problem).passes == 50_000
    assert predict_cost(HerdingHyperparameters(features="pixels"), problem).passes == 0
    counted = predict_cost(ForgettingHyperparameters(net_epochs=20, net_count=3), problem)
    assert counted.passes == pytest.approx(3 * 2.93 * 20 * 50_000)


def test_the_full_set_takes_no_number_of_images() -> None:
    spec = recipes.canonical({"method": "full", "dataset": "digits"}, seed=1)
    assert spec["ipc"] is None
    assert recipes.canonical(spec, seed=2) == spec
    with pytest.raises(SpecError) as caught:
        recipes.canonical({"method": "full", "dataset": "digits", "ipc": 10}, seed=1)
    (problem,) = caught.value.problems
    assert (problem.field, problem.remedy) == ("ipc", "Leave ipc out.")
    method = catalogue.method("full")
    assert method is not None
    assert method.as_dict()["takes_ipc"] is False


def test_every_other_method_needs_the_number() -> None:
    for recipe in catalogue.methods():
        if recipe.takes_ipc:
            with pytest.raises(SpecError) as caught:
                recipes.canonical({"method": recipe.name, "dataset": "digits"}, seed=1)
            assert [problem.field for problem in caught.value.problems] == ["ipc"]
