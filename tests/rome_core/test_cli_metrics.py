"""`python -m rome_core metrics`: one JSON line, a table, errors of one line, no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rome_core import cli

GOLDEN_FILE = Path(__file__).parents[1] / "data/beard_metrics_golden.json"
GOLDEN: dict[str, Any] = json.loads(GOLDEN_FILE.read_text())
POOL = "white_box/BACON (IPC 1,10,50)"
TEN = "white_box/BACON/ConvNet_CIFAR10_10"


def call(*argv: object) -> int:
    return cli.main(["metrics", *(str(argument) for argument in argv)])


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", GOLDEN["logs"])
def test_json_of_an_entry_compares_key_by_key(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = GOLDEN["logs"][name]
    assert call(written(tmp_path / "entry.json", golden), "--json") == cli.DONE
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    compared = 0
    for kind, modes in golden["expected"].items():
        for mode, scores in modes.items():
            assert sorted(told["expected"][kind][mode]) == sorted(scores)
            for key, value in scores.items():
                if key == "warnings":
                    assert told["expected"][kind][mode][key] == value
                    continue
                for block in (told["expected"], told["min"]):
                    assert block[kind][mode][key] == pytest.approx(value, rel=1e-9, abs=1e-9)
                    compared += 1
    for mode, scores in golden["expected_per_mode_clean_time"].items():
        ours = told["expected_per_mode_clean_time"][mode]
        assert ours == pytest.approx(scores, rel=1e-9, abs=1e-9)
        same_mode = told["same_mode"]
        for kind, key in (("beard", "CREI"), ("rome", "I-CREI")):
            assert same_mode[kind][mode]["CREI"] == pytest.approx(scores[key], rel=1e-9)
    assert compared == 72


def test_the_golden_file_itself_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(GOLDEN_FILE, "--json") == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["alpha", "degenerate", "logs", "combined"]
    assert told["combined"][POOL]["rome"]["targeted"]["CREIM_2dp"] == 57.1
    assert told["combined"][POOL]["per_mode_clean_time"]["targeted"]["AEM_2dp"] == 29.27


def test_the_settings_reach_the_formulas_and_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inert = json.loads(json.dumps(GOLDEN["logs"][TEN]))
    for row in inert["rows"]:
        row["targeted_acc"] = inert["clean"]["accuracy"]
    path = written(tmp_path / "inert.json", inert)
    assert call(path, "--json", "--alpha", "0.25") == cli.DONE
    published = json.loads(capsys.readouterr().out)
    assert (published["alpha"], published["degenerate"]) == (0.25, "published")
    scores = published["metrics"]["min"]["targeted"]
    assert (scores["I-RR"], scores["CREI"]) == (0, pytest.approx(0.75 * scores["AE"]))
    assert call(path, "--json", "--degenerate", "sound") == cli.DONE
    sound = json.loads(capsys.readouterr().out)
    assert sound["degenerate"] == "sound"
    assert sound["metrics"]["min"]["targeted"]["I-RR"] == 100
    assert sound["metrics"]["min"]["targeted"]["CREI"] is None
    assert call(path, "--degenerate", "sound") == cli.DONE
    table = capsys.readouterr().out
    assert "degenerate cases sound" in table
    assert "targeted, same mode: no RR: no attack lowers the accuracy" in table


def test_the_table_is_rounded_and_names_the_clean_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(written(tmp_path / "entry.json", GOLDEN["logs"][TEN])) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "percent; alpha 0.5; degenerate cases as published"
    head, *rows, note = lines[1:]
    assert head.replace("clean time", "clean-time").split()[1:3] == ["clean-time", "clean"]
    assert [row.split() for row in rows] == [
        line.split()
        for line in (
            "targeted same mode 61.73 39.13 12.94 88.33 88.33 28.71 20.83 58.52 58.52",
            "targeted min of both 61.73 39.13 12.94 88.33 88.33 29.48 21.21 58.90 58.90",
            "untargeted same mode 61.73 11.84 28.24 53.13 53.13 25.94 27.09 39.53 39.53",
            "untargeted min of both 61.73 11.84 28.24 53.13 53.13 25.94 27.09 39.53 39.53",
        )
    ]
    assert note.startswith("  targeted, same mode: the clean pass took longer")


def test_the_table_of_several_ends_with_the_pool(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(GOLDEN_FILE) == cli.DONE
    out = capsys.readouterr().out
    assert all(f"\n{name}\n" in out for name in GOLDEN["logs"])
    pool = out[out.index(f"\n{POOL}: 3 entries pooled\n") :].splitlines()
    assert "CREIM" in pool[2]
    assert "56.82" in pool[3]
    assert "57.10" in pool[4]


ENTRY = GOLDEN["logs"][TEN]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "FILE: "),
        ("[" * 100_000, "is not JSON"),
        ("\ufeff{}", "is not JSON"),
        ('{"a": {}, "a": {}}', "it has 'a' twice"),
        ("[]", "there is no entry in it. Give an entry"),
        ("{}", "there is no entry in it. Give an entry"),
        ("3", "neither an object nor a list"),
        (json.dumps({**ENTRY, "clean": {**ENTRY["clean"], "accuracy": "61"}}), "clean.accuracy: "),
        (json.dumps({**ENTRY, "clean": {**ENTRY["clean"], "accuracy": float("nan")}}), "finite"),
        (json.dumps({**ENTRY, "rows": [{**ENTRY["rows"][1], "x": 1}]}), "rows.0.x: "),
        (json.dumps({"clean": {}, "rows": []}), "Problems after this one: 3."),
        (json.dumps({"e": {**ENTRY, "rows": ENTRY["rows"][4:5]}}), "e.rows.targeted_acc: "),
    ],
)
def test_errors_are_one_line_with_code_2(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert call(path, "--json") == cli.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["gone.json"], "cannot be read: No such file"),
        (["."], "cannot be read: Is a directory"),
        ([GOLDEN_FILE, "--alpha", "1.5"], "alpha: alpha, the weight of robustness, must lie in"),
        ([GOLDEN_FILE, "--alpha", "nan"], "alpha: "),
    ],
)
def test_bad_arguments_are_one_line_with_code_2(
    argv: list[object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*argv) == cli.BAD_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_bytes_that_are_no_text_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b"\xff\xfe{")
    assert call(path) == cli.BAD_INPUT
    assert "it is no text" in capsys.readouterr().err


def test_it_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from rome_core.cli import main\n"
        f"code = main(['metrics', {str(GOLDEN_FILE)!r}, '--json'])\n"
        "heavy = [name for name in ('torch', 'numpy', 'sklearn') if name in sys.modules]\n"
        "print(code, heavy, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr.strip() == "0 []"
    assert json.loads(ended.stdout)["logs"]


LOG = """\
Clean attack on ROME: final acc is:  target_attack: 60.0 +- 0.0, attack time is 2.0; \
non_target_attack: 60.0 +- 0.0, attack time is 2.0, dataset: CIFAR10, IPC: 10
FGSM attack on ROME: final acc is:  target_attack: 50.0 +- 0.0, attack time is 3.0; \
non_target_attack: 40.0 +- 0.0, attack time is 3.5, dataset: CIFAR10, IPC: 10
PGD attack on ROME: final acc is:  target_attack: 45.0 +- 0.0, attack time is 6.0; \
non_target_attack: 30.0 +- 0.0, attack time is 6.0, dataset: CIFAR10, IPC: 10
"""


def test_a_log_in_the_words_of_beard_is_read_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "beard-rome.log"
    path.write_text(LOG)
    assert cli.main(["metrics", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    # 1 - mean drop / max drop = 1 - 25 / 30, and 1 - 25 * 30 / 60^2
    assert told["metrics"]["same_mode"]["untargeted"]["RR"] == pytest.approx(100 / 6)
    assert told["metrics"]["same_mode"]["untargeted"]["I-RR"] == pytest.approx(
        100 * (1 - 750 / 3600)
    )


def test_several_files_are_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "ipc1.log", tmp_path / "ipc10.log"]
    for path, worst in zip(paths, ("30.0", "20.0"), strict=True):
        path.write_text(LOG.replace("30.0", worst))
    assert cli.main(["metrics", *map(str, paths), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["logs"]) == {"ipc1", "ipc10"}
    (pool,) = told["combined"].values()
    # Four accuracies, 40, 30, 40 and 20, are pooled before the formula: drops of 27.5 and 40.
    assert pool["metrics"]["same_mode"]["untargeted"]["RRM"] == pytest.approx(100 * (1 - 27.5 / 40))
