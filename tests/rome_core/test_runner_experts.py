"""Experts as a job of their own, and for a distillation: named, cached or trained on the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rome_core import recipes, runner
from rome_core.distillation import expert_training
from rome_core.distillation.experts import Experts
from rome_core.errors import CoreError
from rome_core.progress import Progress, Stopped
from rome_core.recipes import catalogue
from rome_core.recipes.hyperparameters import Compiling
from rome_core.runner import Context, Outcome
from tests.rome_core.averages import RECIPE, AveragesHyperparameters

# The packages' own names for them are the functions.
distill = import_module("rome_core.runner.distill")
runner_experts = import_module("rome_core.runner.experts")

EXPERTS: dict[str, Any] = {
    "kind": "experts",
    "dataset": "npz:tiny",
    "network": "convnet-d1-w4",
    "count": 2,
    "epochs": 2,
    "batch": 8,
}
DISTIL: dict[str, Any] = {"method": "averages", "dataset": "npz:tiny", "ipc": 1}


@pytest.fixture(autouse=True)
def averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The method of these tests, beside the others; and steps of a few batches."""
    known = {**catalogue._recipes(), RECIPE.name: RECIPE}
    monkeypatch.setattr(catalogue, "_recipes", lambda: known)
    monkeypatch.setitem(distill.BUILT_IN, RECIPE.name, "tests.rome_core.averages:Averages")
    monkeypatch.setattr(expert_training, "STEP_IMAGES", 16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with tiny.npz: 3 classes of 8x8 colour images."""
    folder = tmp_path / "data"
    folder.mkdir()
    draws = np.random.default_rng(0)
    np.savez(
        folder / "tiny.npz",
        images=draws.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8),
        labels=np.arange(60) % 3,
    )
    return folder


@pytest.fixture
def context(tmp_path: Path, root: Path) -> Context:
    return Context(workdir=tmp_path / "attempt", data_root=root)


def run(body: dict[str, Any], context: Context, *, seed: int = 0) -> Outcome:
    return runner.run(recipes.canonical(body, seed=seed), context)


def elsewhere(context: Context, name: str, **changes: Any) -> Context:
    return replace(context, workdir=context.workdir.with_name(name), **changes)


def output(outcome: Outcome, name: str) -> Path:
    (found,) = (output.path for output in outcome.outputs if output.name == name)
    return found


def digests(outcome: Outcome) -> dict[str, str]:
    return {
        output.name: hashlib.sha256(output.path.read_bytes()).hexdigest()
        for output in outcome.outputs
        if output.kind != "provenance"
    }


def failure(call: Callable[[], object]) -> CoreError:
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value


class StopAfter:
    """Asks to stop at the n-th poll."""

    def __init__(self, polls: int) -> None:
        self.left = polls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_job_of_experts_leaves_its_file(context: Context) -> None:
    seen: list[Progress] = []
    outcome = run({**EXPERTS, "seed": 4}, replace(context, report=seen.append))
    assert [(o.name, o.kind, o.media_type) for o in outcome.outputs] == [
        ("experts.safetensors", "experts", "application/x-safetensors"),
        ("provenance.json", "provenance", "application/json"),
    ]
    made = Experts.open(outcome.outputs[0].path)
    assert (made.seed, made.count, made.epochs) == (4, 2, (0, 1, 2))
    assert (made.dataset, made.space) == ("npz:tiny", "normalised")
    assert outcome.metrics["experts"] == 2
    assert outcome.metrics["test_accuracy"]["mean"] == pytest.approx(sum(made.accuracy) / 2)
    assert outcome.metrics["train_accuracy"]["n"] == 2
    told = json.loads(output(outcome, "provenance.json").read_text())
    assert told == json.loads(json.dumps(dict(outcome.provenance)))
    assert told["plan"]["threads"] == 1
    assert list(dict.fromkeys(p.phase for p in seen)) == ["loading", "training experts", "saving"]
    described = outcome.outputs[0].metadata
    assert (described["network"], described["dataset"]) == ("convnet-d1-w4", "npz:tiny")
    json.dumps([described, dict(outcome.metrics)], allow_nan=False)


def test_whitened_experts(context: Context) -> None:
    made = Experts.open(run({**EXPERTS, "whitening": "zca"}, context).outputs[0].path)
    plain = Experts.open(run(EXPERTS, elsewhere(context, "plain")).outputs[0].path)
    assert made.space == "zca"
    assert torch.equal(made.flat(0, 0), plain.flat(0, 0))
    assert not torch.equal(made.flat(0, 2), plain.flat(0, 2))


def test_named_cached_and_own_experts_give_equal_sets(context: Context, tmp_path: Path) -> None:
    """And whatever the seed of the distillation, for the experts are those of seed 0."""
    given = run(EXPERTS, elsewhere(context, "given")).outputs[0].path
    inputs = {"art_e": given}
    named = run({**DISTIL, "experts": "art_e"}, elsewhere(context, "named", inputs=inputs), seed=3)
    own = run(DISTIL, elsewhere(context, "own", cache=tmp_path / "cache"), seed=3)
    cached = run(DISTIL, elsewhere(context, "cached", cache=tmp_path / "cache"), seed=3)
    bare = run(DISTIL, elsewhere(context, "bare"), seed=3)
    assert digests(own) == digests(cached) == digests(bare)
    assert output(own, "experts.safetensors").read_bytes() == given.read_bytes()
    pixels = {"synthetic.pt", "synthetic.safetensors", "preview.png"}
    assert {name: digests(named)[name] for name in pixels} == {
        name: digests(own)[name] for name in pixels
    }
    assert "experts.safetensors" not in digests(named)
    digest = hashlib.sha256(given.read_bytes()).hexdigest()
    assert named.provenance["parents"] == {"art_e": f"sha256:{digest}"}
    assert own.provenance["parents"] == {}
    assert not any("cache" in note for note in own.provenance["notes"])
    assert any("cache" in note for note in cached.provenance["notes"])
    assert any("seed 0" in note for note in own.provenance["notes"])


def counting(seen: list[Progress]) -> Callable[[], int]:
    return lambda: len([p for p in seen if p.phase == "training experts" and p.step])


def test_the_cache_is_asked_for_the_same_experts_only(context: Context, tmp_path: Path) -> None:
    seen: list[Progress] = []
    cache, trained = tmp_path / "cache", counting(seen)
    where = replace(context, cache=cache, report=seen.append)
    run(EXPERTS, where)
    steps = trained()
    assert steps > 0
    run(EXPERTS, elsewhere(where, "again"))
    run(DISTIL, elsewhere(where, "for a method"), seed=9)
    assert trained() == steps
    others = [
        {"seed": 1},
        {"count": 1},
        {"epochs": 1},
        {"keep": "last"},
        {"learning_rate": 0.02},
        {"whitening": "zca"},
        {"adversarial": {"steps": 1}},
        {"curvature_weight": 1.0},
    ]
    for number, changes in enumerate(others):
        run({**EXPERTS, **changes}, elsewhere(where, f"other {number}"))
        assert trained() > steps, changes
        steps = trained()
    with np.load(context.data_root / "tiny.npz") as arrays:
        images, labels = 255 - arrays["images"], arrays["labels"]
    np.savez(context.data_root / "tiny.npz", images=images, labels=labels)
    run(EXPERTS, elsewhere(where, "other files"))
    assert trained() > steps
    assert len(list((cache / "experts").iterdir())) == len(others) + 2


def test_what_another_version_trained_is_trained_anew(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache and from checkpoints alike."""
    seen: list[Progress] = []
    where = replace(context, cache=tmp_path / "cache", report=seen.append)
    run(EXPERTS, where)
    with pytest.raises(Stopped):
        run({**EXPERTS, "seed": 1}, elsewhere(where, "stopped", should_stop=StopAfter(2)))
    monkeypatch.setattr(runner_experts, "TRAINED", runner_experts.TRAINED + 1)
    seen.clear()
    run(EXPERTS, elsewhere(where, "again"))
    assert counting(seen)() == STEPS
    seen.clear()
    stopped = elsewhere(where, "stopped").workdir
    run({**EXPERTS, "seed": 1}, elsewhere(where, "anew", earlier=(stopped,)))
    assert counting(seen)() == STEPS


@pytest.mark.parametrize("damage", ["changed", "short", "other"])
def test_what_was_damaged_in_the_cache_is_made_anew(
    context: Context, tmp_path: Path, damage: str
) -> None:
    seen: list[Progress] = []
    where = replace(context, cache=tmp_path / "cache", report=seen.append)
    expected = digests(run(EXPERTS, where))
    (kept,) = (tmp_path / "cache" / "experts").iterdir()
    content = bytearray(kept.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1
    elif damage == "short":
        content = content[:-40]
    else:
        other = run({**EXPERTS, "seed": 5}, elsewhere(context, "other"))
        content = bytearray(other.outputs[0].path.read_bytes())
    kept.unlink()  # of its own, for it may share its storage with a result
    kept.write_bytes(content)
    seen.clear()
    assert digests(run(EXPERTS, elsewhere(where, "again"))) == expected
    assert counting(seen)() > 0
    seen.clear()
    assert digests(run(EXPERTS, elsewhere(where, "mended"))) == expected
    assert counting(seen)() == 0


def test_a_cache_that_holds_nothing_more_hurts_nobody(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where it is full nor where it cannot be written."""
    monkeypatch.setattr(runner_experts, "CACHE_BYTES", 1)
    where = replace(context, cache=tmp_path / "cache")
    expected = digests(run(EXPERTS, where))
    assert not list((tmp_path / "cache" / "experts").iterdir())
    (tmp_path / "file").write_bytes(b"")
    again = run(EXPERTS, elsewhere(context, "again", cache=tmp_path / "file"))
    assert digests(again) == expected


STEPS = 2 * 2 * 3  # of two experts, two epochs of six batches, two a step


@pytest.mark.parametrize("polls", [0, 1, 7, STEPS, STEPS + 2])
@pytest.mark.parametrize("cached", [False, True])
def test_a_stopped_distillation_goes_on_and_ends_alike(
    context: Context, tmp_path: Path, polls: int, cached: bool
) -> None:
    """Among its experts, between the phases and in the distillation itself; nothing is repeated."""
    expected = digests(run(DISTIL, elsewhere(context, "whole")))
    where = replace(context, cache=tmp_path / "cache" if cached else None)
    seen: list[Progress] = []
    with pytest.raises(Stopped):
        run(DISTIL, replace(where, should_stop=StopAfter(polls)))
    second = elsewhere(where, "second", earlier=(context.workdir,), report=seen.append)
    assert digests(run(DISTIL, second)) == expected
    steps = {
        phase: [p for p in seen if p.phase == phase and "loss" in p.scalars]
        for phase in ("training experts", "distilling")
    }
    assert len(steps["training experts"]) == max(0, STEPS - polls)
    assert len(steps["distilling"]) == 4 - max(0, polls - STEPS)


FITS: dict[str, tuple[dict[str, Any], str]] = {
    "network": ({"network": "convnet-d1-w8"}, "are networks convnet-d1-w4, not convnet-d1-w8"),
    "epochs": ({"epochs": 3}, "trained for 2 epochs, and 3 are needed"),
    "count": ({"count": 3}, "are 2, and 3 are needed"),
    "robust": ({"robust": True}, "learned from clean images, not from attacked ones"),
    "curvature": ({"curvature_weight": 1.0}, "without curvature"),
    "whitening": ({"whitening": "zca"}, "take normalised images, and this run's are zca"),
}


@pytest.fixture
def named(context: Context) -> Context:
    """A context that has experts by the name art_e."""
    made = run(EXPERTS, elsewhere(context, "made")).outputs[0].path
    return replace(context, inputs={"art_e": made})


@pytest.mark.parametrize("name", FITS)
def test_experts_that_do_not_fit_are_refused(named: Context, name: str) -> None:
    changes, why = FITS[name]
    error = failure(lambda: run({**DISTIL, "experts": "art_e", "hyperparameters": changes}, named))
    assert (error.code, error.field) == ("artifact_mismatch", "experts")
    assert why in error.detail
    assert error.remedy


def test_experts_of_other_images_are_refused(named: Context) -> None:
    body = {**DISTIL, "experts": "art_e"}
    error = failure(lambda: run({**body, "dataset": "digits"}, named))
    assert "were trained on npz:tiny, not on digits" in error.detail
    with np.load(named.data_root / "tiny.npz") as arrays:
        images, labels = 255 - arrays["images"], arrays["labels"]
    np.savez(named.data_root / "tiny.npz", images=images, labels=labels)
    error = failure(lambda: run(body, named))
    assert error.code == "artifact_mismatch"
    assert "other files of npz:tiny" in error.detail


def test_the_last_epoch_alone_serves_those_who_need_no_other(context: Context) -> None:
    made = run({**EXPERTS, "keep": "last"}, elsewhere(context, "made")).outputs[0].path
    where = replace(context, inputs={"art_e": made})
    error = failure(lambda: run({**DISTIL, "experts": "art_e"}, where))
    assert "kept of the last epoch alone" in error.detail
    run({**DISTIL, "experts": "art_e", "hyperparameters": {"keep": "last"}}, where)


def test_experts_trained_otherwise_serve_and_are_told_of(named: Context) -> None:
    def notes(name: str, **hyperparameters: Any) -> list[str]:
        body = {**DISTIL, "experts": "art_e", "hyperparameters": hyperparameters}
        told: list[str] = run(body, elsewhere(named, name)).provenance["notes"]
        return told

    assert notes("alike") == []
    assert notes("fewer", count=1, epochs=1) == []
    assert notes("others", learning_rate=0.5, keep="last", epochs=1) == [
        "the experts were trained with epochs=2, and the hyperparameters say 1",
        "the experts were trained with learning_rate=0.01, and the hyperparameters say 0.5",
    ]


def test_errors_of_experts_name_their_field(context: Context, tmp_path: Path) -> None:
    body = {**DISTIL, "experts": "art_e"}
    (tmp_path / "no experts").write_bytes(b"nothing")
    for inputs, code in (
        ({}, "input_missing"),
        ({"art_e": tmp_path / "nowhere"}, "artifact_missing"),
        ({"art_e": tmp_path / "no experts"}, "artifact_damaged"),
    ):
        error = failure(lambda inputs=inputs: run(body, replace(context, inputs=inputs)))
        assert (error.code, error.field) == (code, "experts")
    deep = {"network": "convnet-d4"}
    error = failure(lambda: run({**EXPERTS, **deep}, context))
    assert (error.code, error.field) == ("network_too_deep", "network")
    error = failure(lambda: run({**DISTIL, "hyperparameters": deep}, context))
    assert (error.code, error.field) == ("network_too_deep", "hyperparameters.network")


def test_a_resumed_distillation_with_other_experts_begins_anew(
    context: Context, named: Context
) -> None:
    body = {**DISTIL, "experts": "art_e"}
    with pytest.raises(Stopped):
        run(body, replace(named, should_stop=StopAfter(2)))
    other = run({**EXPERTS, "seed": 8}, elsewhere(context, "other")).outputs[0].path
    changed = elsewhere(named, "second", earlier=(named.workdir,), inputs={"art_e": other})
    outcome = run(body, changed)
    assert any("experts differed" in note for note in outcome.provenance["notes"])
    anew = run(body, elsewhere(named, "anew", inputs={"art_e": other}))
    assert digests(outcome) == digests(anew)


class CompilingHyperparameters(AveragesHyperparameters, Compiling):
    """Of averages, with the choice to compile."""


@pytest.mark.parametrize(
    ("hyperparameters", "modes"),
    [
        (None, ["auto", "eager"]),  # of the experts, and of a method that passes nothing
        ({}, ["auto", "auto"]),
        ({"compile": "off"}, ["eager", "eager"]),
        ({"compile": "on"}, ["compiled", "compiled"]),
    ],
)
def test_experts_are_compiled_as_the_hyperparameters_say(
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    hyperparameters: dict[str, str] | None,
    modes: list[str],
) -> None:
    told: list[str] = []
    plan = runner_experts.passes.plan

    def spied(*, mode: str = "auto", **given: Any) -> Any:
        told.append(mode)
        return plan(mode="eager", **given)

    monkeypatch.setattr(runner_experts.passes, "plan", spied)
    if hyperparameters is not None:
        recipe = replace(RECIPE, hyperparameters=CompilingHyperparameters)
        known = {**catalogue._recipes(), RECIPE.name: recipe}
        monkeypatch.setattr(catalogue, "_recipes", lambda: known)
    run({**DISTIL, "hyperparameters": hyperparameters or {}}, context)
    assert told == modes


def test_what_comes_after_runs_under_the_same_threads(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a distillation must not depend on whether its experts were trained now."""
    told: list[int] = []
    plan = distill.passes.plan

    def spied(**given: Any) -> Any:
        told.append(torch.get_num_threads())
        return plan(**given)

    monkeypatch.setattr(distill.passes, "plan", spied)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(DISTIL, context)
    finally:
        torch.set_num_threads(before)
    assert told == [2, 2]
