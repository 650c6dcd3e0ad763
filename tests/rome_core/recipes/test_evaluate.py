"""The fields of `kind: evaluate` and `kind: transfer`: whom, under what, and with what changed."""

from __future__ import annotations

from typing import Any

import pytest

from rome_core import recipes
from rome_core.recipes import SpecError
from rome_core.recipes.evaluate import EvaluateSpec, ModelRef, TransferSpec, chosen, resolved
from rome_core.recipes.problems import FieldProblem
from rome_core.recipes.protocols import PROTOCOLS

SET: dict[str, Any] = {"kind": "evaluate", "artifact": "art_1"}
MODELS: dict[str, Any] = {"kind": "evaluate", "models": [{"file": "m"}], "dataset": "digits"}
TRANSFER: dict[str, Any] = {"kind": "transfer", "sources": [{"file": "m"}], "dataset": "digits"}


def problem(body: dict[str, Any]) -> FieldProblem:
    with pytest.raises(SpecError) as caught:
        recipes.canonical(body, seed=1)
    (only,) = caught.value.problems
    return only


def evaluate(body: dict[str, Any]) -> EvaluateSpec:
    return EvaluateSpec.model_validate(recipes.canonical(body, seed=1))


def transfer(body: dict[str, Any]) -> TransferSpec:
    return TransferSpec.model_validate(recipes.canonical(body, seed=1))


@pytest.mark.parametrize("body", [SET, MODELS, TRANSFER])
def test_the_least_that_can_be_asked(body: dict[str, Any]) -> None:
    spec = recipes.canonical(body, seed=4)
    assert recipes.canonical(spec, seed=5) == spec
    assert recipes.resource_class(spec) == "cpu"


def test_a_set_or_models_and_not_both() -> None:
    both = problem({**MODELS, "artifact": "art_1"})
    assert (both.field, "Leave one" in both.remedy) == ("models", True)
    neither = problem({"kind": "evaluate", "dataset": "digits"})
    assert (neither.field, "or models" in neither.remedy) == ("artifact", True)


def test_models_need_their_dataset() -> None:
    found = problem({"kind": "evaluate", "models": [{"file": "m"}]})
    assert (found.field, "whose images" in found.remedy) == ("dataset", True)


@pytest.mark.parametrize(
    ("model", "field", "words"),
    [
        ({}, "", "artifact or file"),
        ({"artifact": "a", "file": "b"}, "", "artifact or file"),
        ({"file": "../b"}, ".file", "match"),
        ({"file": "a/b"}, ".file", "match"),
        ({"file": "/etc/passwd"}, ".file", "match"),
        ({"file": ".hidden"}, ".file", "match"),
        ({"file": "a..b"}, ".file", "match"),
        ({"file": "a\n"}, ".file", "match"),
        ({"file": ""}, ".file", "match"),
        ({"file": "m", "name": "-rf"}, ".name", "match"),
        ({"file": "m", "name": "a b"}, ".name", "match"),
        ({"file": "m", "network": "resnet"}, ".network", "resnet"),
        ({"artifact": ""}, ".artifact", "at least 1"),
        ({"path": "m"}, ".path", "no such field"),
    ],
)
def test_bad_models(model: dict[str, Any], field: str, words: str) -> None:
    for body, place in ((MODELS, "models.0"), (TRANSFER, "sources.0"), (TRANSFER, "targets.0")):
        name = place.partition(".")[0]
        found = problem({**body, name: [model]})
        assert found.field == place + field
        assert words in found.message


def test_a_model_is_called_as_it_was_named_or_after_its_file() -> None:
    assert ModelRef(file="a.b", name="c").label == "c"
    assert ModelRef(file="a.b").label == "a.b"
    assert ModelRef(artifact="art_1").label == "art_1"


def test_no_two_models_have_one_name() -> None:
    twice = [{"file": "m"}, {"artifact": "a", "name": "m"}]
    for body, name in ((MODELS, "models"), (TRANSFER, "sources"), (TRANSFER, "targets")):
        found = problem({**body, name: twice})
        assert found.field == name
        assert "two models are called 'm'" in found.message


