"""A whitened set with soft labels and a learned rate, from its file to evaluations of all kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import recipes, runner, synthetic, weights
from rome_core.cli import summary
from rome_core.data import Dataset, load, whitened
from rome_core.errors import CoreError
from rome_core.evaluation import drawings
from rome_core.randomness import generator
from rome_core.recipes.report import EvaluationReport, TransferReport
from rome_core.runner import Context, Outcome
from rome_core.space import Space, Zca
from rome_core.synthetic import SyntheticSet

RATE = 0.0321
NETWORK = "convnet-d1-w8"
EVALUATE: dict[str, Any] = {
    "kind": "evaluate",
    "artifact": "art_set",
    "students": {"count": 1, "network": NETWORK, "epochs": 30, "batch": 20},
    "protocols": ["quick"],
    "attacks": ["fgsm", "pgd"],
    "modes": ["untargeted"],
    "overrides": {"pgd": {"steps": 3}},
    "limit": 200,
}
MODELS: dict[str, Any] = {
    **{name: value for name, value in EVALUATE.items() if name not in ("artifact", "students")},
    "models": [{"artifact": "art_student"}],
    "dataset": "digits",
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is tested elsewhere."""
    monkeypatch.setattr(drawings, "draw", lambda *_: [])
    monkeypatch.setattr(drawings, "draw_transfer", lambda *_: [])


def digits() -> Dataset:
    return load("digits", Path())


def real_set(dataset: Dataset, *, soft: bool = True) -> SyntheticSet:
    """Twelve real images a class, in the dataset's space; soft labels lean towards the true one."""
    chosen = torch.cat([(dataset.train_labels == c).nonzero()[:12, 0] for c in range(10)])
    labels = dataset.train_labels[chosen]
    leaning = 0.8 * torch.eye(10)[labels] + 0.02
    return SyntheticSet.of(
        dataset.normalise(dataset.train_images[chosen]),
        labels,
        dataset,
        factor=1,
        ipc=12,
        augmentation="none",
        method="random",
        learning_rate=RATE,
        soft_labels=leaning if soft else None,
    )


@pytest.fixture
def context(tmp_path: Path) -> Context:
    made = real_set(whitened(digits(), None))
    synthetic.save_pt(made, tmp_path / "set")
    return Context(
        workdir=tmp_path / "attempt",
        data_root=tmp_path,
        inputs={"art_set": tmp_path / "set"},
        cache=tmp_path / "cache",
    )


def run(body: dict[str, Any], context: Context, place: str = "") -> Outcome:
    context = replace(context, workdir=context.workdir / place)
    return runner.run(recipes.canonical(body, seed=3), context)


def report(outcome: Outcome) -> EvaluationReport:
    (found,) = (output for output in outcome.outputs if output.name == "evaluation.json")
    return EvaluationReport.model_validate_json(found.path.read_text())


def student_of(outcome: Outcome) -> Path:
    (found,) = (output for output in outcome.outputs if output.kind == "student-weights")
    return found.path


def fgsm(path: Path, space: Space) -> Tensor:
    """The images that were used, a step of 8/255 away from their labels, in pixels."""
    net = weights.load(path, channels=1, size=8, classes=10)
    x = digits().test_images[used()].requires_grad_()
    loss = F.cross_entropy(net(space.from_pixels(x)), digits().test_labels[used()])
    (slope,) = torch.autograd.grad(loss, x)
    return (x.detach() + 8 / 255 * slope.sign()).clamp(0, 1)


def right(
    path: Path, see: Callable[[Tensor], Tensor], limit: Tensor, images: Tensor | None = None
) -> float:
    """Accuracy of a file's network by hand, on the images that were used, or others of them."""
    net = weights.load(path, channels=1, size=8, classes=10)
    guesses = net(see(digits().test_images[limit] if images is None else images)).argmax(dim=1)
    return float((guesses == digits().test_labels[limit]).double().mean())


def used(seed: int = 3, limit: int = 200) -> Tensor:
    order = torch.randperm(len(digits().test_images), generator=generator(seed, "test images"))
    return order[:limit].sort().values


def failure(call: Callable[[], object]) -> CoreError:
    with pytest.raises(CoreError) as caught:
        call()
    return caught.value


def test_a_whitened_set_is_evaluated_on_whitened_images(context: Context) -> None:
    outcome = run(EVALUATE, context)
    told = report(outcome)
    assert told.set is not None
    assert (told.set.learning_rate, told.set.labels) == (RATE, "soft")
    assert [subject.space for subject in told.subjects] == ["zca"]
    (protocol,) = told.protocols
    assert protocol.clean is not None
    space = whitened(digits(), None).space
    path = student_of(outcome)
    assert protocol.clean.mean == right(path, space.from_pixels, used()) > 0.75
    # The most common error of users: normalised test images.
    assert right(path, digits().normalise, used()) < protocol.clean.mean - 0.1
    fgsm = protocol.measures["fgsm/untargeted"].accuracy
    assert fgsm is not None
    assert fgsm.mean < protocol.clean.mean
    assert "clamp_sensitive" not in [finding["code"] for finding in protocol.findings]
    provenance = json.loads((context.workdir / "results" / "provenance.json").read_text())
    assert provenance["students"] == {
        "network": NETWORK,
        "learning_rate": RATE,
        "labels": "soft",
        "space": "zca",
    }
    assert provenance["dataset"]["space"] == "normalised"  # its images were read, not whitened
    assert weights.read(path, channels=1, size=8, classes=10).whitening is not None
    words = summary.evaluated(told.model_dump(), outcome, None).splitlines()[0]
    assert words == (
        f"Students of {NETWORK} started from a learning rate of 0.0321 and learned soft labels of "
        "120 ZCA-whitened images."
    )


