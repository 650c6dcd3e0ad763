"""What a run takes from its dataset, an evaluation from its set, where nobody says otherwise."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rome_core import recipes, runner, synthetic
from rome_core.distillation.experts import Experts
from rome_core.recipes.augmentation import OBJECTS, SIGNS
from rome_core.recipes.report import EvaluationReport
from rome_core.runner import Context, Outcome

NETWORK = "convnet-d1-w4"
POOL: dict[str, Any] = {
    "network": NETWORK,
    "iterations": 3,
    "batch_real": 4,
    "batch_train": 4,
    "net_begin": 1,
    "net_num": 2,
    "model_train_steps": 1,
    "pgd_steps": 1,
}
MATCHING: dict[str, Any] = {
    "network": NETWORK,
    "iterations": 2,
    "outer_loop": 2,
    "inner_loop": 1,
    "batch_real": 4,
}
CORESET: dict[str, Any] = {"network": NETWORK, "net_epochs": 1}
SMALL: dict[str, dict[str, Any]] = {
    "rome": POOL,
    "idm": POOL,
    "bacon": POOL,
    "dm": {"network": NETWORK, "iterations": 3, "batch_real": 4},
    "dc": MATCHING,
    "dsa": MATCHING,
    "mtt": {
        "network": NETWORK,
        "iterations": 2,
        "syn_steps": 2,
        "expert_epochs": 1,
        "max_start_epoch": 1,
        "buffer_experts": 1,
        "lr_lr": 0.0,
    },
    "bptt": {
        "network": NETWORK,
        "iterations": 2,
        "unroll": 3,
        "window": 2,
        "batch_real": 6,
        "lr_img": 0.1,
    },
    "robust_features": {
        "teacher_network": NETWORK,
        "teacher_training": "clean",
        "teacher_epochs": 1,
        "objective": "class_mean",
        "iterations": 3,
        "batch_real": 4,
    },
    "random": {},
    "herding": CORESET,
    "k_center": CORESET,
    "k_means": {**CORESET, "features": "pixels"},
    "forgetting": CORESET,
}
NOBODYS = {"random", "k_means"}  # sets that no network made or chose


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A data root with grey.npz: 3 classes of 8x8 grey images, which may be signs."""
    root = tmp_path / "data"
    root.mkdir()
    draws = np.random.default_rng(0)
    np.savez(
        root / "grey.npz",
        images=draws.integers(0, 256, (36, 8, 8), dtype=np.uint8),
        labels=np.arange(36) % 3,
    )
    return Context(workdir=tmp_path / "one", data_root=root)


def run(body: dict[str, Any], context: Context, place: str = "") -> Outcome:
    return runner.run(
        recipes.canonical(body, seed=11), replace(context, workdir=context.workdir / place)
    )


def distilled(context: Context, method: str, place: str = "", **changes: Any) -> Outcome:
    ipc = 2 if method == "bacon" else 1
    settings = {**SMALL[method], **changes}
    body = {"method": method, "dataset": "npz:grey", "ipc": ipc, "hyperparameters": settings}
    return run(body, context, place)


def file(outcome: Outcome, name: str) -> Path:
    return next(output.path for output in outcome.outputs if output.name == name)


def digest(outcome: Outcome) -> str:
    return hashlib.sha256(file(outcome, "synthetic.pt").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "method", ["rome", "idm", "bacon", "dm", "dsa", "mtt", "bptt", "robust_features"]
)
def test_a_strategy_left_out_is_the_datasets_own(method: str, context: Context) -> None:
    """Not only in what students are told: the images are those of its name, bit for bit."""
    own = distilled(context, method, "own")
    assert synthetic.load(file(own, "synthetic.pt")).augmentation == SIGNS
    assert digest(own) == digest(distilled(context, method, "signs", augmentation=SIGNS))
    mirrored = distilled(context, method, "objects", augmentation=OBJECTS)
    assert synthetic.load(file(mirrored, "synthetic.pt")).augmentation == OBJECTS
    (one, other) = (synthetic.load(file(made, "synthetic.pt")) for made in (own, mirrored))
    assert not (one.images == other.images).all()


def test_dc_augments_nothing_unless_told(context: Context) -> None:
    for place, given, kept in (
        ("published", {}, "none"),
        ("own", {"augmentation": None}, SIGNS),
        ("named", {"augmentation": "crop"}, "crop"),
    ):
        made = synthetic.load(file(distilled(context, "dc", place, **given), "synthetic.pt"))
        assert made.augmentation == kept