def test_one_name_is_one_model_among_sources_and_targets() -> None:
    """Matrices, weights and caches go by the name: two models of one would be mixed up."""
    same = {**TRANSFER, "targets": [{"file": "m"}, {"file": "n"}]}
    assert [model.label for model in transfer(same).targets or []] == ["m", "n"]
    other = {**TRANSFER, "targets": [{"artifact": "art_9", "name": "m"}]}
    assert "'m'" in problem(other).message


def test_every_artifact_of_a_job_is_listed_once() -> None:
    assert evaluate(SET).artifacts == ["art_1"]
    models = [{"artifact": "a"}, {"file": "m"}, {"artifact": "b"}]
    assert evaluate({**MODELS, "models": models}).artifacts == ["a", "b"]
    both = {**TRANSFER, "sources": models, "targets": [{"artifact": "b"}, {"artifact": "c"}]}
    assert transfer(both).artifacts == ["a", "b", "c"]


def test_unknown_names_come_with_the_nearest_known_one() -> None:
    for body, field in ((SET, "protocols"), (TRANSFER, "protocol")):
        given = ["pixle"] if field == "protocols" else "pixle"
        found = problem({**body, field: given})
        assert (found.field, "'pixel'" in found.remedy) == (field, True)
    for body in (SET, TRANSFER):
        found = problem({**body, "attacks": ["pdg"]})
        assert (found.field, "'pgd'" in found.remedy) == ("attacks", True)
        found = problem({**body, "overrides": {"pgd": {"stepz": 3}}})
        assert (found.field, "'step" in found.remedy) == ("overrides.pgd.stepz", True)


def test_an_attack_has_to_be_of_one_of_the_protocols() -> None:
    assert problem({**SET, "protocols": ["quick"], "attacks": ["cw"]}).field == "attacks"
    two = evaluate({**SET, "protocols": ["quick", "pixel"], "attacks": ["cw"]})
    quick, pixel = (chosen(resolved(name, two), two) for name in two.protocols)
    assert [entry.name for entry in quick] == ["clean"]
    assert [entry.name for entry in pixel] == ["clean", "cw"]
    overrides = {"cw": {"c": 2.0}}
    assert problem({**SET, "protocols": ["quick"], "overrides": overrides}).field == "overrides.cw"
    two = evaluate({**SET, "protocols": ["quick", "pixel"], "overrides": overrides})
    assert [resolved(name, two).overridden for name in two.protocols] == [(), ("cw.c",)]


def test_attacks_are_in_the_protocols_order_with_clean_and_clamp_beside() -> None:
    asked = evaluate({**SET, "protocols": ["rome-2025"], "attacks": ["pgd", "fgsm"]})
    names = [entry.name for entry in chosen(resolved("rome-2025", asked), asked)]
    assert names == ["clean", "clamp", "fgsm", "pgd"]
    asked = evaluate({**SET, "protocols": ["rome-2025"]})
    names = [entry.name for entry in chosen(resolved("rome-2025", asked), asked)]
    assert names == list(PROTOCOLS["rome-2025@1"].default)


def test_a_transfer_takes_its_protocols_transfer_attacks() -> None:
    asked = transfer({**TRANSFER, "protocol": "quick"})
    names = [entry.name for entry in chosen(resolved(asked.protocol, asked, "protocol"), asked)]
    assert names == ["fgsm", "pgd", "mi-fgsm"]
    asked = transfer({**TRANSFER, "attacks": ["pgd", "fgsm"]})
    names = [entry.name for entry in chosen(resolved(asked.protocol, asked, "protocol"), asked)]
    assert names == ["fgsm", "pgd"]


def test_several_problems_are_told_together() -> None:
    body = {**MODELS, "dataset": "digts", "attacks": ["pdg"], "overrides": {"fab": {}}}
    with pytest.raises(SpecError) as caught:
        recipes.canonical(body, seed=1)
    fields = [found.field for found in caught.value.problems]
    assert fields == ["attacks", "overrides.fab", "dataset"]
