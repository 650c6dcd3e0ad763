"""BEARD's log lines: written so that its toolkit reads them, read as it means them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rome_core.beard_log import (
    UNTARGETED_ONLY,
    Cell,
    Line,
    NotApplicable,
    compose,
    entry,
    parse,
)
from rome_core.errors import CoreError

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "data" / "beard_metrics_golden.json").read_text(encoding="utf-8")
)["logs"]


def made(attack: str, *, targeted: bool = True, **changes: Any) -> Line:
    line = Line(
        attack,
        "ROME",
        Cell(53.99, 0.31, 3.53) if targeted else None,
        Cell(44.03, 0.2, 3.56),
        "CIFAR10",
        10,
    )
    return replace(line, **changes)


CLEAN = made("Clean", targeted=True)
LOG = [CLEAN, made("FGSM"), made("AA", targeted=False)]


def test_a_line_is_of_their_grammar() -> None:
    line = made("FGSM", protocol="rome-2025", details={"model": "ConvNet", "aug": "False"})
    assert compose([CLEAN, line]).splitlines()[1] == (
        "FGSM attack on ROME: final acc is:  target_attack: 53.99 +- 0.31, attack time is 3.53; "
        "non_target_attack: 44.03 +- 0.20, attack time is 3.56, dataset: CIFAR10, IPC: 10, "
        "protocol: rome-2025, model: ConvNet, aug: False"
    )


def test_a_transfer_line_is_of_their_grammar() -> None:
    line = made(
        "Clean",
        targeted=True,
        untargeted=Cell(44.03, 0, 3.5, {"DC": 0.00005, "MTT": 0.392}),
    )
    line = replace(line, targeted=Cell(53.99, 0, 3.5, {"DC": 0.3056, "MTT": 1.0}))
    assert compose([line]).endswith(
        ", eval_accuracies_target: {[{'DC': 0.3056, 'MTT': 1.00}]}, "
        "eval_accuracies_non_target: {[{'DC': 0.00005, 'MTT': 0.392}]}\n"
    )


PUBLISHED = """\
2025-12-21 20:23:56,035 - INFO - Logging setup complete.
2025-12-21 21:20:53,957 - INFO - Clean attack on BACON: final acc is:  \
target_attack: 69.95 +- 0.00, attack time is 6.68; \
non_target_attack: 69.95 +- 0.00, attack time is 4.84, dataset: CIFAR10, IPC: 1, DSA:True, \
num_eval: 0, aug:False , model: ConvNet, attack_type: ['Clean', 'Spsa', 'Square'], \
target_attack: [True, False], src_dataset: False
2025-12-21 21:20:53,958 - INFO - Spsa attack on BACON: final acc is:  \
target_attack: 50.29 +- 0.00, attack time is 36.8; \
non_target_attack: 27 +- 0.00, attack time is 458.79, dataset: CIFAR10, IPC: 1, DSA:True, \
num_eval: 0, aug:False , model: ConvNet, attack_type: ['Clean', 'Spsa', 'Square'], \
target_attack: [True, False], src_dataset: False
"""


def test_a_published_log_is_read() -> None:
    clean, spsa = parse(PUBLISHED)
    assert (clean.attack, spsa.attack, spsa.method) == ("Clean", "Spsa", "BACON")
    assert (spsa.targeted, spsa.untargeted) == (Cell(50.29, 0, 36.8), Cell(27, 0, 458.79))
    assert (spsa.dataset, spsa.ipc, spsa.protocol) == ("CIFAR10", 1, None)
    assert spsa.details == {
        "DSA": "True",
        "num_eval": "0",
        "aug": "False",
        "model": "ConvNet",
        "attack_type": "['Clean', 'Spsa', 'Square']",
        "target_attack": "[True, False]",
        "src_dataset": "False",
    }
    assert parse(compose([clean, spsa])) == [clean, spsa]


def test_a_published_transfer_log_is_read() -> None:
    text = PUBLISHED.replace(
        "src_dataset: False",
        "src_dataset: True, eval_accuracies_target: {[{'DC': 0.5431, 'BACON': 0.6995}]}, "
        "eval_accuracies_non_target: {[{'DC': 0.392, 'BACON': 0.0005}]}",
    )
    (_, spsa) = parse(text)
    assert spsa.targeted is not None
    assert spsa.targeted.models == {"DC": 0.5431, "BACON": 0.6995}
    assert entry(parse(text), "DC")["rows"][1] == {
        "attack": "Spsa",
        "method": "DC",
        "targeted_acc": 54.31,
        "targeted_time": 36.8,
        "untargeted_acc": 39.2,
        "untargeted_time": 458.79,
    }
    with pytest.raises(CoreError, match="says nothing of the model 'ROME'") as caught:
        entry(parse(text), "ROME")
    assert caught.value.code == "beard_log_incomplete"
    assert "DC, BACON" in caught.value.remedy


def line_of(row: dict[str, Any], golden: dict[str, Any]) -> Line:
    return Line(
        row["attack"],
        row["method"],
        Cell(row["targeted_acc"], 0, row["targeted_time"]),
        Cell(row["untargeted_acc"], 0, row["untargeted_time"]),
        golden["dataset"],
        golden["ipc_in_log"],
    )


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_entries_have_the_shape_of_the_golden_ones(name: str) -> None:
    golden = GOLDEN[name]
    text = compose([line_of(row, golden) for row in golden["rows"]])
    assert entry(parse(text)) == {"clean": golden["clean"], "rows": golden["rows"]}


# Cells that do not exist


def test_a_mode_that_does_not_exist_is_zeros_and_read_as_none() -> None:
    text = compose(LOG)
    assert "AA attack on ROME: final acc is:  target_attack: 0.00 +- 0.00, attack time is 0.00" in (
        text
    )
    assert parse(text) == LOG
    row = entry(parse(text))["rows"][2]
    assert (row["targeted_acc"], row["targeted_time"]) == (None, None)
    assert row["untargeted_acc"] == 44.03


def test_on_request_it_is_the_clean_cell_as_published() -> None:
    found = parse(compose(LOG, not_applicable="clean"))
    assert found == [*LOG[:2], replace(LOG[2], targeted=CLEAN.targeted)]


def transfer(line: Line) -> Line:
    models = {"DC": 0.5, "MTT": 0.25}
    cells = {
        mode: replace(cell, models=models) if cell else None
        for mode, cell in (("targeted", line.targeted), ("untargeted", line.untargeted))
    }
    return replace(line, **cells)


def test_a_mode_that_does_not_exist_in_a_transfer_log() -> None:
    log = [transfer(line) for line in LOG]
    text = compose(log)
    assert "eval_accuracies_target: {[{'DC': 0.00, 'MTT': 0.00}]}" in text.splitlines()[2]
    assert parse(text) == log
    found = parse(compose(log, not_applicable="clean"))[2]
    assert found.targeted is not None
    assert found.targeted.models == {"DC": 0.5, "MTT": 0.25}


# What the toolkit would misread


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([CLEAN, made("MI-FGSM")], "'MI-FGSM' is no name"),
        ([CLEAN, made("PGD", method="ROME 2")], "'ROME 2' is no name"),
        ([CLEAN, made("")], "'' is no name"),
        ([CLEAN, made("PGD", dataset="CIFAR-10")], "'CIFAR-10' is no name"),
        ([CLEAN, made("PGD", ipc=-1)], "-1 images a class"),
        ([CLEAN, made("PGD", details={"a b": "1"})], "'a b' is no name"),
        ([CLEAN, made("PGD", details={"a": "1, b: 2"})], "end its field"),
        ([CLEAN, made("PGD", details={"a": "1\n2"})], "end its field"),
        ([CLEAN, made("PGD", details={"a": " 1"})], "end its field"),
        ([CLEAN, made("PGD", details={"a": ""})], "end its field"),
        ([CLEAN, made("PGD", protocol="a, b")], "end its field"),
        ([CLEAN, made("PGD", details={"IPC": "1"})], "fields of their own"),
        ([CLEAN, made("Square", targeted=False)], "Square has no targeted numbers"),
        ([CLEAN, made("AA", untargeted=None)], "AA has no untargeted numbers"),
        ([CLEAN, made("PGD"), made("PGD")], "PGD would stand twice"),
        ([made("PGD")], "without one line of the attack Clean"),
        ([CLEAN, made("clean")], "without one line of the attack Clean"),
        ([made("Clean", targeted=False)], "without one line of the attack Clean"),
        ([], "without one line of the attack Clean"),
        ([CLEAN, transfer(made("PGD"))], "PGD was tried on"),
    ],
)
def test_what_the_toolkit_would_misread_is_refused(lines: list[Line], says: str) -> None:
    with pytest.raises(CoreError, match=f"(?i){re.escape(says)}") as caught:
        compose(lines)
    assert caught.value.code == "beard_log_impossible"


def test_a_name_is_proposed() -> None:
    with pytest.raises(CoreError, match="MI_FGSM"):
        compose([CLEAN, made("MI-FGSM")])


@pytest.mark.parametrize(
    "numbers",
    [(101, 0, 1), (-1, 0, 1), (1, -1, 1), (1, 0, -1), (float("nan"), 0, 1), (0, 0, 0), (0, 0, 1e9)],
)
def test_a_cell_holds_a_measurement(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="accuracy, spread and seconds"):
        Cell(*numbers)


def test_other_models_have_fractions() -> None:
    with pytest.raises(ValueError, match="fractions"):
        Cell(1, 0, 1, {"DC": 54.3})


# What cannot be read


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("FGSM attack", "MI-FGSM attack", "names or numbers"),
        ("on ROME", "on ROME-2", "names or numbers"),
        ("53.99", "5.4e1", "names or numbers"),
        ("53.99", "nan", "names or numbers"),
        ("53.99", "-3", "names or numbers"),
        ("53.99", "153.99", "153.99"),
        ("; non_target", ", non_target", "names or numbers"),
        (", dataset: CIFAR10", "", "dataset and IPC"),
        ("IPC: 10", "IPC: ten", "dataset and IPC"),
        ("IPC: 10", "IPC: 10 and more, yes", "from ', yes' on"),
        ("IPC: 10", "IPC: 10, eval_accuracies_target: {[{'DC': x}]}", "no list of models"),
        ("IPC: 10", "IPC: 10, eval_accuracies_target: [1]", "no list of models"),
        ("IPC: 10", "IPC: 10, eval_accuracies_target: {[{'DC': 5}]}", "fractions"),
    ],
)
def test_a_line_that_means_to_be_one_is_not_passed_over(old: str, new: str, says: str) -> None:
    text = "A header\n" + compose([CLEAN]) + compose(LOG).splitlines()[1].replace(old, new)
    with pytest.raises(CoreError, match=re.escape(says)) as caught:
        parse(text)
    assert caught.value.code == "beard_log_unreadable"
    assert caught.value.detail.startswith("Line 3 ")


def test_an_entry_needs_its_clean_line() -> None:
    for lines in ([made("PGD")], [CLEAN, CLEAN], [made("Clean", targeted=False)]):
        with pytest.raises(CoreError, match="Clean") as caught:
            entry(lines)
        assert caught.value.code == "beard_log_incomplete"


# Round trips

words = st.text("aZ_0é", min_size=1, max_size=6)
percents = st.integers(0, 10**8).map(lambda number: number / 10**6)
seconds = st.integers(1, 10**12).map(lambda number: number / 10**6)
details = st.dictionaries(
    words.filter(lambda name: name not in {"dataset", "IPC", "protocol"}),
    words | st.lists(words).map(str),
    max_size=3,
)


def cells(models: list[str]) -> st.SearchStrategy[Cell]:
    shares = st.integers(0, 10**8).map(lambda number: number / 10**8)
    return st.builds(
        Cell,
        percents,
        percents,
        seconds,
        st.fixed_dictionaries(dict.fromkeys(models, shares)),
    )


@st.composite
def logs(draw: st.DrawFn) -> list[Line]:
    models = draw(st.lists(words, unique=True, max_size=3))
    names = draw(st.lists(words | st.sampled_from(UNTARGETED_ONLY), unique=True, max_size=4))
    lines = []
    for name in ["Clean", *(name for name in names if name.lower() != "clean")]:
        targeted = cells(models) | st.none() if name in UNTARGETED_ONLY else cells(models)
        lines.append(
            Line(
                name,
                draw(words),
                draw(targeted),
                draw(cells(models)),
                draw(words),
                draw(st.integers(0, 1000)),
                draw(words | st.none()),
                draw(details),
            )
        )
    return lines


@settings(max_examples=30)
@given(logs())
def test_what_is_written_is_read(lines: list[Line]) -> None:
    assert parse(compose(lines)) == lines


@settings(max_examples=30)
@given(logs(), st.text(st.characters(codec="ascii", exclude_characters="\n\r"), max_size=20))
def test_other_text_around_it_changes_nothing(lines: list[Line], prefix: str) -> None:
    text = compose(lines, not_applicable="clean")
    clean = lines[0].targeted
    expected = [replace(line, targeted=line.targeted or clean) for line in lines]
    stamped = "".join(f"{prefix} - {line}\n" for line in text.splitlines())
    assert parse(f"{prefix}\n\n{stamped}") == expected


@settings(max_examples=30)
@given(logs(), st.sampled_from(["zeros", "clean"]))
def test_the_toolkit_finds_every_number(lines: list[Line], not_applicable: NotApplicable) -> None:
    """By splitting at the words between numbers, as anything that reads the format must."""
    between = [" attack on ", ": final acc is:  target_attack: ", " +- ", ", attack time is "]
    between += ["; non_target_attack: ", " +- ", ", attack time is ", ", dataset: "]
    for line, text in zip(
        lines, compose(lines, not_applicable=not_applicable).splitlines(), strict=True
    ):
        rest, found = text, []
        for word in between:
            part, rest = rest.split(word, 1)
            found.append(part)
        assert found[:2] == [line.attack, line.method]
        assert all(re.fullmatch(r"\d+\.\d{2,6}", number) for number in found[2:])
        assert line.untargeted is not None
        assert float(found[5]) == line.untargeted.accuracy
        assert float(found[7]) == line.untargeted.seconds


@given(st.floats(0, 100), st.floats(0, 100), st.floats(1e-5, 1e8))
def test_numbers_are_kept_to_six_decimals(accuracy: float, spread: float, time: float) -> None:
    cell = Cell(accuracy, spread, time)
    (found,) = parse(compose([replace(CLEAN, targeted=cell)]))
    assert found.targeted is not None
    assert found.targeted.accuracy == pytest.approx(accuracy, abs=5.1e-7)
    assert found.targeted.spread == pytest.approx(spread, abs=5.1e-7)
    assert found.targeted.seconds == pytest.approx(time, abs=5.1e-7)
