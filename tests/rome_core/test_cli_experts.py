"""`python -m rome_core experts`, and distilling with what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from rome_core import cli, synthetic
from rome_core.distillation.experts import Experts
from rome_core.provenance import file_digest
from rome_core.recipes import catalogue
from tests.rome_core.averages import RECIPE

NETWORK = "convnet-d1-w4"
TRAIN = [
    *("experts", "--dataset", "digits", "--threads", "1", "--set", f"network={NETWORK}"),
    *("--set", "count=2", "--set", "epochs=2", "--set", "batch=256", "--seed", "0"),
]
DISTIL = ["distill", "--method", "averages", "--dataset", "digits", "--ipc", "1", "--seed", "1"]


@pytest.fixture(autouse=True)
def averages(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {**catalogue._recipes(), RECIPE.name: RECIPE}
    monkeypatch.setattr(catalogue, "_recipes", lambda: known)
    module = import_module("rome_core.runner.distill")
    monkeypatch.setitem(module.BUILT_IN, RECIPE.name, "tests.rome_core.averages:Averages")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sub" / "mine.safetensors"


def call(*argv: object) -> int:
    return cli.main([str(argument) for argument in argv])


def test_train_then_distil_with_them(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*TRAIN, "--out", out) == cli.DONE
    told = capsys.readouterr()
    assert f"2 of {NETWORK}, 2 epochs on digits, seed 0, test accuracy " in told.out
    assert f"--experts {out}" in told.out
    assert "training experts" in told.err
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "mine.provenance.json",
        "mine.safetensors",
    ]
    made = Experts.open(out)
    assert (made.count, made.epochs) == (2, (0, 1, 2))
    target = out.with_name("set.pt")
    assert call(*DISTIL, "--experts", out, "--out", target, "--json") == cli.DONE
    answer = json.loads(capsys.readouterr().out)
    assert answer["spec"]["experts"] == f"sha256:{file_digest(out)}"
    assert "experts.safetensors" not in answer["outputs"]
    assert all(Path(path).is_file() for path in answer["outputs"].values())
    provenance = json.loads(Path(answer["outputs"]["provenance.json"]).read_text())
    assert provenance["parents"] == {answer["spec"]["experts"]: answer["spec"]["experts"]}
    assert synthetic.load(target).method == "averages"


def test_a_distillation_leaves_the_experts_it_trained(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, cache = out.with_name("set.pt"), tmp_path / "cache"
    assert call(*DISTIL, "--out", target, "--cache", cache, "--json") == cli.DONE
    outputs = json.loads(capsys.readouterr().out)["outputs"]
    kept = Path(outputs["experts.safetensors"])
    assert kept == target.with_suffix(".experts.safetensors")
    assert Experts.open(kept).count == 2
    (cached,) = (cache / "experts").iterdir()
    assert cached.read_bytes() == kept.read_bytes()


def test_json_and_nested_fields(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adversarial = ["--set", "adversarial.steps=1", "--set", "adversarial.epsilon=0.5"]
    assert call(*TRAIN, *adversarial, "--set", "epochs=0", "--out", out, "--json") == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["spec"]["adversarial"]["steps"] == 1
    assert told["spec"]["adversarial"]["epsilon"] == "0.5"
    assert told["outputs"]["experts.safetensors"] == str(out)
    assert told["metrics"]["experts"] == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--set", "epoch=1"], "Did you mean 'epochs'?"),
        (["--set", "network=convnet-batch"], "batch normalisation"),
        (["--dataset", "cifar"], "dataset: "),
    ],
)
def test_bad_input_is_told_with_its_remedy(
    argv: list[str], words: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*TRAIN, *argv, "--out", out) == cli.BAD_INPUT
    assert words in capsys.readouterr().err


def test_experts_that_are_not_there(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*DISTIL, "--experts", out, "--out", out.with_name("set.pt")) == cli.BAD_INPUT
    assert "there is no file" in capsys.readouterr().err


def test_two_processes_share_a_cache(out: Path, tmp_path: Path) -> None:
    """Both train the same at once; each leaves the same whole file, and so does the cache."""
    cache = tmp_path / "cache"
    targets = [out.with_name(f"{number}.safetensors") for number in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "rome_core", *TRAIN, "--out", target, "--cache", cache],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for target in targets
    ]
    assert [process.wait(timeout=100) for process in running] == [0, 0]
    (cached,) = (cache / "experts").iterdir()
    assert {path.read_bytes() for path in targets} == {cached.read_bytes()}
    Experts.open(cached)
