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

from rome_core import cli, recipes, synthetic
from rome_core.cli import commands
from rome_core.cli.arguments import parse
from rome_core.cli.terminal import Terminal, describe, duration
from rome_core.progress import Progress, Stopped
from rome_core.runner import Context, Outcome, run
from rome_core.torchvision_adapter import torchvision_datasets

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
    assert call("evaluate", "--set-file", out, *QUICK, "--seed", 1, "--out", report) == cli.DONE
    told = capsys.readouterr()
    assert "pixel/pgd/untargeted" in told.out
    assert "must not be compared" in told.out
    assert json.loads(report.read_text())["test_images"] == 10
    assert report.with_name("report.student-0.safetensors").is_file()
    assert not report.with_name("report.json.work").exists()


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
    settings = ["--set", "budgets.pixel.steps=2", "--set", "students.augmentation=none"]
    lists = ["--attacks", "clean,pgd", "--domains", "pixel"]
    report = out.with_name("r.json")
    code = call("evaluate", "--set-file", out, *QUICK, *settings, *lists, "--out", report, "--json")
    assert code == cli.DONE
    spec = json.loads(capsys.readouterr().out)["spec"]
    assert spec["budgets"]["pixel"]["steps"] == 2
    assert spec["students"]["augmentation"] == "none"
    assert spec["attacks"] == ["clean", "pgd"]
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
