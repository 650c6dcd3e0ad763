"""The metrics beside the published toolkit's values, the published tables and a naive form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rome_core.errors import CoreError
from rome_core.metrics import (
    AttackCell,
    Group,
    Kind,
    MetricsError,
    Score,
    attack_efficiency,
    combine,
    measure,
    parse,
    report,
    robustness_ratio,
)
from rome_core.metrics.logs import CLEAN_TIMES, MODES

DATA = Path(__file__).parents[1] / "data"
GOLDEN: dict[str, Any] = json.loads((DATA / "beard_metrics_golden.json").read_text())
TABLES: dict[str, Any] = json.loads((DATA / "paper_tables.json").read_text())
POOL = "white_box/BACON (IPC 1,10,50)"


def same(ours: object, theirs: object, where: str = "") -> int:
    """Compare all of two JSON values, numbers to 1e-9; returns how many numbers there were."""
    if isinstance(theirs, dict):
        assert isinstance(ours, dict), where
        assert sorted(ours) == sorted(theirs), where
        return sum(same(ours[key], theirs[key], f"{where}/{key}") for key in theirs)
    if isinstance(theirs, list):
        assert isinstance(ours, list), where
        assert len(ours) == len(theirs), where
        return sum(same(a, b, where) for a, b in zip(ours, theirs, strict=True))
    if isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9), where
        return 1
    assert ours == theirs, where
    return 0


def group(clean: float, accuracies: list[Any], cost: float | None = None, *costs: Any) -> Group:
    padded = [*costs, *[None] * (len(accuracies) - len(costs))]
    cells = [
        AttackCell(f"a{i}", a, c) for i, (a, c) in enumerate(zip(accuracies, padded, strict=True))
    ]
    return Group(clean, cost, cells)


def timed(clean: float, costs: list[float]) -> Group:
    return Group(50.0, clean, [AttackCell(f"a{i}", 10.0, cost) for i, cost in enumerate(costs)])


# The published toolkit


@pytest.mark.parametrize("name", GOLDEN["logs"])
def test_every_log_gives_what_the_toolkit_gives(name: str) -> None:
    entry = GOLDEN["logs"][name]
    ours = report(parse(entry))
    for key, numbers in (("expected", 36), ("expected_per_mode_clean_time", 8), ("clean", 4)):
        assert same(ours[key], entry[key], key) == numbers
    assert same(ours["parsed_attacks"], entry["parsed_attacks"]) >= 8


def test_the_files_own_pool_gives_what_the_toolkit_gives() -> None:
    ours = report(parse(GOLDEN))
    assert sorted(ours["logs"]) == sorted(GOLDEN["logs"])
    assert list(ours["combined"]) == [POOL]
    theirs = dict(GOLDEN["combined"][POOL])
    per_mode = theirs.pop("per_mode_clean_time")
    block = ours["combined"][POOL]
    assert same({key: block[key] for key in theirs}, theirs) == 36
    for mode in MODES:
        assert sorted(block["per_mode_clean_time"][mode]) == sorted(per_mode[mode])
        assert block["per_mode_clean_time"][mode]["AEM"] == pytest.approx(
            per_mode[mode]["AEM"], rel=1e-9
        )
        for name, value in per_mode[mode].items():  # some with four decimals, some with two
            digits = 2 if name.endswith("_2dp") else 4
            rounded = round(block["per_mode_clean_time"][mode][name], digits)
            assert rounded == pytest.approx(round(value, digits), abs=1e-12)


def test_the_published_row_is_the_clean_time_of_the_same_mode() -> None:
    reproduction = GOLDEN["paper_reproduction"]
    by_rule = report(parse(GOLDEN))["combined"][POOL]["metrics"]
    ours = {
        rule: {
            mode: {
                name: round(value, 2)
                for name, value in zip(
                    ("RR", "AE", "CREI", "I-RR", "I-CREI"),
                    (by_rule[rule][mode][n] for n in ("RRM", "AEM", "CREIM", "I-RRM", "I-CREIM")),
                    strict=True,
                )
            }
            for mode in MODES
        }
        for rule in CLEAN_TIMES
    }
    assert ours["min"] == reproduction["toolkit"]
    for theirs in (
        reproduction["paper"],
        reproduction["per_mode_clean_time"],
        GOLDEN["paper_row_BACON_CIFAR10"],
    ):
        for mode in MODES:
            assert {name: ours["same_mode"][mode][name] for name in theirs[mode]} == theirs[mode]
    assert ours["min"]["targeted"]["CREI"] != ours["same_mode"]["targeted"]["CREI"]


EDGES: dict[str, Callable[[], Score]] = {
    "rr beard clean==min (90,[90])": lambda: robustness_ratio(group(90, [90])),
    "rr rome clean==min (90,[90,90])": lambda: robustness_ratio(group(90, [90, 90]), "rome"),
    "rr rome min slightly below (90,[90,89.99])": lambda: robustness_ratio(
        group(90, [90, 89.99]), "rome"
    ),
    "rr beard all zero attacks (70,[0,0])": lambda: robustness_ratio(group(70, [0, 0])),
    "rr rome all zero attacks (70,[0,0])": lambda: robustness_ratio(group(70, [0, 0]), "rome"),
    "rr beard attack above clean (50,[60,40])": lambda: robustness_ratio(group(50, [60, 40])),
    "rr rome attack above clean (50,[60,40])": lambda: robustness_ratio(
        group(50, [60, 40]), "rome"
    ),
    "rr rome+ attack above clean (50,[60,40])": lambda: robustness_ratio(
        group(50, [60, 40]), "rome+"
    ),
    "rr beard all above (50,[60,55])": lambda: robustness_ratio(group(50, [60, 55])),
    "rr rome all above (50,[60,55])": lambda: robustness_ratio(group(50, [60, 55]), "rome"),
    "rr with None (60,[30,None,20])": lambda: robustness_ratio(group(60, [30, None, 20]), "rome"),
    "rr all None": lambda: robustness_ratio(group(60, [None, None])),
    "rr clean 0 (0,[0])": lambda: robustness_ratio(group(0, [0])),
    "rr bad type": lambda: robustness_ratio(group(60, [30]), "crei"),  # type: ignore[arg-type]
    "ae (2,[2])": lambda: attack_efficiency(timed(2, [2])),
    "ae (2,[3,5,10])": lambda: attack_efficiency(timed(2, [3, 5, 10])),
    "ae attack faster than clean (2,[1,10])": lambda: attack_efficiency(timed(2, [1, 10])),
    "crei alpha 1.5": lambda: combine(Score(1.0), Score(1.0), 1.5),
    "rr list-of-2 floats is read as single tuple [60,[30,20]]": lambda: robustness_ratio(
        group(60, [30, 20])
    ),
}


def test_the_toolkits_edge_cases_are_all_here() -> None:
    assert sorted(EDGES) == sorted(GOLDEN["edge_cases"])


@pytest.mark.parametrize("name", EDGES)
def test_edge_cases_as_published(name: str) -> None:
    theirs = GOLDEN["edge_cases"][name]
    if isinstance(theirs, str):
        assert theirs.startswith("ValueError")
        with pytest.raises(ValueError):
            EDGES[name]()
    else:
        assert EDGES[name]().value == pytest.approx(theirs, rel=1e-9, abs=1e-9)


# The published tables


def leaderboard() -> list[tuple[str, list[float]]]:
    board = TABLES["beard_leaderboard_untargeted_2024_08"]
    assert board["columns"] == ["CREI", "RR(M)", "AE(M)"]
    return [
        (f"{dataset}/{ipc}/{method}", row)
        for dataset, by_ipc in board["data"].items()
        for ipc, methods in by_ipc.items()
        for method, row in methods.items()
    ]


def test_the_leaderboard_is_crei_of_its_rr_and_ae() -> None:
    rows = leaderboard()
    assert len(rows) == 66
    for name, (crei, rr, ae) in rows:
        assert combine(Score(rr), Score(ae)).value == pytest.approx(crei, abs=0.011), name


def test_table_1_has_one_ae_a_row_and_mode() -> None:
    """RR with CREI and I-RR with I-CREI imply the same AE, so alpha is 0.5 in both."""
    checked = 0
    for dataset, methods in TABLES["table1"].items():
        for method, row in methods.items():
            implied = TABLES["table1_implied_AE"][f"{dataset}/{method}"]
            for first, mode in ((0, "targeted"), (4, "untargeted")):
                rr, crei, i_rr, i_crei = row[first : first + 4]
                ae = Score((implied[f"{mode}_from_CREI"] + implied[f"{mode}_from_I-CREI"]) / 2)
                assert combine(Score(rr), ae).value == pytest.approx(crei, abs=0.011)
                assert combine(Score(i_rr), ae).value == pytest.approx(i_crei, abs=0.011)
                checked += 1
    assert checked == 32


HEATMAP = TABLES["heatmap_IRR_CIFAR10_IPC50"]
TRANSFERS = {
    name: entry for name, entry in GOLDEN["logs"].items() if entry["kind"] == "black_box_transfer"
}


@pytest.mark.parametrize("name", TRANSFERS)
@pytest.mark.parametrize("mode", MODES)
def test_transfer_logs_give_the_heatmap(name: str, mode: str) -> None:
    entry = TRANSFERS[name]
    row, column = (HEATMAP["names"].index(entry[f"{key}_model"]) for key in ("source", "target"))
    figure = HEATMAP[mode][row][column]
    ours = report(parse(entry))["metrics"]["same_mode"][mode]["I-RR"]
    # BACON's own untargeted cell differs: DeepFool's figure is rounding noise at the boundary.
    assert (abs(ours - figure) < 0.05) == ((row, column, mode) != (5, 5, "untargeted"))


def test_the_query_log_gives_the_query_columns() -> None:
    metrics = report(parse(GOLDEN["logs"]["black_box/Query/BACON/ConvNet_CIFAR10_50"]))["metrics"]
    table = TABLES["table2_blackbox_IRR_CIFAR10_IPC50"]
    published = dict(zip(table["columns"], table["BACON"], strict=True))
    for mode, column in (("targeted", "T.query"), ("untargeted", "U.query")):
        assert round(metrics["same_mode"][mode]["I-RR"], 2) == published[column]


def test_the_rome_log_gives_its_scores() -> None:
    """The one log with ROME's accuracies an attack; seconds are those logged beside them."""
    log = TABLES["rome_ipc50_cifar10_whitebox_log_2025_03_24"]
    targeted = {"FGSM": 3.53, "PGD": 8.02, "PGD_L2": 8.11, "CW": 72.46}
    untargeted = {
        "FGSM": 3.56,
        "PGD": 8.06,
        "PGD_L2": 8.13,
        "Deepfool": 997.34,
        "CW": 84.05,
        "AA": 548.21,
    }
    rows = [
        {
            "attack": attack,
            "targeted_acc": log["targeted"].get(attack),
            "targeted_time": targeted.get(attack),
            "untargeted_acc": log["untargeted"][attack],
            "untargeted_time": untargeted[attack],
        }
        for attack in untargeted
    ]
    clean = {"accuracy": log["clean"], "target_time": 3.29, "non_target_time": 2.99}
    metrics = report(parse({"clean": clean, "rows": rows}))["metrics"]
    scores = {
        rule: [round(metrics[rule][mode][name], 2) for mode in MODES for name in ("I-RR", "I-CREI")]
        for rule in CLEAN_TIMES
    }
    assert scores["min"] == [97.62, 63.24, 50.35, 38.85]  # the toolkit's
    assert scores["same_mode"] == [97.62, 63.08, 50.35, 38.85]
    row = HEATMAP["names"].index("ROME")
    for mode, ours in (("targeted", scores["min"][0]), ("untargeted", scores["min"][2])):
        assert ours == pytest.approx(HEATMAP[mode][row][row], abs=0.011)


