"""Specs of experts, and of distillations that name some."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from rome_core import recipes
from rome_core.recipes import FieldProblem, SpecError, catalogue
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.method import MethodRecipe

EXPERTS = {"kind": "experts", "dataset": "cifar10"}


def problem(body: dict[str, Any]) -> FieldProblem:
    with pytest.raises(SpecError) as caught:
        recipes.canonical(body, seed=1)
    (only,) = caught.value.problems
    return only


def test_the_defaults_are_the_published_buffers() -> None:
    """Cazenavette et al. 2022, buffer.py: a hundred experts, 50 epochs, plain SGD, DSA."""
    assert recipes.canonical(EXPERTS, seed=7) == {
        "kind": "experts",
        "dataset": "cifar10",
        "whitening": "none",
        "seed": 7,
        "network": "convnet",
        "count": 100,
        "epochs": 50,
        "keep": "all",
        "learning_rate": 0.01,
        "schedule": "constant",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch": 256,
        "augmentation": None,  # the dataset's own, which is DSA's
        "adversarial": None,
        "curvature_weight": 0.0,
        "curvature_step": 3.0,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"network": "CONVNET-d2-w32", "seed": 3},
        {
            "adversarial": {"steps": 7},
            "whitening": "zca",
            "augmentation": "crop_flip",
            "keep": "last",
        },
    ],
)
def test_canonical_is_a_fixed_point(changes: dict[str, Any]) -> None:
    if changes.get("network"):
        changes = {**changes, "network": changes["network"].lower()}
    once = recipes.canonical({**EXPERTS, **changes}, seed=1)
    assert recipes.canonical(once, seed=2) == once
    assert recipes.resource_class(once) == "cpu"


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"dataset": "cifar"}, "dataset", "cifar"),
        ({"network": "convnet-batch"}, "network", "batch normalisation"),
        ({"network": "resnet18-batch"}, "network", "batch normalisation"),
        ({"network": "convnt"}, "network", "convnt"),
        ({"epoch": 3}, "epoch", "no such field"),
        ({"epochs": -1}, "epochs", "greater than or equal to 0"),
        ({"count": 0}, "count", "greater than or equal to 1"),
        ({"keep": "none"}, "keep", "'all' or 'last'"),
        ({"adversarial": {"epsilon": "a"}}, "adversarial.epsilon", ""),
        ({"adversarial": {"step_size": 1}}, "adversarial.step_size", "no such field"),
        ({"artifact": "art_1"}, "artifact", "no such field"),
    ],
)
def test_bad_bodies(changes: dict[str, Any], field: str, words: str) -> None:
    found = problem({**EXPERTS, **changes})
    assert found.field == field
    assert words in found.message
    assert found.remedy


def test_whitened_images_are_not_attacked_as_normalised_ones() -> None:
    body = {**EXPERTS, "whitening": "zca", "adversarial": {"domain": "reference"}}
    assert "take pixel" in problem(body).message


def test_whitened_images_are_not_attacked_after_their_color() -> None:
    body = {**EXPERTS, "whitening": "zca", "augmentation": "color_crop"}
    recipes.canonical(body, seed=1)
    recipes.canonical({**body, "whitening": "none", "adversarial": {}}, seed=1)
    message = problem({**body, "adversarial": {}}).message
    assert message.startswith("augmentation")
    assert message.endswith("drop color, that is, take crop")
    recipes.canonical({**body, "augmentation": "crop", "adversarial": {}}, seed=1)


def test_sizes_of_attacks_are_exact() -> None:
    assert recipes.is_exact("adversarial.epsilon")
    assert not recipes.is_exact("adversarial.steps")
    assert not recipes.is_exact("learning_rate")


class Hyperparameters(BaseModel):
    network: str = "convnet"
    needs: bool = True


@pytest.fixture
def needy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A body of a method that needs experts if it is told so."""

    def experts(told: BaseModel) -> ExpertTraining | None:
        assert isinstance(told, Hyperparameters)
        return ExpertTraining(network=told.network) if told.needs else None

    recipe = MethodRecipe(
        name="needy",
        title="",
        summary="",
        hyperparameters=Hyperparameters,
        presets={},
        paper="",
        experts=experts,
    )
    known = {**catalogue._recipes(), "needy": recipe}
    monkeypatch.setattr(catalogue, "_recipes", lambda: known)
    return {"method": "needy", "dataset": "digits", "ipc": 1}


def test_a_distillation_names_experts_or_does_not_speak_of_them(needy: dict[str, Any]) -> None:
    without = recipes.canonical(needy, seed=1)
    assert "experts" not in without
    assert recipes.canonical({**needy, "experts": None}, seed=1) == without
    named = recipes.canonical({**needy, "experts": "art_1"}, seed=1)
    assert named == {**without, "experts": "art_1"}
    assert recipes.canonical(named, seed=2) == named
    assert recipes.spec_hash(named) != recipes.spec_hash(without)


def test_experts_for_a_method_without_any_are_refused(needy: dict[str, Any]) -> None:
    for body in (
        {**needy, "hyperparameters": {"needs": False}},
        {"method": "random", "dataset": "digits", "ipc": 1},
    ):
        recipes.canonical(body, seed=1)
        found = problem({**body, "experts": "art_1"})
        assert found.field == "experts"
        assert "needs no trained networks" in found.message
        assert found.remedy == "Leave experts out."


def test_experts_that_cannot_be_are_a_problem_of_the_hyperparameters(
    needy: dict[str, Any],
) -> None:
    found = problem({**needy, "hyperparameters": {"network": "convnet-batch"}})
    assert found.field == "hyperparameters.network"
    assert "batch normalisation" in found.message
