"""BPTT's hyperparameters: what is refused, and what a run is said to cost."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rome_core.recipes import catalogue
from rome_core.recipes.bptt import PRESETS, BpttHyperparameters, predict_cost
from rome_core.recipes.cost import ADJOINT_STEP, INPUT_GRADIENT, WEIGHT_GRADIENT, Problem
from rome_core.recipes.datasets import DATASETS

CIFAR = Problem((3, 32, 32), (5000,) * 10, 10)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_presets_are_whole(preset: Any) -> None:
    made = BpttHyperparameters(**preset.hyperparameters)
    assert preset.dataset in DATASETS
    assert preset.source
    assert preset.notes
    assert (made.perturbed == "real") == preset.name.startswith("bptt-pixel-")
    assert made.attack_domain == "pixel"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"network": "convnet-batch"}, "batch normalisation"),
        ({"window": 21, "unroll": 20}, "window is above unroll"),
        ({"perturbed": "synthetic"}, "real"),
        ({"confidence": 1.0}, "less than 1"),
        ({"lr_student": 0.0}, "greater than 0"),
        ({"selection": "holdout", "iterations": 10}, "eval_interval"),
        ({"labels": "teacher"}, "learned"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        BpttHyperparameters(**changes)


def test_the_cost_is_the_way_there_and_back() -> None:
    asked = BpttHyperparameters(unroll=30, window=10, batch_real=400, pgd_steps=4)
    way, back = 10 * 100 * WEIGHT_GRADIENT, 10 * 100 * ADJOINT_STEP
    clean = predict_cost(asked, CIFAR)
    assert clean.iteration == pytest.approx(way + back + 400 * WEIGHT_GRADIENT)
    attacked = predict_cost(asked.model_copy(update={"perturbed": "real"}), CIFAR)
    assert attacked.iteration - clean.iteration == pytest.approx(400 * 4 * INPUT_GRADIENT)
    longer = asked.model_copy(update={"unroll": 300, "window": 300})
    assert predict_cost(longer, CIFAR).peak_bytes == clean.peak_bytes


def test_the_catalogue_knows_it() -> None:
    recipe = catalogue.method("bptt")
    assert recipe is not None
    assert recipe.predict_cost is predict_cost
    assert recipe.experts(BpttHyperparameters()) is None