# A naive form, in exact fractions

percent = st.integers(0, 6400).map(lambda k: k / 64)  # binary fractions: float sums are exact
cost = st.integers(0, 64_000).map(lambda k: k / 64)
cells = st.builds(AttackCell, st.just("attack"), st.none() | percent, st.none() | cost)
measured = st.builds(AttackCell, st.just("attack"), percent, cost)
some = st.lists(cells, max_size=4).flatmap(
    lambda rest: measured.flatmap(lambda cell: st.permutations([cell, *rest]))
)
positive = st.integers(1, 6400).map(lambda k: k / 64)
groups = st.lists(st.builds(Group, positive, cost, some), min_size=1, max_size=3)


def average(values: list[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def naive_ratio(pool: list[Group], kind: Kind) -> Fraction:
    clean = average([Fraction(g.clean_accuracy) for g in pool])
    under = [Fraction(c.accuracy) for g in pool for c in g.attacks if c.accuracy is not None]
    drops = [clean - accuracy for accuracy in under]
    if min(under) == clean:
        return Fraction(0)
    if kind == "beard":
        return 100 * (1 - average(drops) / max(drops))
    ratio = 1 - average(drops) * max(drops) / clean**2
    if kind == "rome+":
        ratio -= Fraction(1, 100) * average([-drop if drop < 0 else Fraction(0) for drop in drops])
    return 100 * ratio


def naive_efficiency(pool: list[Group]) -> Fraction:
    clean = average([Fraction(g.clean_cost) for g in pool if g.clean_cost is not None])
    costs = [Fraction(c.cost) for g in pool for c in g.attacks if c.cost is not None]
    if max(costs) == clean:
        return Fraction(0)
    return 100 * (average(costs) - clean) / (max(costs) - clean)


@given(pool=groups, alpha=st.integers(0, 8).map(lambda k: k / 8))
def test_all_metrics_equal_the_naive_form(pool: list[Group], alpha: float) -> None:
    ours = measure(pool, alpha=alpha)
    efficiency = naive_efficiency(pool)
    assert ours.efficiency.value == pytest.approx(float(efficiency), rel=1e-9, abs=1e-9)
    for kind in ours.robustness:
        ratio = naive_ratio(pool, kind)
        assert ours.robustness[kind].value == pytest.approx(float(ratio), rel=1e-9, abs=1e-9)
        both = Fraction(alpha) * ratio + (1 - Fraction(alpha)) * efficiency
        assert ours.combined[kind].value == pytest.approx(float(both), rel=1e-9, abs=1e-9)


def test_pooling_is_not_the_mean_of_the_groups() -> None:
    first, second = group(50, [40, 20], 1, 2, 9), group(80, [70, 10], 2, 3, 40)
    pooled = [robustness_ratio([first, second]).value, attack_efficiency([first, second]).value]
    assert pooled == [pytest.approx(100 * (1 - 30 / 55)), pytest.approx(100 * (12 / 38.5))]
    means = [
        ((robustness_ratio(first).value or 0) + (robustness_ratio(second).value or 0)) / 2,
        ((attack_efficiency(first).value or 0) + (attack_efficiency(second).value or 0)) / 2,
    ]
    assert all(abs(a - b) > 1 for a, b in zip(pooled, means, strict=True) if a is not None)


@given(pool=groups, copies=st.integers(1, 5))
def test_pooling_one_group_however_often_is_that_group(pool: list[Group], copies: int) -> None:
    assert measure([pool[0]] * copies) == measure(pool[0])


def test_equal_groups_are_inert_together_if_each_is() -> None:
    """A mean that is off by a rounding error would divide one such error by another."""
    for hundredths in range(1, 10_001):
        accuracy = hundredths / 100
        assert robustness_ratio([group(accuracy, [accuracy])] * 6) == Score(0.0)


@given(pool=groups, data=st.data())
def test_no_order_matters(pool: list[Group], data: st.DataObject) -> None:
    shuffled = [
        replace(one, attacks=data.draw(st.permutations(one.attacks)))
        for one in data.draw(st.permutations(pool))
    ]
    assert measure(shuffled) == measure(pool)


@given(pool=groups, factor=st.floats(1e-6, 1e6))
def test_ae_has_no_unit(pool: list[Group], factor: float) -> None:
    def scaled(value: float | None) -> float | None:
        return None if value is None else factor * value

    other = [
        Group(
            one.clean_accuracy,
            scaled(one.clean_cost),
            [AttackCell(cell.name, cell.accuracy, scaled(cell.cost)) for cell in one.attacks],
        )
        for one in pool
    ]
    span = naive_efficiency(pool)
    assume(span != 0)  # a difference that is 0 need not stay 0 in floats
    assert attack_efficiency(other).value == pytest.approx(float(span), rel=1e-7, abs=1e-7)


def test_ae_of_counted_passes_is_ae_of_a_steady_machine() -> None:
    """An image's passes: forward and backward of PGD-10 and PGD-20, forward only of Square."""
    passes = [AttackCell("PGD", 30.0, 21), AttackCell("PGD", 28, 41), AttackCell("Square", 25, 201)]
    counted = Group(60.0, 1, passes, "passes")
    timed_too = Group(
        60, 0.25, [AttackCell(c.name, c.accuracy, 0.25 * (c.cost or 0)) for c in passes]
    )
    assert attack_efficiency(counted).value == pytest.approx(100 * (263 / 3 - 1) / 200)
    assert attack_efficiency(counted) == attack_efficiency(timed_too)
    with pytest.raises(MetricsError, match="different units"):
        attack_efficiency([counted, timed_too])


# What rises with what


@given(
    clean=st.integers(1, 6400),
    data=st.data(),
    kind=st.sampled_from(["rome", "rome+"]),
)
def test_i_rr_never_falls_with_an_accuracy(clean: int, data: st.DataObject, kind: Kind) -> None:
    """Where no attack raises the accuracy, and with the sound answer for an inert attack."""
    accuracies = data.draw(st.lists(st.integers(0, clean), min_size=1, max_size=5))
    position = data.draw(st.integers(0, len(accuracies) - 1))
    higher = [*accuracies]
    higher[position] = data.draw(st.integers(accuracies[position], clean))

    def ratio(values: list[int]) -> float:
        one = group(clean / 64, [value / 64 for value in values])
        value = robustness_ratio(one, kind, degenerate="sound").value
        assert value is not None
        return value

    assert ratio(higher) >= ratio(accuracies) - 1e-9
    assert 0 <= ratio(accuracies) <= 100 + 1e-9
    if higher[position] > accuracies[position]:
        assert ratio(higher) > ratio(accuracies)


def test_the_published_i_rr_falls_to_0_as_the_last_harm_goes() -> None:
    ratios = [robustness_ratio(group(90, [90, a]), "rome").value for a in (60, 80, 89.99, 90)]
    assert all(a is not None and b is not None and a < b for a, b in pairwise(ratios[:3]))
    assert ratios[3] == 0


@given(data=st.data(), clean=cost, costs=st.lists(cost, min_size=2, max_size=5))
def test_ae_rises_with_the_cost_of_all_but_the_dearest(
    data: st.DataObject, clean: float, costs: list[float]
) -> None:
    costs.sort()
    assume(costs[-1] > clean)
    position = data.draw(st.integers(0, len(costs) - 2))
    assume(costs[-1] - costs[position] >= 1)
    dearer = [*costs]
    dearer[position] += 1
    before, after = (attack_efficiency(timed(clean, values)).value for values in (costs, dearer))
    assert before is not None
    assert after is not None
    assert after > before


@given(pool=groups)
def test_i_rr_plus_takes_off_the_mean_gain(pool: list[Group]) -> None:
    ours = measure(pool)
    clean, plain, plus = (
        ours.clean_accuracy,
        ours.robustness["rome"].value,
        ours.robustness["rome+"].value,
    )
    accuracies = [c.accuracy for g in pool for c in g.attacks if c.accuracy is not None]
    assert plain is not None
    assert plus is not None
    if min(accuracies) == clean:
        assert plus == plain == 0
    else:
        gain = sum(max(a - clean, 0.0) for a in accuracies) / len(accuracies)
        assert plain - plus == pytest.approx(gain, rel=1e-9, abs=1e-9)


@given(pool=groups)
def test_alpha_0_and_1_are_the_parts(pool: list[Group]) -> None:
    for kind, ratio in measure(pool).robustness.items():
        ae = attack_efficiency(pool)
        assert measure(pool, alpha=1).combined[kind] == ratio
        assert measure(pool, alpha=0).combined[kind] == ae
        assert ratio.value is not None
        assert ae.value is not None
        low, high = sorted((ratio.value, ae.value))
        between = measure(pool, alpha=0.3).combined[kind].value
        assert between is not None
        assert between == pytest.approx(0.3 * ratio.value + 0.7 * ae.value, rel=1e-9, abs=1e-9)
        rounding = 1e-12 * max(abs(low), abs(high))
        assert low - rounding <= between <= high + rounding


# The sound rule for what has nothing to measure


@pytest.mark.parametrize("kind", ["rome", "rome+"])
def test_an_inert_attack_leaves_i_rr_at_100(kind: Kind) -> None:
    assert robustness_ratio(group(90, [90, 90]), kind, degenerate="sound") == Score(100.0)


def test_gains_are_no_harm() -> None:
    """As published two negative drops multiply to a loss."""
    gains = group(50, [60, 55])
    assert robustness_ratio(gains, "rome").value == pytest.approx(98.5)
    assert robustness_ratio(gains, "rome", degenerate="sound").value == 100
    assert robustness_ratio(gains, "rome+", degenerate="sound").value == pytest.approx(92.5)


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (lambda rule: robustness_ratio(group(90, [90]), degenerate=rule), "no worst drop"),
        (lambda rule: robustness_ratio(group(50, [60, 55]), degenerate=rule), "no worst drop"),
        (lambda rule: robustness_ratio(group(0, [0]), "rome", degenerate=rule), "none to lose"),
        (lambda rule: attack_efficiency(timed(2, [2]), degenerate=rule), "more than the clean"),
        (lambda rule: attack_efficiency(timed(5, [1, 3]), degenerate=rule), "more than the clean"),
    ],
)
def test_the_sound_rule_has_no_value_where_published_has_one(
    score: Callable[[str], Score], reason: str
) -> None:
    assert score("published").value is not None
    sound = score("sound")
    assert sound.value is None
    assert reason in (sound.reason or "")


