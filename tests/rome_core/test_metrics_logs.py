"""Entries of evaluation logs: what counts in which mode, what is pooled, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rome_core.metrics import MetricsError, parse, report
from rome_core.metrics.logs import CLEAN_TIMES, MODES
from rome_core.recipes import SpecError

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data/beard_metrics_golden.json").read_text()
)
POOL = "white_box/BACON (IPC 1,10,50)"
ONE = "white_box/BACON/ConvNet_CIFAR10_1"
TEN = "white_box/BACON/ConvNet_CIFAR10_10"


def entry(**rows: dict[str, Any]) -> dict[str, Any]:
    """A log with PGD and more, fields changed: `entry(PGD={"targeted_acc": 3}, AA={})`."""
    attacks: dict[str, dict[str, Any]] = {"PGD": {}, **rows}
    base = {"targeted_acc": 30.0, "targeted_time": 4.0, "untargeted_acc": 10, "untargeted_time": 9}
    return {
        "clean": {"accuracy": 50.0, "target_time": 2.0, "non_target_time": 1.0},
        "rows": [{"attack": name, **base, **changed} for name, changed in attacks.items()],
    }


@pytest.mark.parametrize("name", ["Deepfool", "DeepFool", "AA", "AutoAttack", "TPGD"])
def test_attacks_without_a_targeted_form_are_left_out_of_it(name: str) -> None:
    with_it, without = report(parse(entry(**{name: {}}))), report(parse(entry()))
    targeted = [one for one in with_it["parsed_attacks"] if one["type"] == "targeted"]
    assert [one["accuracy"] for one in targeted] == [30.0, None]
    for rule in CLEAN_TIMES:
        metrics, other = (told["metrics"][rule]["targeted"] for told in (with_it, without))
        assert metrics == other
    assert with_it["min"]["beard"]["untargeted"]["attack_accuracies"] == [10, 10]
    assert with_it["min"]["beard"]["targeted"]["attack_times"] == [4.0, None]


def test_attacks_get_their_published_names() -> None:
    told = report(parse(entry(CW={}, AA={})))
    assert [one["name"] for one in told["parsed_attacks"]] == [
        *["PGD", "PGD", "C&W", "C&W", "AutoAttack", "AutoAttack"]
    ]


def test_the_two_rules_differ_in_the_clean_time_only() -> None:
    metrics = report(parse(entry(CW={"targeted_time": 12.0})))["metrics"]
    times = {rule: [metrics[rule][mode]["clean_time"] for mode in MODES] for rule in CLEAN_TIMES}
    assert times == {"same_mode": [2.0, 1.0], "min": [1.0, 1.0]}
    same_mode, smaller = (metrics[rule]["targeted"] for rule in ("same_mode", "min"))
    assert [same_mode["AE"], smaller["AE"]] == [pytest.approx(60), pytest.approx(700 / 11)]
    assert metrics["same_mode"]["untargeted"] == metrics["min"]["untargeted"]
    assert all(same_mode[name] == smaller[name] for name in ("RR", "I-RR", "I-RR+"))


def test_a_clean_time_may_be_missing() -> None:
    only = entry(PGD={"targeted_acc": None, "targeted_time": None})
    only["clean"]["target_time"] = None
    told = report(parse(only), degenerate="sound")
    assert told["metrics"]["same_mode"]["untargeted"]["AE"] == 100
    assert told["metrics"]["same_mode"]["targeted"]["RR"] is None
    assert sorted(told["metrics"]["min"]["targeted"]["reasons"]) == sorted(
        ["RR", "I-RR", "I-RR+", "AE", "CREI", "I-CREI", "I-CREI+"]
    )
    assert told["expected"]["beard"]["targeted"]["RR_2dp"] is None
    with pytest.raises(MetricsError) as caught:
        report(parse(only))
    assert caught.value.field == "rows.targeted_acc"


def test_names_and_toolkit_keys_say_the_same() -> None:
    told = report(parse(GOLDEN["logs"][TEN]), alpha=0.25)
    for rule in CLEAN_TIMES:
        for mode in MODES:
            names, keyed = told["metrics"][rule][mode], told[rule]
            for kind, before, after in (
                ("beard", "", ""),
                ("rome", "I-", ""),
                ("rome+", "I-", "+"),
            ):
                block = keyed[kind][mode]
                assert block["RR"] == names[f"{before}RR{after}"]
                assert block["AE"] == names["AE"]
                assert block["CREI"] == names[f"{before}CREI{after}"]
                assert block["CREI"] == pytest.approx(0.25 * block["RR"] + 0.75 * block["AE"])
                assert block["RR_2dp"] == round(block["RR"], 2)
    worst = {mode: told["metrics"]["min"][mode]["worst_accuracy"] for mode in MODES}
    assert worst == {"targeted": 39.13, "untargeted": 11.84}


def test_several_entries_are_pooled_by_name_or_all_together() -> None:
    members = GOLDEN["combined"][POOL]["members"]
    chosen = {name: GOLDEN["logs"][name] for name in members}
    by_file = report(parse(GOLDEN))["combined"][POOL]
    as_object, as_list = report(parse(chosen)), report(parse([*chosen.values()]))
    assert as_object["combined"]["all"] == by_file
    assert as_list["combined"]["all"] == {**by_file, "members": ["0", "1", "2"]}
    assert list(as_list["logs"].values()) == list(as_object["logs"].values())
    one = report(parse({"only": GOLDEN["logs"][ONE]}))
    assert one["combined"] == {}
    alone = report(parse(GOLDEN["logs"][ONE]))
    assert {**one["logs"]["only"], "alpha": 0.5, "degenerate": "published"} == alone


def test_errors_of_a_pool_and_an_entry_say_where() -> None:
    none = {"targeted_acc": None, "untargeted_acc": None}
    with pytest.raises(MetricsError, match=r"^a\.rows\.targeted_acc: no attack here"):
        report(parse({"a": entry(PGD=none), "b": entry()}))
    zero = entry(PGD={"targeted_acc": 5})
    zero["clean"]["accuracy"] = 0
    with pytest.raises(MetricsError, match=r"^clean\.accuracy: the clean accuracy is 0"):
        report(parse(zero))
    timeless = entry()
    timeless["clean"]["target_time"] = None
    with pytest.raises(MetricsError, match=r"^1\.clean\.target_time: the cost of the clean pass"):
        report(parse([entry(), timeless]))
    with pytest.raises(MetricsError, match=r"^rows\.untargeted_time: no attack here has a cost"):
        report(parse(entry(PGD={"untargeted_time": None})))
    with pytest.raises(MetricsError, match=r"^alpha: "):
        report(parse(entry()), alpha=2)


def changed(path: str, value: object) -> dict[str, Any]:
    """The entry with the field at `path` set, or dropped where value is ..., for error cases."""
    body: Any = copy.deepcopy(entry())
    *parents, last = path.split(".")
    inner = body
    for name in parents:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return dict(body)


@pytest.mark.parametrize(
    ("path", "value", "field", "remedy"),
    [
        ("clean", ..., "clean", "It has accuracy, target_time"),
        ("clean", [50.0], "clean", "It has accuracy, target_time"),
        ("rows", ..., "rows", "has attack, method, targeted_acc"),
        ("rows", [], "rows", "Each attack, once"),
        ("rows", {}, "rows", "Each attack, once"),
        ("rows", [3], "rows.0", "has attack, method"),
        ("clean.accuracy", "50", "clean.accuracy", "percent, 0 to 100."),
        ("clean.accuracy", None, "clean.accuracy", "percent, 0 to 100."),
        ("clean.accuracy", 101, "clean.accuracy", "percent, 0 to 100."),
        ("clean.accuracy", float("nan"), "clean.accuracy", "percent, 0 to 100."),
        ("clean.accuracy", True, "clean.accuracy", "percent, 0 to 100."),
        ("clean.target_time", -1, "clean.target_time", "seconds, 0 or more, or null"),
        ("clean.target_time", ..., "clean.target_time", "seconds, 0 or more, or null"),
        ("clean.acuracy", 5, "clean.acuracy", "It has accuracy, target_time"),
        ("rows.0.targeted_acc", "x", "rows.0.targeted_acc", "percent, 0 to 100, or null"),
        ("rows.0.untargeted_time", float("inf"), "rows.0.untargeted_time", "seconds"),
        ("rows.0.untargeted_acc", ..., "rows.0.untargeted_acc", "or null"),
        ("rows.0.targetted_acc", 5, "rows.0.targetted_acc", "has attack, method, targeted_acc"),
        ("rows.0.attack", "", "rows.0.attack", "the attack's name"),
        ("rows.0.attack", "a\nb", "rows.0.attack", "the attack's name"),
        ("rows.0.method", 3, "rows.0.method", "the model's name or null"),
        ("rows.0.attack", "Clean", "rows", "Each attack, once"),
    ],
)
def test_a_bad_field_is_named_with_its_remedy(
    path: str, value: object, field: str, remedy: str
) -> None:
    (problem,) = problems(changed(path, value))
    assert problem[0] == field
    assert remedy in problem[1]
    (listed,) = problems([entry(), changed(path, value)])
    assert listed[0] == f"1.{field}"


def problems(content: object) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        parse(content)
    return [(problem.field, problem.remedy) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (5, "(file)"),
        (None, "(file)"),
        ([], "(file)"),
        ({}, "(file)"),
        ({"logs": {}}, "logs"),
        ({"logs": [1]}, "logs"),
        ({"a": 5}, "a"),
        ([None], "0"),
        ({"a\nb": entry()}, r"'a\nb'"),
        ({"logs": {"a": entry()}, "combined": [1]}, "combined"),
        ({"logs": {"a": entry()}, "combined": {"x": {}}}, "combined.x.members"),
        ({"logs": {"a": entry()}, "combined": {"x": {"members": []}}}, "combined.x.members"),
        ({"logs": {"a": entry()}, "combined": {"x": {"members": ["b"]}}}, "combined.x.members"),
        (
            {"logs": {"a": entry()}, "combined": {"x": {"members": ["a", "a"]}}},
            "combined.x.members",
        ),
    ],
)
def test_a_file_of_another_shape_is_refused(content: object, field: str) -> None:
    ((named, remedy),) = problems(content)
    assert named == field
    assert remedy


def test_an_attack_that_is_there_twice_would_count_twice() -> None:
    twice = entry(AA={})
    twice["rows"].append({**twice["rows"][1], "attack": "AutoAttack"})
    ((field, remedy),) = problems(twice)
    assert field == "rows"
    assert remedy.startswith("Each attack, once")


def test_every_problem_is_told() -> None:
    bad = {"a": changed("clean.accuracy", "x"), "b": changed("rows.0.targeted_acc", 200)}
    assert [field for field, _ in problems(bad)] == ["a.clean.accuracy", "b.rows.0.targeted_acc"]


def test_other_keys_of_an_entry_are_ignored() -> None:
    assert report(parse({**entry(), "expected": 5, "path": None})) == report(parse(entry()))