def test_students_may_be_told_otherwise(context: Context) -> None:
    students = {**EVALUATE["students"], "learning_rate": 0.05, "labels": "hard"}
    outcome = run({**EVALUATE, "students": students}, context)
    told = report(outcome)
    assert told.set is not None
    assert (told.set.learning_rate, told.set.labels) == (0.05, "hard")
    assert outcome.provenance["students"]["learning_rate"] == 0.05
    plain = run(EVALUATE, context, "b")
    assert student_of(plain).read_bytes() != student_of(outcome).read_bytes()


def test_the_twin_gives_the_same_numbers(context: Context, tmp_path: Path) -> None:
    synthetic.save_safetensors(real_set(whitened(digits(), None)), tmp_path / "twin")
    body = {**EVALUATE, "probes": False}
    one = run(body, context, "one")
    other = run(body, replace(context, inputs={"art_set": tmp_path / "twin"}), "other")
    assert student_of(one).read_bytes() == student_of(other).read_bytes()
    assert report(one).protocols == report(other).protocols


def test_the_published_protocol_is_refused_before_anything_is_trained(context: Context) -> None:
    polls: list[int] = []

    def poll() -> bool:
        polls.append(1)
        return False

    watched = replace(context, should_stop=poll)
    error = failure(lambda: run({**EVALUATE, "protocols": ["quick", "rome-2025"]}, watched))
    assert (error.code, error.field) == ("attack_unsuitable", "protocols")
    assert "pixel" in error.remedy
    students = {**EVALUATE["students"], "adversarial": {"domain": "reference"}}
    error = failure(lambda: run({**EVALUATE, "students": students}, watched))
    assert (error.code, error.field) == ("attack_unsuitable", "students.adversarial.domain")
    students = {**EVALUATE["students"], "adversarial": {"steps": 1}, "augmentation": "color_crop"}
    error = failure(lambda: run({**EVALUATE, "students": students}, watched))
    assert (error.code, error.field) == ("attack_unsuitable", "students.augmentation")
    assert error.remedy == "In students.augmentation, drop color, that is, take crop."
    assert polls == []


def test_a_student_of_whitened_images_is_a_model_like_any_other(context: Context) -> None:
    """What it saw is found again from the dataset, once, and kept."""
    trained = run(EVALUATE, context, "trained")
    given = replace(context, inputs={"art_student": student_of(trained)})
    outcome = run(MODELS, given, "given")
    (mine,), (theirs,) = report(outcome).protocols, report(trained).protocols
    assert mine.clean is not None
    assert theirs.clean is not None
    assert mine.clean.values == theirs.clean.values
    assert [subject.space for subject in report(outcome).subjects] == ["zca"]
    for name in ("fgsm/untargeted", "pgd/untargeted"):
        one, other = mine.measures[name].accuracy, theirs.measures[name].accuracy
        assert one is not None
        assert other is not None
        assert one.values == other.values
    assert context.cache is not None
    (kept,) = (context.cache / "whitening").iterdir()
    before = kept.stat().st_mtime_ns
    again = run(MODELS, given, "again")
    assert kept.stat().st_mtime_ns == before
    assert report(again) == report(outcome)
    error = failure(lambda: run({**MODELS, "protocols": ["rome-2025"]}, given, "refused"))
    assert (error.code, error.field) == ("attack_unsuitable", "protocols")


@pytest.fixture
def both(context: Context, tmp_path: Path) -> Context:
    """With a student of whitened images, and one of normalised ones."""
    plain = tmp_path / "plain"
    synthetic.save_pt(real_set(digits(), soft=False), plain)
    made = {}
    for name, path in (("white", tmp_path / "set"), ("plain", plain)):
        given = replace(context, inputs={"art_set": path})
        body = {**EVALUATE, "attacks": ["fgsm"], "overrides": {}, "probes": False}
        made[f"art_{name}"] = student_of(run(body, given, name))
    return replace(context, inputs=made)


WHITE, PLAIN = (
    {"artifact": "art_white", "name": "white"},
    {"artifact": "art_plain", "name": "plain"},
)


