"""What a set decides about its students, and the whitening of models and methods."""

from __future__ import annotations

from typing import Any

import pytest

from rome_core import recipes
from rome_core.recipes import SpecError, catalogue
from rome_core.recipes.augmentation import spoils_whitened
from rome_core.recipes.evaluate import ModelRef, Students
from rome_core.recipes.hyperparameters import MethodHyperparameters, Perturbing
from rome_core.recipes.problems import FieldProblem

SET: dict[str, Any] = {"kind": "evaluate", "artifact": "art_1"}


def canonical(**students: Any) -> dict[str, Any]:
    spec: dict[str, Any] = recipes.canonical({**SET, "students": students}, seed=3)["students"]
    return spec


def problem(body: dict[str, Any]) -> FieldProblem:
    with pytest.raises(SpecError) as caught:
        recipes.canonical(body, seed=1)
    (only,) = caught.value.problems
    return only


def test_the_set_decides_unless_told_otherwise() -> None:
    assert canonical()["learning_rate"] == "set"
    assert canonical(learning_rate="set") == canonical()
    assert canonical(learning_rate=0.5)["learning_rate"] == 0.5
    assert canonical(learning_rate=1)["learning_rate"] == 1.0


def test_students_are_the_network_of_the_set_unless_told_otherwise() -> None:
    assert canonical()["network"] == "set"
    assert canonical(network="set") == canonical()
    assert canonical(network="convnet")["network"] == "convnet"
    found = problem({**SET, "students": {"network": "sets"}})
    assert (found.field, "sets" in found.message) == ("students.network", True)


@pytest.mark.parametrize("given", [{}, {"labels": "set"}])
def test_labels_leave_no_trace_at_their_default(given: dict[str, str]) -> None:
    assert "labels" not in canonical(**given)
    assert "labels" not in Students.model_validate(given).model_dump_json()
    assert canonical(labels="hard")["labels"] == "hard"


@pytest.mark.parametrize("given", [0, -1, 101, float("nan"), float("inf"), "fast", None, True, []])
def test_a_rate_that_is_none_is_one_problem(given: object) -> None:
    found = problem({**SET, "students": {"learning_rate": given}})
    assert found.field == "students.learning_rate"
    assert "a number above 0 and at most 100, or set" in found.message


def test_labels_are_the_sets_or_hard() -> None:
    found = problem({**SET, "students": {"labels": "soft"}})
    assert (found.field, "'hard'" in found.message) == ("students.labels", True)


def test_a_model_s_whitening_leaves_no_trace_where_there_is_none() -> None:
    body = {"kind": "evaluate", "models": [{"file": "m"}], "dataset": "digits"}
    assert "whitening" not in recipes.canonical(body, seed=1)["models"][0]
    body["models"] = [{"file": "m", "whitening": "zca"}]
    assert recipes.canonical(body, seed=1)["models"][0]["whitening"] == "zca"
    body["models"] = [{"file": "m", "whitening": "none"}]
    assert problem(body).field == "models.0.whitening"
    assert ModelRef(file="m", whitening="zca").source != ModelRef(file="m").source


class Attacking(MethodHyperparameters, Perturbing):
    """As a method's own."""


def test_a_method_that_whitens_attacks_pixels_alone() -> None:
    assert "whitening" not in Attacking(attack_domain="reference").model_dump()
    assert Attacking(whitening="zca").model_dump()["whitening"] == "zca"
    with pytest.raises(ValueError, match="attack_domain=pixel"):
        Attacking(whitening="zca", attack_domain="reference")


REAL: dict[str, Any] = {"perturbed": "real"}
ROBUST: dict[str, Any] = {"expert_training": "adversarial"}


@pytest.mark.parametrize(
    ("method", "attacks", "field"),
    [
        ("dm", REAL, "augmentation"),
        ("rome", {"perturbed": "synthetic"}, "augmentation"),
        ("idm", {"perturbed": "both"}, "augmentation"),
        ("dsa", REAL, "augmentation"),
        ("mtt", ROBUST, "augmentation"),
        ("robust_features", {}, "teacher_augmentation"),
    ],
)
def test_whitened_images_are_not_attacked_after_their_color(
    method: str, attacks: dict[str, Any], field: str
) -> None:
    recipe = catalogue.method(method)
    assert recipe is not None
    asked = {**attacks, "whitening": "zca", field: "color_crop_flip"}
    with pytest.raises(ValueError, match=f"Value error, {field} and .*take crop_flip"):
        recipe.hyperparameters(**asked)
    recipe.hyperparameters(**{**asked, "whitening": "none"})
    recipe.hyperparameters(**{**asked, field: "crop_flip"})


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("dm", {}),
        ("idm", {"perturbed": "none", "pool_training": "adversarial"}),  # not augmented
        ("dc", {**REAL, "augmentation": "color"}),  # nor are these: it is the students' own
        ("mtt", {}),
        ("robust_features", {"teacher_training": "clean", "teacher_augmentation": "color"}),
        ("robust_features", {"augmentation": "color"}),
    ],
)
def test_color_is_welcome_where_nothing_is_attacked_after_it(
    method: str, asked: dict[str, Any]
) -> None:
    recipe = catalogue.method(method)
    assert recipe is not None
    recipe.hyperparameters(**{**asked, "whitening": "zca"})


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [("color", "none"), ("crop_color_flip", "crop_flip"), ("color_cutout", "cutout")],
)
def test_a_strategy_that_spoils_whitened_images_is_named_with_another(
    strategy: str, kept: str
) -> None:
    spoilt = spoils_whitened(strategy)
    assert spoilt is not None
    assert spoilt[1].endswith(f"take {kept}")
    assert spoils_whitened(kept) is None