@pytest.mark.parametrize(
    ("score", "code", "field"),
    [
        (
            lambda rule: robustness_ratio(group(60, [None]), degenerate=rule),
            "no_accuracies",
            "attacks.accuracy",
        ),
        (
            lambda rule: robustness_ratio(group(60, []), degenerate=rule),
            "no_accuracies",
            "attacks.accuracy",
        ),
        (
            lambda rule: robustness_ratio(group(0, [5]), "rome", degenerate=rule),
            "clean_accuracy_zero",
            "clean_accuracy",
        ),
        (
            lambda rule: attack_efficiency(group(9, [1], 2), degenerate=rule),
            "no_costs",
            "attacks.cost",
        ),
        (
            lambda rule: attack_efficiency(
                [timed(2, [3]), group(9, [1], None, 4)], degenerate=rule
            ),
            "no_clean_cost",
            "clean_cost",
        ),
    ],
)
def test_what_cannot_be_had_is_an_error_or_a_reason(
    score: Callable[[str], Score], code: str, field: str
) -> None:
    with pytest.raises(MetricsError) as caught:
        score("published")
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.remedy
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, CoreError)
    assert score("sound") == Score(None, caught.value.detail)


def test_the_rules_differ_only_where_something_is_degenerate() -> None:
    one = group(70, [60, 20, None], 1, 2, 9)
    assert measure(one) == measure(one, degenerate="sound")


