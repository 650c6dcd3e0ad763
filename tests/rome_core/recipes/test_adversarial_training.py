"""The field `students.adversarial`: what it takes, and that its absence leaves no trace."""

import json
from typing import Any

import pytest

from rome_core import recipes
from rome_core.recipes import SpecError
from rome_core.recipes.evaluate import AdversarialTraining, Students


def canonical(**students: Any) -> dict[str, Any]:
    body = {"kind": "evaluate", "artifact": "art_1", "students": students}
    spec: dict[str, Any] = recipes.canonical(body, seed=3)["students"]
    return spec


def test_defaults_are_the_usual_budget_in_pixels() -> None:
    assert canonical(adversarial={})["adversarial"] == {
        "domain": "pixel",
        "epsilon": "8/255",
        "step": "2/255",
        "steps": 10,
        "random_start": True,
        "mode": "untargeted",
    }


@pytest.mark.parametrize("given", [{}, {"adversarial": None}])
def test_without_it_specs_and_reports_keep_their_bytes(given: dict[str, None]) -> None:
    assert "adversarial" not in canonical(**given)
    assert "adversarial" not in Students.model_validate(given).model_dump_json()


def test_canonical_is_a_fixed_point() -> None:
    once = canonical(adversarial={"epsilon": "4/255", "steps": 7})
    assert canonical(**once) == once
    assert Students.model_validate_json(json.dumps(once)).adversarial == AdversarialTraining(
        epsilon="4/255", steps=7
    )


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({"epsilon": "300/255"}, "epsilon", "between 0 and 1"),
        ({"epsilon": 0.03}, "epsilon", "string"),
        ({"steps": 0}, "steps", "1"),
        ({"domain": "pixels"}, "domain", "pixel"),
        ({"mode": "targeted"}, "mode", "untargeted"),
        ({"epsilom": "8/255"}, "epsilom", "Did you mean 'epsilon'"),
        (True, None, "AdversarialTraining"),
    ],
)
def test_problems_name_the_field(given: object, field: str | None, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        canonical(adversarial=given)
    (problem,) = caught.value.problems
    assert problem.field == ".".join(["students", "adversarial", *([field] if field else [])])
    assert words in f"{problem.message} {problem.remedy}"