def test_models_of_both_spaces_stand_side_by_side(both: Context) -> None:
    outcome = run({**MODELS, "models": [WHITE, PLAIN]}, both, "models")
    (protocol,) = report(outcome).protocols
    assert protocol.clean is not None
    space = whitened(digits(), None).space
    by_hand = [
        right(both.inputs["art_white"], space.from_pixels, used()),
        right(both.inputs["art_plain"], digits().normalise, used()),
    ]
    assert protocol.clean.values == by_hand
    assert [subject.space for subject in report(outcome).subjects] == ["zca", "normalised"]
    clamped = [f for f in protocol.findings if f["code"] == "clamp_sensitive"]
    assert [finding["evidence"]["subject"] for finding in clamped] in ([], ["plain"])


def test_images_go_over_from_one_space_to_the_other(both: Context) -> None:
    body = {
        "kind": "transfer",
        "sources": [WHITE, PLAIN],
        "dataset": "digits",
        "protocol": "quick",
        "attacks": ["fgsm"],
        "modes": ["untargeted"],
        "limit": 200,
    }
    outcome = run(body, both, "transfer")
    (found,) = (output for output in outcome.outputs if output.name == "transfer.json")
    told = TransferReport.model_validate_json(found.path.read_text())
    space = whitened(digits(), None).space
    assert told.clean == {
        "white": right(both.inputs["art_white"], space.from_pixels, used()),
        "plain": right(both.inputs["art_plain"], digits().normalise, used()),
    }
    assert {model.name: model.space for model in told.models} == {
        "white": "zca",
        "plain": "normalised",
    }
    (matrix,) = told.accuracy.values()
    spaces = {"white": space, "plain": digits().space}
    for row, source in enumerate(spaces):
        made = fgsm(both.inputs[f"art_{source}"], spaces[source])
        for column, target in enumerate(spaces):
            see = spaces[target].from_pixels
            by_hand = right(both.inputs[f"art_{target}"], see, used(), made)
            assert matrix[row][column] == pytest.approx(by_hand, abs=1e-9)
    again = run(body, both, "again")
    assert "0 blocks of images crafted, 2 reused" in again.provenance["notes"]
    error = failure(lambda: run({**body, "protocol": "rome-2025"}, both, "refused"))
    assert (error.code, error.field) == ("attack_unsuitable", "protocol")


def test_equal_specs_give_equal_bytes(context: Context) -> None:
    def digests(outcome: Outcome) -> dict[str, str]:
        return {
            output.name: hashlib.sha256(output.path.read_bytes()).hexdigest()
            for output in outcome.outputs
            if output.kind not in ("provenance", "timings", "log")
        }

    assert digests(run(EVALUATE, context, "a")) == digests(run(EVALUATE, context, "b"))


def test_the_set_s_own_whitening_counts_whatever_the_dataset_s_is(context: Context) -> None:
    """As of a set that came with one fitted elsewhere."""
    dataset = replace(digits(), whitening=Zca.fit(digits().train_images[:300], 0.02))
    synthetic.save_pt(real_set(dataset), context.inputs["art_set"])
    outcome = run({**EVALUATE, "probes": False}, context)
    (protocol,) = report(outcome).protocols
    assert protocol.clean is not None
    by_hand = right(student_of(outcome), dataset.space.from_pixels, used())
    assert protocol.clean.mean == by_hand > 0.7
    given = replace(context, inputs={"art_student": student_of(outcome)})
    error = failure(lambda: run(MODELS, given, "models"))
    assert (error.code, error.field) == ("weights_mismatch", "models.0.artifact")


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "random", "hyperparameters": {"factor": 1}},
        {
            "method": "rome",
            "hyperparameters": {
                "iterations": 2,
                "network": NETWORK,
                "batch_real": 10,
                "batch_train": 10,
                "net_begin": 1,
                "net_num": 2,
                "model_train_steps": 1,
                "pgd_steps": 2,
                "augmentation": "crop_cutout_scale_rotate",  # color is refused to attacks
                "compile": "off",
            },
        },
    ],
    ids=["random", "rome"],
)
def test_a_method_told_to_whiten_leaves_a_set_that_says_so(
    asked: dict[str, Any], context: Context
) -> None:
    asked["hyperparameters"]["whitening"] = "zca"
    made = run({"dataset": "digits", "ipc": 3, **asked}, context, "made")
    (path,) = (output.path for output in made.outputs if output.name == "synthetic.pt")
    one = synthetic.load(path)
    space = whitened(digits(), None).space
    assert one.space.identity == space.identity
    if asked["method"] == "random":  # real images, so pixels
        pixels = space.to_pixels(one.images)
        assert -1e-5 < pixels.min() <= pixels.max() < 1 + 1e-5
    (metadata,) = (output.metadata for output in made.outputs if output.path == path)
    assert metadata["space"] == "zca"
    assert made.provenance["dataset"]["space"] == "zca"
    assert context.cache is not None
    assert len(list((context.cache / "whitening").iterdir())) == 1
    outcome = run({**EVALUATE, "probes": False}, replace(context, inputs={"art_set": path}))
    (protocol,) = report(outcome).protocols
    assert protocol.clean is not None
    assert protocol.clean.mean == right(student_of(outcome), space.from_pixels, used())
