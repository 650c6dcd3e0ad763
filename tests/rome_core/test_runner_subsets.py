"""DM, coresets and the full set through the runner: trained networks, files, resuming."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rome_core import recipes, runner, synthetic
from rome_core.progress import Progress, Stopped
from rome_core.runner import Context, Outcome

NETWORK = {"network": "convnet-d1-w4", "net_epochs": 2}
BODIES: dict[str, dict[str, Any]] = {
    "herding": {"ipc": 2, "hyperparameters": NETWORK},
    "k_center": {"ipc": 2, "hyperparameters": {**NETWORK, "features": "random"}},
    "k_means": {"ipc": 1, "hyperparameters": {"features": "pixels", "factor": 2}},
    "forgetting": {"ipc": 2, "hyperparameters": NETWORK},
    "dm": {
        "ipc": 2,
        "hyperparameters": {"network": "convnet-d1-w4", "iterations": 4, "batch_real": 5},
    },
    "full": {},
}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A data root with tiny.npz: 3 classes of 8x8 colour images, the last with fewer."""
    root = tmp_path / "data"
    root.mkdir()
    draws = np.random.default_rng(0)
    np.savez(
        root / "tiny.npz",
        images=draws.integers(0, 256, (58, 8, 8, 3), dtype=np.uint8),
        labels=np.arange(58) % 3,
    )
    return Context(workdir=tmp_path / "one", data_root=root, cache=tmp_path / "cache")


def run(method: str, context: Context) -> Outcome:
    body = {"method": method, "dataset": "npz:tiny", **BODIES[method]}
    return runner.run(recipes.canonical(body, seed=11), context)


def file(outcome: Outcome, name: str) -> Path:
    return next(output.path for output in outcome.outputs if output.name == name)


def digest(outcome: Outcome) -> str:
    return hashlib.sha256(file(outcome, "synthetic.pt").read_bytes()).hexdigest()


@pytest.mark.parametrize("method", list(BODIES))
def test_a_stopped_job_ends_as_an_undisturbed_one(
    method: str, context: Context, tmp_path: Path
) -> None:
    whole = run(method, context)
    made = synthetic.load(file(whole, "synthetic.pt"))
    assert made.method == method
    assert made.labels.tolist() == sorted(made.labels.tolist())
    if method == "full":
        assert made.labels.bincount().tolist() == [16, 16, 16]
        assert made.storage == "uint8"
    else:
        assert made.labels.bincount().tolist() == [made.ipc] * 3

    if method == "full":
        return  # its one step is done before anybody could stop it
    last = Progress("loading", 0, 1)

    def listen(progress: Progress) -> None:
        nonlocal last
        last = progress

    other = replace(context, workdir=tmp_path / "two", cache=tmp_path / "another")
    halfway = replace(
        other, report=listen, should_stop=lambda: (last.phase, last.step) == ("distilling", 2)
    )
    with pytest.raises(Stopped):
        run(method, halfway)
    resumed = run(method, replace(other, workdir=tmp_path / "three", earlier=(tmp_path / "two",)))
    assert "resumed at iteration 2" in resumed.provenance["notes"]
    assert digest(resumed) == digest(whole)


def test_one_training_serves_two_rules(context: Context, tmp_path: Path) -> None:
    first = run("herding", context)
    second = run("forgetting", replace(context, workdir=tmp_path / "two"))
    experts = [file(outcome, "experts.safetensors").read_bytes() for outcome in (first, second)]
    assert experts[0] == experts[1]
    assert any("cache" in note for note in second.provenance["notes"])


def test_students_are_trained_on_the_full_set(context: Context, tmp_path: Path) -> None:
    whole = run("full", context)
    assert whole.metrics["images"] == 48
    body = {
        "kind": "evaluate",
        "artifact": "art_1",
        "students": {"count": 1, "network": "convnet-d1-w4", "epochs": 2},
        "protocols": ["quick"],
        "attacks": ["fgsm"],
        "limit": 6,
        "probes": False,
    }
    inputs = {"art_1": file(whole, "synthetic.pt")}
    at = replace(context, workdir=tmp_path / "two", inputs=inputs)
    outcome = runner.run(recipes.canonical(body, seed=1), at)
    report = json.loads(file(outcome, "evaluation.json").read_text())
    assert (report["set"]["training_images"], report["set"]["ipc"]) == (48, 16)