def test_a_combination_without_a_part_says_why() -> None:
    nothing = Score(None, "no reason")
    assert combine(nothing, Score(3.0)) == nothing
    assert combine(Score(3.0), nothing) == nothing
    assert combine(nothing, Score(3.0), alpha=0) == Score(3.0)


# Errors


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf"), True, "0.5", None])
def test_alpha_lies_in_0_to_1(alpha: Any) -> None:
    with pytest.raises(MetricsError) as caught:
        measure(group(50, [10], 1, 2), alpha=alpha)
    assert (caught.value.code, caught.value.field) == ("alpha_out_of_range", "alpha")


@pytest.mark.parametrize(
    ("make", "code", "field"),
    [
        (lambda: AttackCell("PGD", 100.5), "out_of_range", "accuracy"),
        (lambda: AttackCell("PGD", -1), "out_of_range", "accuracy"),
        (lambda: AttackCell("PGD", float("nan")), "not_finite", "accuracy"),
        (lambda: AttackCell("PGD", 5, float("inf")), "not_finite", "cost"),
        (lambda: AttackCell("PGD", 5, 10**400), "not_finite", "cost"),
        (lambda: AttackCell("PGD", 5, -0.1), "out_of_range", "cost"),
        (lambda: AttackCell("PGD", "5"), "not_a_number", "accuracy"),  # type: ignore[arg-type]
        (lambda: AttackCell("PGD", True), "not_a_number", "accuracy"),
        (lambda: group(101, []), "out_of_range", "clean_accuracy"),
        (lambda: group(float("nan"), []), "not_finite", "clean_accuracy"),
        (lambda: group(None, []), "number_missing", "clean_accuracy"),  # type: ignore[arg-type]
        (lambda: group(50, [], -1), "out_of_range", "clean_cost"),
        (lambda: Group(50, 1, [30.0]), "bad_shape", "attacks"),  # type: ignore[list-item]
        (lambda: Group(50, 1, 30.0), "bad_shape", "attacks"),  # type: ignore[arg-type]
        (lambda: measure([]), "no_groups", "groups"),
        (lambda: measure([50.0]), "bad_shape", "groups"),  # type: ignore[list-item]
        (lambda: measure(group(5, [1]), degenerate="no"), "degenerate_unknown", "degenerate"),  # type: ignore[arg-type]
        (lambda: robustness_ratio(group(5e-324, [100]), "rome"), "score_too_large", "attacks"),
    ],
)
def test_bad_numbers_are_typed_errors(make: Callable[[], object], code: str, field: str) -> None:
    with pytest.raises(MetricsError) as caught:
        make()
    assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize(("clean", "slow"), [(2.5, True), (2, False), (None, False)])
def test_a_clean_pass_slower_than_an_attack_is_told(clean: float | None, slow: bool) -> None:
    one = group(50, [40, 30, None], clean, 2, 9)
    assert measure(one, degenerate="sound").clean_is_slow == slow


def test_a_group_keeps_the_attacks_it_was_given() -> None:
    given_list = [AttackCell("PGD", 10.0)]
    one = Group(50.0, None, given_list)
    given_list.clear()
    assert len(one.attacks) == 1
