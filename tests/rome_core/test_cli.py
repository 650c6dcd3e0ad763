"""`python -m rome_core`: exit codes, words, resuming, JSON."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rome_core import cli, recipes, synthetic
from rome_core.cli import commands
from rome_core.cli.arguments import parse
from rome_core.cli.terminal import Terminal, describe, duration
from rome_core.evaluation.outcomes import read_parquet
from rome_core.evaluation.statistics import Resamples
from rome_core.progress import Progress, Stopped
from rome_core.provenance import file_digest
from rome_core.recipes.attacks import MODES
from rome_core.recipes.report import EvaluationReport, TransferReport
from rome_core.runner import Context, Outcome, run
from rome_core.torchvision_adapter import torchvision_datasets
from tests.rome_core.evaluation.conftest import NETWORK, trained

RANDOM = ["distill", "--method", "random", "--dataset", "digits", "--ipc", "2", "--threads", "1"]
ROME = [
    *("distill", "--preset", "rome-quick-digits-ipc10", "--ipc", "1", "--threads", "1"),
    *("--set", "iterations=4", "--set", "network=convnet-d1-w4", "--set", "pgd_steps=1"),
    *("--set", "batch_real=4", "--set", "batch_train=4", "--set", "pgd_epsilon=4/255"),
]
QUICK = ["--students", "1", "--epochs", "1", "--network", "convnet-d1-w4", "--limit", "10"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "set.pt"


def call(*argv: object) -> int:
    return cli.main([str(argument) for argument in argv])


def test_distil_then_evaluate(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*RANDOM, "--seed", 3, "--out", out) == cli.DONE
    told = capsys.readouterr()
    assert "20 images, 2 per class of digits, by random, seed 3" in told.out
    assert "python -m rome_core evaluate" in told.out
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "set.card.md",
        "set.png",
        "set.provenance.json",
        "set.pt",
        "set.safetensors",
    ]
    report = out.with_name("report.json")
    asked = [*QUICK, "--seed", 1, "--protocol", "quick,rome-2025", "--attacks", "pgd"]
    assert call("evaluate", "--set-file", out, *asked, "--out", report) == cli.DONE
    told = capsys.readouterr()
    assert "quick@1: accuracy in percent on 10 test images of digits, 95 % interval" in told.out
    assert "rome-2025@1: " in told.out
    assert "  pgd/untargeted  " in told.out
    assert "  trust in these numbers: " in told.out
    assert "must not be compared" in told.out
    assert [one["test_images"] for one in json.loads(report.read_text())["protocols"]] == [10, 10]
    beside = {path.name for path in report.parent.glob("report.*")}
    assert {
        *("report.student-0.safetensors", "report.outcomes.parquet", "report.provenance.json"),
        *("report.timings.json", "report.beard-quick.log", "report.beard-rome-2025.log"),
        *("report.attacks-quick.svg", "report.samples-rome-2025.png"),
    } < beside
    assert "report.json.work" not in beside


def test_json_is_one_line_on_stdout(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*ROME, "--seed", 3, "--out", out, "--json") == cli.DONE
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert told["spec"]["hyperparameters"]["pgd_epsilon"] == "4/255"
    assert told["spec"]["overrides"][0] == "ipc"
    assert told["spec_hash"] == recipes.spec_hash(told["spec"])
    assert all(Path(path).is_file() for path in told["outputs"].values())
    assert synthetic.load(out).preset == "rome-quick-digits-ipc10"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--method", "rom"], "Did you mean 'rome'?"),
        (["--dataset", "npz:a/b"], "no folder"),
        (["--dataset", "npz:gone"], "not under the data root"),
        (["--ipc", "0"], "ipc: "),
        (["--ipc", "500"], "at most 140"),
        (["--preset", "nope"], "there is no preset"),
        (["--set", "lr=1"], "hyperparameters.lr: there is no such field"),
        (["--seed", "-1"], "seed: "),
    ],
)
def test_bad_input_is_one_line_with_a_remedy_and_code_2(
    argv: list[str], words: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*RANDOM, *argv, "--data-root", out.parent, "--out", out) == cli.BAD_INPUT
    errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]


@pytest.mark.parametrize(
    "argv",
    [[], ["distil"], ["distill"], [*RANDOM, "--out", "x", "--set", "lr"], [*RANDOM, "--ipc", "x"]],
)
def test_arguments_that_make_no_sense_exit_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == cli.BAD_INPUT


def test_a_missing_set_says_so(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", "--set-file", out, "--out", out) == cli.BAD_INPUT
    assert "there is no file" in capsys.readouterr().err


def test_any_field_of_an_evaluation_can_be_set(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(*RANDOM, "--out", out)
    capsys.readouterr()
    settings = ["--set", "overrides.pgd.steps=2", "--set", "students.augmentation=none"]
    lists = ["--attacks", "clean,pgd", "--modes", "untargeted", "--set", "probes=false"]
    report = out.with_name("r.json")
    code = call("evaluate", "--set-file", out, *QUICK, *settings, *lists, "--out", report, "--json")
    assert code == cli.DONE
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert spec["overrides"] == {"pgd": {"steps": 2}}
    assert spec["students"]["augmentation"] == "none"
    assert (spec["attacks"], spec["modes"]) == (["clean", "pgd"], ["untargeted"])
    assert (spec["protocols"], spec["probes"]) == (["pixel@1"], False)
    bad = call("evaluate", "--set-file", out, "--set", "limit.x=1", "--limit", 3, "--out", report)
    assert bad == cli.BAD_INPUT


class Stopping:
    """Stands in for the runner: asks it to stop after some iterations."""

    def __init__(self, polls: int) -> None:
        self.polls = polls

    def __call__(self, spec: dict[str, Any], context: Context) -> Outcome:
        def should_stop() -> bool:
            self.polls -= 1
            return self.polls < 0

        return run(
            spec,
            Context(
                workdir=context.workdir,
                data_root=context.data_root,
                inputs=context.inputs,
                threads=1,
                should_stop=should_stop,
            ),
        )


def test_the_same_command_goes_on_where_it_stopped(
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(commands, "run", Stopping(2))
    assert call(*ROME, "--out", out) == cli.STOPPED
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not out.exists()
    drawn = json.loads((out.parent / "set.pt.work/spec.json").read_text())["seed"]

    other = call(*ROME, "--set", "iterations=9", "--out", out)
    assert other == cli.BAD_INPUT
    assert "unfinished run of another spec" in capsys.readouterr().err

    monkeypatch.setattr(commands, "run", run)
    assert call(*ROME, "--out", out) == cli.DONE
    whole = tmp_path / "whole.pt"
    assert call(*ROME, "--seed", drawn, "--out", whole) == cli.DONE
    assert out.read_bytes() == whole.read_bytes()
    assert not (out.parent / "set.pt.work").exists()
    provenance = json.loads(out.with_suffix(".provenance.json").read_text())
    assert provenance["notes"]


def test_ctrl_c_leaves_a_checkpoint_and_exits_with_130(tmp_path: Path) -> None:
    """A real process: the signal arrives once it says that it distils."""
    endless = [x.replace("iterations=4", "iterations=1000000") for x in ROME]
    child = subprocess.Popen(
        [sys.executable, "-m", "rome_core", *endless, "--out", str(tmp_path / "set.pt")],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    with child, child.stderr as lines:
        for line in lines:
            if line.startswith("distilling"):
                os.kill(child.pid, signal.SIGINT)
                break
        rest = lines.read()
        assert child.wait() == cli.STOPPED
    assert "goes on from there" in rest
    assert "Traceback" not in rest
    assert list((tmp_path / "set.pt.work/checkpoints").glob("step-*.json"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the weights of two models and no figures to wait for."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("m.pth", "n.pth"), start=1):
        torch.save(trained(number).state_dict(), tmp_path / name)
    monkeypatch.setattr("rome_core.evaluation.drawings.draw", lambda *given: iter(()))
    monkeypatch.setattr("rome_core.evaluation.drawings.draw_transfer", lambda *given: iter(()))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FEW = ["--dataset", "digits", "--limit", 30, "--seed", 5, "--threads", 1]
ASKED = [*FEW, "--attacks", "fgsm,pgd", "--protocol", "rome-2025", "--set", "probes=false"]


def test_a_checkpoint_is_evaluated_and_nothing_is_kept_unless_asked(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`evaluate --checkpoint F.pth --network N --dataset D --protocol P --attacks A,B --json`."""
    model = ["--checkpoint", "m.pth", "--network", NETWORK]
    assert call("evaluate", *model, *ASKED, "--json") == cli.DONE
    told = capsys.readouterr()
    (line,) = told.out.splitlines()
    found = json.loads(line)
    assert found["outputs"] == {}
    assert names(here) == ["m.pth", "n.pth"]
    (asked,) = found["spec"]["models"]
    assert (asked["name"], asked["network"]) == ("m", NETWORK)
    assert asked["artifact"] == f"sha256:{file_digest(here / 'm.pth')}"
    assert found["spec_hash"] == recipes.spec_hash(found["spec"])
    report = EvaluationReport.model_validate(found["report"])
    (only,) = report.protocols
    assert only.id == "rome-2025@1"
    assert list(only.measures) == [
        "clamp",
        *(f"{attack}/{mode}" for attack in ("fgsm", "pgd") for mode in MODES),
    ]
    assert only.clean is not None
    assert only.clean.mean > 0.8
    assert found["metrics"]["rome-2025/clean"]["mean"] == only.clean.mean
    assert "attacking 180/180 100%" in told.err


