"""MTT through the runner on digits: experts of its own, files, resuming, selection, whitening."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rome_core import recipes, runner, synthetic
from rome_core.distillation.experts import Experts
from rome_core.progress import Progress, Stopped
from rome_core.runner import Context, Outcome

BODY: dict[str, Any] = {"method": "mtt", "dataset": "digits", "ipc": 1}
SMALL: dict[str, Any] = {
    "iterations": 4,
    "network": "convnet-d2-w4",
    "augmentation": "color_crop_cutout_scale_rotate",
    "syn_steps": 3,
    "expert_epochs": 1,
    "max_start_epoch": 2,
    "lr_teacher": 0.1,
    "lr_lr": 1e-5,
    "lr_img": 50.0,
    "buffer_experts": 2,
    "buffer_batch": 128,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of experts: the first job trains them."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def context(tmp_path: Path, cache: Path) -> Context:
    return Context(workdir=tmp_path / "one", data_root=tmp_path, cache=cache)


def run(context: Context, **changes: Any) -> Outcome:
    body = {**BODY, "hyperparameters": {**SMALL, **changes}}
    return runner.run(recipes.canonical(body, seed=11), context)


def file(outcome: Outcome, name: str) -> Path:
    return next(output.path for output in outcome.outputs if output.name == name)


def digest(outcome: Outcome) -> str:
    return hashlib.sha256(file(outcome, "synthetic.pt").read_bytes()).hexdigest()


def test_a_job_trains_its_experts_and_its_set_carries_the_step_size(context: Context) -> None:
    outcome = run(context)
    made = Experts.open(file(outcome, "experts.safetensors"))
    assert (made.count, made.epochs, made.network.name) == (2, (0, 1, 2), "convnet-d2-w4")
    for name in ("synthetic.pt", "synthetic.safetensors"):
        read = synthetic.load(file(outcome, name))
        assert (read.method, read.learning_rate != 0.1) == ("mtt", True)
        assert read.learning_rate == pytest.approx(0.1, rel=0.5)
        assert read.images.shape == (10, 1, 8, 8)


def test_a_stopped_job_ends_as_an_undisturbed_one(context: Context, tmp_path: Path) -> None:
    whole = run(context, soft_labels="teacher", ema=0.5)
    steps: list[int] = []

    def watch(progress: Progress) -> None:
        if progress.phase == "distilling":
            steps.append(progress.step)

    first = replace(
        context,
        workdir=tmp_path / "first",
        report=watch,
        should_stop=lambda: bool(steps) and steps[-1] == 2,
    )
    with pytest.raises(Stopped):
        run(first, soft_labels="teacher", ema=0.5)
    second = replace(context, workdir=tmp_path / "second", earlier=(first.workdir,))
    resumed = run(second, soft_labels="teacher", ema=0.5)
    assert digest(resumed) == digest(whole)
    assert synthetic.load(file(whole, "synthetic.pt")).soft_labels is not None


def test_the_best_iterate_keeps_its_own_step_size(context: Context, tmp_path: Path) -> None:
    judged: dict[str, Any] = {
        "selection": "holdout",
        "eval_interval": 2,
        "num_eval": 1,
        "eval_epochs": 2,
    }
    outcome = run(context, **judged)
    assert set(outcome.metrics["scores"]) == {"2", "4"}
    chosen = outcome.metrics["selected_iteration"]
    best = synthetic.load(file(outcome, "synthetic.pt")).learning_rate
    rates = {}
    for iterations in (2, 4):
        elsewhere = replace(context, workdir=tmp_path / f"of{iterations}")
        alone = run(elsewhere, **{**judged, "selection": "none", "iterations": iterations})
        rates[iterations] = synthetic.load(file(alone, "synthetic.pt")).learning_rate
    assert len(set(rates.values())) == 2
    # Held-out images are no start, so the iterates are others, but all rates are near their own.
    assert abs(best - rates[chosen]) < abs(best - rates[6 - chosen])


def test_a_whitened_run(context: Context) -> None:
    outcome = run(context, whitening="zca", iterations=2)
    read = synthetic.load(file(outcome, "synthetic.pt"))
    assert read.space.name == "zca"
    assert Experts.open(file(outcome, "experts.safetensors")).space == "zca"


def test_adversarial_experts_of_a_method(context: Context) -> None:
    robust: dict[str, Any] = {"expert_training": "adversarial", "pgd_steps": 1, "iterations": 1}
    outcome = run(context, **robust, expert_epochs=1, max_start_epoch=1, buffer_experts=1)
    trained = Experts.open(file(outcome, "experts.safetensors")).training
    assert trained.adversarial is not None
    assert (trained.adversarial.steps, trained.adversarial.domain) == (1, "pixel")
