"""Specs: what is accepted, what is refused and with which words, and the canonical form."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rome_core import recipes
from rome_core.recipes import FieldProblem, SpecError, catalogue
from rome_core.recipes.attacks import Budget
from rome_core.recipes.evaluate import EvaluateSpec, TransferSpec
from rome_core.recipes.specs import KINDS


def problems(body: dict[str, Any]) -> list[FieldProblem]:
    with pytest.raises(SpecError) as caught:
        recipes.canonical(body, seed=1)
    return caught.value.problems


def problem(body: dict[str, Any]) -> FieldProblem:
    (only,) = problems(body)
    return only


ROME = {"method": "rome", "dataset": "digits", "ipc": 1}


def test_a_preset_fills_in_everything() -> None:
    spec = recipes.canonical({"preset": "rome-2025-cifar10-ipc10"}, seed=7)
    assert (spec["kind"], spec["method"], spec["dataset"]) == ("distill", "rome", "cifar10")
    assert (spec["ipc"], spec["seed"], spec["overrides"]) == (10, 7, [])
    assert spec["hyperparameters"]["pgd_step"] == "2/225"
    method = catalogue.method("rome")
    assert method is not None
    # Fields that came later are left out where they change nothing.
    fields = method.hyperparameters.model_fields
    early = {name for name, field in fields.items() if field.exclude_if is None}
    assert set(spec["hyperparameters"]) == early


def test_fields_beside_a_preset_override_it_and_the_spec_says_which() -> None:
    spec = recipes.canonical(
        {
            "preset": "rome-quick-digits-ipc10",
            "dataset": "cifar10",
            "ipc": 5,
            "hyperparameters": {"lr_img": 1, "factor": 1},  # factor is the preset's own
        },
        seed=7,
    )
    assert spec["dataset"] == "cifar10"
    assert spec["hyperparameters"]["lr_img"] == 1.0
    assert spec["overrides"] == ["dataset", "ipc", "hyperparameters.lr_img"]


def test_the_body_seed_wins() -> None:
    assert recipes.canonical({**ROME, "seed": 0}, seed=9)["seed"] == 0


@pytest.mark.parametrize(
    "body",
    [
        {"preset": "rome-pixel-cifar100-ipc1", "hyperparameters": {"ce_weight": 3}},
        {"method": "random", "dataset": "npz:mine", "ipc": 3},
        {"kind": "evaluate", "artifact": "art_1"},
        {"kind": "evaluate", "artifact": "art_1", "limit": 5, "students": {"epochs": 3}},
        {
            "kind": "evaluate",
            "models": [{"file": "m"}, {"artifact": "a", "name": "b", "network": "convnet"}],
            "dataset": "digits",
            "protocols": ["rome-2025", "quick@1"],
            "attacks": ["pgd", "square"],
            "overrides": {"pgd": {"steps": 3}},
        },
        {"kind": "transfer", "sources": [{"file": "m"}], "dataset": "npz:mine"},
    ],
)
def test_canonical_is_a_fixed_point(body: dict[str, Any]) -> None:
    once = recipes.canonical(body, seed=5)
    assert recipes.canonical(once, seed=6) == once
    assert json.loads(json.dumps(once, allow_nan=False)) == once


@given(
    preset=st.sampled_from([preset.name for preset in catalogue.presets()]),
    ipc=st.none() | st.integers(1, 3),
    seed=st.integers(0, recipes.MAX_SEED),
)
def test_every_preset_has_a_canonical_form(preset: str, ipc: int | None, seed: int) -> None:
    body: dict[str, Any] = {"preset": preset} | ({} if ipc is None else {"ipc": ipc})
    once = recipes.canonical(body, seed=seed)
    assert recipes.canonical(once, seed=0) == once
    assert once["overrides"] in ([], ["ipc"])


def test_the_hash_ignores_order_and_spelling_of_numbers() -> None:
    one = recipes.canonical({**ROME, "hyperparameters": {"lr_img": 1, "alpha": 0.5}}, seed=1)
    other = recipes.canonical(
        {"hyperparameters": {"alpha": 0.5, "lr_img": 1.0}, **dict(reversed(ROME.items()))}, seed=1
    )
    assert recipes.spec_hash(one) == recipes.spec_hash(other)
    assert recipes.spec_hash(one) != recipes.spec_hash({**one, "seed": 2})
    assert len(recipes.spec_hash(one)) == 64


def test_unknown_names_come_with_the_nearest_known_one() -> None:
    assert problem({**ROME, "method": "rom"}).remedy.startswith("Did you mean 'rome'?")
    assert problem({**ROME, "dataset": "cifar"}).remedy.startswith("Did you mean 'cifar10'?")
    near = problem({"preset": "rome-2025-cifar10-ipc1O"})
    assert (near.field, near.remedy) == ("preset", "Did you mean 'rome-2025-cifar10-ipc1'?")
    assert problem({"kind": "distil"}).remedy.startswith("Did you mean 'distill'?")
    assert problem({**ROME, "priority": 3}).field == "priority"


def test_unknown_method_and_dataset_are_told_together() -> None:
    fields = [p.field for p in problems({"method": "rom", "dataset": "cifr10", "ipc": 1})]
    assert fields == ["method", "dataset"]


def test_missing_fields_are_all_named() -> None:
    assert [p.field for p in problems({})] == ["method", "dataset", "ipc"]


def test_unknown_hyperparameter() -> None:
    found = problem({**ROME, "hyperparameters": {"lr_imgg": 1}})
    assert found.field == "hyperparameters.lr_imgg"
    assert found.remedy == "Did you mean 'lr_img'?"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr_img", math.inf),
        ("lr_img", math.nan),
        ("lr_img", 0),
        ("lr_img", "0.2"),
        ("iterations", 0),
        ("iterations", 10.0),
        ("iterations", True),
        ("iterations", None),
        ("alpha", 1.5),
        ("pgd_epsilon", 0.03),
        ("pgd_epsilon", "8/0"),
        ("rob_loss", "tv3"),
    ],
)
def test_hyperparameters_out_of_type_or_range(field: str, value: object) -> None:
    found = problem({**ROME, "hyperparameters": {field: value}})
    assert found.field == f"hyperparameters.{field}"
    assert found.remedy


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ipc", 0),
        ("ipc", -1),
        ("ipc", "10"),
        ("ipc", True),
        ("ipc", 10**30),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", "7"),
        ("seed", None),
        ("method", 3),
        ("dataset", []),
        ("preset", {}),
        ("hyperparameters", []),
        ("overrides", "ipc"),
    ],
)
def test_fields_of_the_wrong_type_or_range(field: str, value: object) -> None:
    assert problem({**ROME, field: value}).field == field


@pytest.mark.parametrize(
    "name",
    ["npz:", "npz:a/b", "npz:../b", "npz:.hidden", "npz:a\\b", "npz:a..b", "npz:a\n", "npz:/etc"],
)
def test_npz_names_cannot_leave_the_data_root(name: str) -> None:
    found = problem({**ROME, "dataset": name})
    assert found.field == "dataset"
    assert "no folder" in found.remedy


@pytest.mark.parametrize(
    "name",
    [
        *("folder:", "folder:a/b", "folder:../b", "folder:.hidden", "folder:a..b", "folder:a\n"),
        *("folder:a@", "folder:a@0", "folder:a@08", "folder:a@7", "folder:a@257", "folder:a@8x8"),
        *("folder:/etc", "folder:a\\b", "folder:a@99999999999"),
    ],
)
def test_folder_names_cannot_leave_the_data_root_nor_ask_for_any_size(name: str) -> None:
    found = problem({**ROME, "dataset": name})
    assert found.field == "dataset"
    assert "no slash" in found.remedy
    assert "8 to 256, sensibly up to 128" in found.remedy


@pytest.mark.parametrize("name", ["folder:my.data-2", "folder:a@8", "folder:a@256", "npz:a"])
def test_datasets_of_ones_own_are_taken_by_name(name: str) -> None:
    assert recipes.canonical({**ROME, "dataset": name}, seed=1)["dataset"] == name


def test_ipc_up_to_the_smallest_class() -> None:
    assert recipes.canonical({**ROME, "ipc": 140}, seed=1)["ipc"] == 140
    assert problem({**ROME, "ipc": 141}).remedy == "Ask for at most 140."
    noise = {**ROME, "hyperparameters": {"init": "noise"}, "ipc": 1_000_000}
    assert problem(noise).remedy == "Ask for at most 140."


def test_packing_counts_real_images() -> None:
    body = {"method": "random", "dataset": "digits", "hyperparameters": {"factor": 2}}
    assert recipes.canonical({**body, "ipc": 35}, seed=1)["ipc"] == 35
    found = problem({**body, "ipc": 36})
    assert (found.field, found.remedy) == ("ipc", "Ask for at most 35.")


def test_a_preset_of_another_method_is_refused() -> None:
    found = problem({"preset": "rome-2025-cifar10-ipc10", "method": "random"})
    assert found.field == "method"


def test_inconsistent_hyperparameters_are_a_problem_of_them_all() -> None:
    found = problem({**ROME, "hyperparameters": {"net_begin": 9, "net_num": 3}})
    assert found.field == "hyperparameters"
    assert "net_begin" in found.message


def test_a_spec_error_reads_as_one_line() -> None:
    with pytest.raises(SpecError, match="method: this field is required; dataset: "):
        recipes.canonical({}, seed=1)
    with pytest.raises(ValueError, match="at least one"):
        SpecError([])


EVALUATE = {"kind": "evaluate", "artifact": "art_1"}
TRANSFER = {"kind": "transfer", "sources": [{"artifact": "art_1"}], "dataset": "digits"}

FRACTIONS = ["0", "1", "8/255", "0.03", "08/255", "0/7"]
NO_FRACTIONS = [
    *("3e-2", "1e-10000000", " 8/255", "8/255 ", "8/255\n", "+8/255", "-8/255", "8_0/255", ".03"),
    *("8/0", "9/8", "1.5", "8/255/1", "\u0663", "", "0." + "0" * 40),
]


def bodies(text: str) -> list[tuple[dict[str, Any], str]]:
    """Every kind of place that takes a fraction of the range of a value, and its name."""
    distill: list[tuple[dict[str, Any], str]] = [
        ({**ROME, "hyperparameters": {name: text}}, f"hyperparameters.{name}")
        for name in ("pgd_epsilon", "pgd_step")
    ]
    adversarial = [
        ({**EVALUATE, "students": {"adversarial": {name: text}}}, f"students.adversarial.{name}")
        for name in ("epsilon", "step")
    ]
    overrides = [
        ({**kind, "overrides": {attack: {name: text}}}, f"overrides.{attack}.{name}")
        for kind in (EVALUATE, TRANSFER)
        for attack, name in (("fgsm", "epsilon"), ("vmi-fgsm", "step"))
    ]
    return distill + adversarial + overrides


@pytest.mark.parametrize("text", FRACTIONS)
def test_a_fraction_that_is_accepted_can_be_computed_with(text: str) -> None:
    for body, _ in bodies(text):
        recipes.canonical(body, seed=1)
    assert 0 <= Budget.of(text, text).epsilon <= 1


@pytest.mark.parametrize("text", NO_FRACTIONS)
def test_other_texts_are_refused_wherever_a_fraction_stands(text: str) -> None:
    for body, field in bodies(text):
        assert problem(body).field == field


@given(st.text(alphabet="0123456789./eE+-_ ", max_size=8))
def test_what_validation_accepts_every_parser_accepts(text: str) -> None:
    accepted = []
    for body, _ in bodies(text):
        try:
            recipes.canonical(body, seed=1)
        except SpecError:
            accepted.append(False)
        else:
            accepted.append(True)
    assert len(set(accepted)) == 1
    if accepted[0]:
        Budget.of(text, text)


def radius(kind: dict[str, Any], text: object) -> dict[str, Any]:
    return {**kind, "overrides": {"pgd-l2": {"epsilon": text, "step": text}}}


@pytest.mark.parametrize("kind", [EVALUATE, TRANSFER], ids=["evaluate", "transfer"])
def test_a_radius_may_be_larger_than_a_value(kind: dict[str, Any]) -> None:
    for text in (*FRACTIONS, "9/8", "1.5", "10000"):
        spec = recipes.canonical(radius(kind, text), seed=1)
        assert spec["overrides"]["pgd-l2"]["epsilon"] == text
    for bad in ("10001", "3e2", "-1", "1/0", "", " 1", 2, 0.5, None):
        fields = [found.field for found in problems(radius(kind, bad))]
        assert fields == ["overrides.pgd-l2.epsilon", "overrides.pgd-l2.step"]


def test_evaluation_defaults_are_the_published_recipe() -> None:
    spec = recipes.canonical(EVALUATE, seed=3)
    assert spec["students"]["epochs"] == 1000
    assert spec["students"]["batch"] == 256
    assert spec["seed"] == 3


def test_canonical_evaluations_and_transfers_hold_every_field() -> None:
    """And protocols with their versions, so that a newer one does not change an old spec."""
    spec = recipes.canonical(EVALUATE, seed=3)
    assert set(spec) == set(EvaluateSpec.model_fields)
    assert spec["protocols"] == ["pixel@1"]
    assert (spec["attacks"], spec["overrides"], spec["limit"]) == (None, {}, None)
    assert spec["modes"] == ["targeted", "untargeted"]
    spec = recipes.canonical({**TRANSFER, "protocol": "rome-2025"}, seed=3)
    assert set(spec) == set(TransferSpec.model_fields)
    assert spec["protocol"] == "rome-2025@1"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"artifact": ""}, "artifact"),
        ({"artifact": None}, "artifact"),
        ({"dataset": "minst"}, "dataset"),
        ({"students": {"count": 0}}, "students.count"),
        ({"students": {"epoch": 3}}, "students.epoch"),
        ({"students": {"network": "resnet"}}, "students.network"),
        ({"students": {"augmentation": "flip_flop"}}, "students.augmentation"),
        ({"attacks": []}, "attacks"),
        ({"attacks": ["pgd", "pgd"]}, "attacks"),
        ({"attacks": ["pdg"]}, "attacks"),
        ({"modes": []}, "modes"),
        ({"modes": ["untargeted", "untargeted"]}, "modes"),
        ({"modes": ["both"]}, "modes.0"),
        ({"protocols": []}, "protocols"),
        ({"protocols": ["pixels"]}, "protocols"),
        ({"protocols": ["pixel@2"]}, "protocols"),
        ({"protocols": ["pixel", "pixel"]}, "protocols"),
        ({"protocols": ["pixel", "pixel@1"]}, "protocols"),
        ({"overrides": {"pgd": {"epsilon": 0.03}}}, "overrides.pgd.epsilon"),
        ({"overrides": {"pgd": {"step_size": "2/255"}}}, "overrides.pgd.step_size"),
        ({"overrides": {"pgd": {"attack": "fgsm"}}}, "overrides.pgd.attack"),
        ({"overrides": {"pdg": {}}}, "overrides.pdg"),
        ({"overrides": {"pgd": 3}}, "overrides.pgd"),
        ({"domains": ["pixel"]}, "domains"),
        ({"budgets": {}}, "budgets"),
        ({"limit": 0}, "limit"),
        ({"seed": -1}, "seed"),
        ({"iterations": 3}, "iterations"),
    ],
)
def test_bad_evaluations(change: dict[str, Any], field: str) -> None:
    assert problem({**EVALUATE, **change}).field == field


def test_schemas_are_json_and_name_every_field() -> None:
    for kind in KINDS:
        described = recipes.schema(kind)
        json.dumps(described, allow_nan=False)
        assert "seed" in described["properties"]
    choices = recipes.schema("distill")["properties"]["hyperparameters"]["anyOf"]
    assert any("lr_img" in choice["properties"] for choice in choices)
    with pytest.raises(SpecError):
        recipes.schema("distil")


def test_every_spec_runs_on_cpu_so_far() -> None:
    assert recipes.resource_class(recipes.canonical(ROME, seed=1)) == "cpu"


def test_a_field_that_is_left_out_at_its_default_is_an_override_all_the_same() -> None:
    """`whitening` is in a spec only where it is not `none`, and this preset whitens."""
    body = {"preset": "mtt-2022-cifar10-ipc10", "hyperparameters": {"whitening": "none"}}
    assert recipes.canonical(body, seed=0)["overrides"] == ["hyperparameters.whitening"]
    body = {"preset": "dm-2023-cifar10-ipc10", "hyperparameters": {"whitening": "zca"}}
    assert recipes.canonical(body, seed=0)["overrides"] == ["hyperparameters.whitening"]