@pytest.mark.parametrize(
    ("method", "field"), [("mtt", "augmentation"), ("herding", "net_augmentation")]
)
def test_so_it_is_of_networks_trained_first(method: str, field: str, context: Context) -> None:
    cached = replace(context, cache=context.workdir / "cache")
    own = distilled(cached, method, "own")
    experts = file(own, "experts.safetensors")
    assert Experts.open(experts).training.augmentation == SIGNS
    named = distilled(cached, method, "signs", **{field: SIGNS})
    assert any("read from the cache" in note for note in named.provenance["notes"])
    assert file(named, "experts.safetensors").read_bytes() == experts.read_bytes()
    other = file(distilled(cached, method, "objects", **{field: OBJECTS}), "experts.safetensors")
    one, two = (Experts.open(path).state(0, 1) for path in (experts, other))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    settings = {"network": NETWORK, "count": 1, "epochs": 1}
    job = run({"kind": "experts", "dataset": "npz:grey", **settings}, context, "job")
    assert Experts.open(file(job, "experts.safetensors")).training.augmentation == SIGNS


def test_experts_that_name_the_datasets_own_strategy_are_no_others(context: Context) -> None:
    body = {"kind": "experts", "dataset": "npz:grey", "network": NETWORK, "epochs": 1, "count": 1}
    told: dict[str, list[str]] = {}
    for strategy in (SIGNS, OBJECTS):
        job = run({**body, "augmentation": strategy}, context, strategy)
        inputs = {"art_1": file(job, "experts.safetensors")}
        spec = {
            "method": "mtt",
            "dataset": "npz:grey",
            "ipc": 1,
            "hyperparameters": SMALL["mtt"],
            "experts": "art_1",
        }
        outcome = run(spec, replace(context, inputs=inputs), f"{strategy} read")
        told[strategy] = [note for note in outcome.provenance["notes"] if "augmentation" in note]
    assert told[SIGNS] == []
    (difference,) = told[OBJECTS]
    assert SIGNS in difference


@pytest.mark.parametrize("method", SMALL)
def test_a_set_says_which_network_it_was_made_with(method: str, context: Context) -> None:
    outcome = distilled(context, method)
    expected = None if method in NOBODYS else NETWORK
    for name in ("synthetic.pt", "synthetic.safetensors"):
        assert synthetic.load(file(outcome, name)).network == expected
        (output,) = (output for output in outcome.outputs if output.name == name)
        assert output.metadata["network"] == expected
    words = f"* network `{NETWORK}`"
    assert (words in file(outcome, "card.md").read_text()) == (expected is not None)


@pytest.mark.parametrize("chosen", [{}, {"network": "set"}, {"network": "mlp"}])
@pytest.mark.parametrize("method", ["dm", "random"])
def test_students_are_the_network_of_the_set(
    method: str, chosen: dict[str, str], context: Context
) -> None:
    made = distilled(context, method)
    body = {
        "kind": "evaluate",
        "artifact": "art_1",
        "students": {"count": 1, "epochs": 0, **chosen},
        "protocols": ["quick"],
        "attacks": ["fgsm"],
        "limit": 3,
        "probes": False,
    }
    inputs = {"art_1": file(made, "synthetic.pt")}
    outcome = run(body, replace(context, inputs=inputs), "evaluation")
    own = NETWORK if method == "dm" else "convnet"  # the field's for small images
    expected = own if chosen.get("network", "set") == "set" else chosen["network"]
    report = EvaluationReport.model_validate_json(file(outcome, "evaluation.json").read_text())
    assert report.set is not None
    assert report.set.network == expected
    assert report.set.students.network == chosen.get("network", "set")
    assert [subject.network for subject in report.subjects] == [expected]
    assert outcome.provenance["students"]["network"] == expected
    (student,) = (output for output in outcome.outputs if output.kind == "student-weights")
    assert student.metadata["network"] == expected
    # Reports of before sets said so are read as they are.
    older = json.loads(file(outcome, "evaluation.json").read_text())
    del older["set"]["network"]
    again = EvaluationReport.model_validate(older)
    assert again.set is not None
    assert again.set.network is None