def test_a_report_and_its_companions_go_where_they_were_asked_for(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--checkpoint", "m.pth", "--checkpoint", "n.pth"]
    assert call("evaluate", *both, *ASKED, "--out", "sub/r.json", "--json") == cli.DONE
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    assert outputs["evaluation.json"] == "sub/r.json"
    assert outputs["outcomes.parquet"] == "sub/r.outcomes.parquet"
    assert sorted(Path(path).name for path in outputs.values()) == names(here / "sub")
    report = EvaluationReport.model_validate_json((here / "sub/r.json").read_text())
    assert [subject.name for subject in report.subjects] == ["m", "n"]
    assert all(subject.assumed for subject in report.subjects)  # bare weights say little


def test_a_stopped_evaluation_goes_on_with_the_same_command(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--checkpoint", "m.pth", *ASKED, "--json"]
    assert call(*command) == cli.DONE
    whole = json.loads(capsys.readouterr().out)
    monkeypatch.setattr(commands, "run", Stopping(20))
    assert call(*command) == cli.STOPPED
    assert capsys.readouterr().out == ""
    assert "m.evaluation.work" in names(here)
    monkeypatch.setattr(commands, "run", run)
    assert call(*command) == cli.DONE
    assert json.loads(capsys.readouterr().out) == whole
    assert names(here) == ["m.pth", "n.pth"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--protocol", "pixle"], "Did you mean 'pixel'?"),
        (["--attacks", "pdg"], "Did you mean 'pgd'?"),
        (["--modes", "both"], "'targeted' or 'untargeted'"),
        (["--set", "overrides.pgd.stepz=3"], "overrides.pgd.stepz: there is no such field"),
        (["--network", "resnet"], "models.0.network"),
        (["--network", "convnet-d2-w8"], "models.0.network"),
        (["--limit", "0"], "limit: "),
        (["--dataset", "npz:gone"], "not under the data root"),
        (["--checkpoint", "gone.pth"], "there is no file gone.pth"),
        (["--checkpoint", "m.pth"], "models: two models are called 'm'. Give one of them another"),
        (["--set", "overrides.pgd.steps=0.5"], "overrides.pgd.steps: "),
        (["--set", "overrides.pgd.epsilon=-1"], "overrides.pgd.epsilon: "),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_with_a_remedy_and_code_2(
    argv: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", "--checkpoint", "m.pth", *ASKED, *argv) == cli.BAD_INPUT
    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert words in errors[0]
    assert told.out == ""


@pytest.mark.parametrize("argv", [[], ["--set-file", "a.pt", "--checkpoint", "m.pth"]])
def test_a_set_or_checkpoints_and_not_both(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", *argv])
    assert caught.value.code == cli.BAD_INPUT


def test_models_are_attacked_with_each_others_images(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "transfer",
        "--checkpoint",
        "m.pth",
        "--target",
        "n.pth",
        *FEW,
        "--protocol",
        "quick",
    ]
    command += ["--attacks", "fgsm,pgd", "--cache", "cache"]
    assert call(*command) == cli.DONE
    told = capsys.readouterr().out
    assert "I-RR in percent, untargeted, quick@1 (rows craft, columns are attacked)" in told
    assert "trust in these numbers: high" in told
    assert "Accuracy left in percent, of 30 test images, 95 % interval" in told
    assert "  flaw of the protocol: " in told
    assert names(here) == ["cache", "m.pth", "n.pth"]

    assert call(*command, "--out", "t.json", "--json") == cli.DONE
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    report = TransferReport.model_validate(found["report"])
    assert report == TransferReport.model_validate_json((here / "t.json").read_text())
    assert (report.sources, report.targets) == (["m"], ["n"])
    assert report.on_self == [[False]]
    assert set(found["outputs"]) == {"transfer.json", "timings.json", "provenance.json"}
    notes = json.loads((here / "t.provenance.json").read_text())["notes"]
    assert notes == ["0 blocks of images crafted, 4 reused"]


def test_files_of_one_name_are_numbered(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names come from the files: a/m.pth and m.pth would be one row and column."""
    (here / "a").mkdir()
    (here / "n.pth").rename(here / "a" / "m.pth")
    both = ["--checkpoint", "m.pth", "--checkpoint", "a/m.pth"]
    assert call("evaluate", *both, *ASKED, "--json") == cli.DONE
    asked = json.loads(capsys.readouterr().out)["spec"]["models"]
    assert [model["name"] for model in asked] == ["m", "m-2"]
    ways = [*both[2:], "--target", "m.pth", "--target", "a/m.pth", "--attacks", "fgsm"]
    assert call("transfer", *ways, *FEW, "--json") == cli.DONE
    report = json.loads(capsys.readouterr().out)["report"]
    assert (report["sources"], report["targets"]) == (["m"], ["m-2", "m"])
    assert report["on_self"] == [[False, True]]


def test_each_model_is_told_by_itself(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--checkpoint", "m.pth", "--checkpoint", "n.pth"]
    assert call("evaluate", *both, *ASKED, "--out", "r.json") == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    (only,) = EvaluationReport.model_validate_json((here / "r.json").read_text()).protocols
    assert "each of 2" in lines[0]
    hit = only.measures["pgd/targeted"].target_hit
    assert hit is not None
    hits = list(hit.values)
    shares = [only.clean, only.measures["pgd/targeted"].accuracy, only.worst_case["all"]]
    for name, share in zip(("clean", "pgd/targeted", "worst of all"), shares, strict=True):
        assert share is not None
        assert share.intervals is not None
        place = next(k for k, line in enumerate(lines) if line.strip().startswith(name))
        assert f"{100 * share.mean:.2f}  [" not in lines[place]
        told = [line.split() for line in lines[place + 1 : place + 3]]
        for line, model, value, (low, high) in zip(
            told, "mn", share.values, share.intervals, strict=True
        ):
            numbers = [f"{100 * number:.2f}" for number in (value, low, high)]
            assert line[:4] == [model, numbers[0], f"[{numbers[1]},", f"{numbers[2]}]"]
            aimed = name == "pgd/targeted"
            assert line[4:] == (
                f"{100 * hits.pop(0):.2f} % hit their target".split() if aimed else []
            )


@pytest.mark.parametrize("epsilon", ["0", "0.5", "1e-3", "8/255"])
def test_sizes_are_given_as_bare_numbers(
    epsilon: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--set", f"overrides.pgd.epsilon={epsilon}", "--set", "overrides.pgd.steps=1"]
    assert call("evaluate", "--checkpoint", "m.pth", *ASKED, *given, "--json") == cli.DONE
    changed = json.loads(capsys.readouterr().out)["spec"]["overrides"]["pgd"]
    assert changed == {"epsilon": "0.001" if epsilon == "1e-3" else epsilon, "steps": 1}


def test_which_fields_are_exact_sizes() -> None:
    exact = ["overrides.pgd.epsilon", "overrides.deepfool.epsilon", "overrides.pgd.step"]
    exact += ["students.adversarial.step", "hyperparameters.pgd_epsilon"]
    others = ["overrides.pgd.steps", "overrides.pgd", "limit", "hyperparameters.iterations"]
    others += ["students.adversarial.steps", "overrides.nothing.epsilon", "epsilon"]
    assert [field for field in (*exact, *others) if recipes.is_exact(field)] == exact


def evaluated(here: Path, name: str, model: str, *more: object) -> Path:
    out = here / name
    few = [*FEW, "--attacks", "fgsm,pgd", "--modes", "untargeted", "--set", "probes=false"]
    given = ["--checkpoint", model, "--protocol", "quick", *few, *more, "--out", out]
    assert call("evaluate", *given) == cli.DONE
    return out


def test_two_evaluations_are_compared_image_by_image(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ["--set", "overrides.pgd.epsilon=24/255"]
    first, second = (evaluated(here, f"{m}.json", f"{m}.pth", *wide) for m in "mn")
    capsys.readouterr()
    assert call("compare", first, second, "--json") == cli.DONE
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["first"], found["second"]) == (str(first), str(second))
    right = {}
    for path in (first, second):
        table = read_parquet(path.with_suffix(".outcomes.parquet"))
        right[path] = {(row.attack, row.mode): row.correct for row in table}
    assert [one["attack"] for one in found["comparisons"]] == ["clean", "fgsm", "pgd"]
    for one in found["comparisons"]:
        a, b = (right[path][one["attack"], one["mode"] or ""] for path in (first, second))
        assert one["protocol"] == "quick@1"
        assert one["first_only"] == int((a & ~b).sum())
        assert one["second_only"] == int((~a & b).sum())
        assert one["difference"] == pytest.approx(
            100 * (one["first_only"] - one["second_only"]) / 30
        )
        assert (one["test"], one["n"]) == ("mcnemar", 30)
    assert any(one["first_only"] or one["second_only"] for one in found["comparisons"])
    assert call("compare", first, second) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{first} less {second}, in points of accuracy"
    assert lines[3].startswith("  quick@1/pgd/untargeted ")
    assert call("compare", first, first, "--json") == cli.DONE
    same = json.loads(capsys.readouterr().out)["comparisons"]
    assert {(one["difference"], one["p"]) for one in same} == {(0.0, 1.0)}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--protocol", "pixel"], "another protocol"),
        (["--set", "overrides.pgd.steps=3"], "attack settings"),
        (["--seed", 6], "test images"),
        (["--limit", 20], "test images"),
        (["--modes", "targeted", "--attacks", "pgd", "--seed", 6], "test images"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(
    more: list[object], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = evaluated(here, "1.json", "m.pth"), evaluated(here, "2.json", "m.pth", *more)
    capsys.readouterr()
    assert call("compare", first, second) == cli.BAD_INPUT
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_other_files_of_the_same_name_are_another_test_set(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = evaluated(here, "1.json", "m.pth"), evaluated(here, "2.json", "m.pth")
    report = json.loads(second.read_text())
    (name,) = report["data"]
    second.write_text(json.dumps({**report, "data": {name: "0" * 64}}))
    capsys.readouterr()
    assert call("compare", first, second) == cli.BAD_INPUT
    assert f"Both are of digits, but of other files: {name} differ" in capsys.readouterr().err


def test_resamples_are_drawn_once_for_all_measures(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = evaluated(here, "1.json", "m.pth"), evaluated(here, "2.json", "n.pth")
    drawn = []

    class Counted(Resamples):
        def __init__(self, images: int, *, seed: int) -> None:
            drawn.append(images)
            super().__init__(images, seed=seed)

    monkeypatch.setattr("rome_core.cli.comparison.Resamples", Counted)
    assert call("compare", first, second) == cli.DONE
    assert drawn == [30]


def test_what_is_no_evaluation_is_not_compared(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = evaluated(here, "1.json", "m.pth")
    capsys.readouterr()
    (here / "other.json").write_text("{}")
    (here / "lonely.json").write_bytes(first.read_bytes())
    mixed = evaluated(here, "2.json", "m.pth", "--protocol", "pixel")
    capsys.readouterr()
    mixed.with_suffix(".outcomes.parquet").rename(here / "3.outcomes.parquet")
    (here / "3.json").write_bytes(first.read_bytes())
    for path, words in (
        ("gone.json", "no evaluation"),
        ("other.json", "no evaluation"),
        ("lonely.json", "There is no lonely.outcomes.parquet"),
        ("3.json", "not of this report"),
    ):
        assert call("compare", first, here / path) == cli.BAD_INPUT
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_protocols_are_listed_with_their_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("protocols") == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("pixel@1  Sound") for line in lines)
    assert any(line.startswith("  * autoattack ") for line in lines)
    assert any(line.startswith("    square ") for line in lines)
    assert call("protocols", "--json") == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in told] == [one.id for one in recipes.catalogue.protocols()]


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("presets") == cli.DONE
    assert "rome-2025-cifar100-ipc50" in capsys.readouterr().out
    assert call("presets", "--json") == cli.DONE
    assert json.loads(capsys.readouterr().out)[0]["method"] == "rome"


def test_fetch_without_a_network_is_an_error_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision_datasets().CIFAR10, "download", no_network)
    assert call("fetch", "cifar10", "--data-root", tmp_path) == cli.FAILED
    error = capsys.readouterr().err
    assert "could not be downloaded" in error
    assert "by hand" in error


def test_the_data_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROME_DATA_ROOT", "/somewhere")
    assert parse([*RANDOM, "--out", "x"]).data_root == Path("/somewhere")
    monkeypatch.delenv("ROME_DATA_ROOT")
    assert parse([*RANDOM, "--out", "x"]).data_root == Path("data")


def test_values_are_json_where_they_can_be() -> None:
    given = [f"--set=a={text}" for text in ("1", "1e-3", "true", "8/255", "null", "x=y")]
    settings = parse([*RANDOM, "--out", "x", *given]).settings
    assert [value for _, value in settings] == [1, 0.001, True, "8/255", None, "x=y"]


class Screen(io.StringIO):
    """A terminal, as far as anyone can tell."""

    def isatty(self) -> bool:
        return True


def steps(total: int) -> list[Progress]:
    return [
        Progress("distilling", step, total, {"loss": 2.5}, 61.0, 1) for step in range(total + 1)
    ]


def test_a_terminal_has_one_live_line() -> None:
    screen = Screen()
    terminal = Terminal(screen, clock=iter(range(100)).__next__)
    for progress in steps(3):
        terminal(progress)
    terminal.close()
    terminal.close()
    assert screen.getvalue().count("\n") == 1
    assert screen.getvalue().count("\r") == 4


def test_elsewhere_lines_are_few_and_whole() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, clock=iter(range(100)).__next__)  # a second a call
    for progress in steps(25):
        terminal(progress)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4  # at 0, 10 and 20 seconds, and the end
    assert lines[1] == "distilling 10/25 40%, loss 2.5, eta 1 min 1 s, checkpoint at 1"
    assert lines[-1] == "distilling 25/25 100%, loss 2.5"


def test_words_of_time() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 7260)] == ["0 s", "59 s", "1 min 1 s", "2 h 1 min"]
    assert describe(Progress("loading", 0, 1)) == "loading"


def test_stopped_is_told_by_the_engine(out: Path) -> None:
    spec = recipes.canonical({"method": "random", "dataset": "digits", "ipc": 1}, seed=1)
    with pytest.raises(Stopped, match="stopped after 0 of 1"):
        run(spec, Context(workdir=out, data_root=out, should_stop=lambda: True))
