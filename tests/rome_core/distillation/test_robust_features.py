"""Images of a teacher's features against a naive form: one image, or one class, at a time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from rome_core import augment
from rome_core.data import Dataset
from rome_core.distillation import robust_features
from rome_core.distillation.experts import About, Experts, Layout, Records, write
from rome_core.distillation.robust_features import RobustFeatures
from rome_core.networks import build
from rome_core.passes import plan
from rome_core.randomness import generator
from rome_core.recipes.cost import CURVATURE_BY_WEIGHTS, Problem
from rome_core.recipes.robust_features import (
    RobustFeaturesHyperparameters,
    experts,
    predict_cost,
)

NETWORK = "convnet-d2-w8"
TINY: dict[str, Any] = {"iterations": 6, "batch_real": 5, "teacher_network": NETWORK}


@pytest.fixture(scope="module")
def teacher(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Experts:
    """An untrained one: what is proved here does not depend on what it learned."""
    network = build(NETWORK, channels=3, size=8, classes=3, generator=generator(4, "teacher"))
    layout = Layout.of(network)
    training = experts(RobustFeaturesHyperparameters(**TINY, teacher_epochs=2))
    about = About(
        training=training,
        seed=4,
        dataset="tiny",
        data={},
        space="normalised",
        channels=3,
        size=8,
        classes=3,
        train_images=len(tiny.train_images),
        layout=layout,
    )
    path = tmp_path_factory.mktemp("teacher") / "experts.safetensors"
    flat = layout.flat({name: value.detach() for name, value in network.named_parameters()})
    write(path, about, [flat], Records([0.5], [[0.1, 0.2]], [[1.0, 0.9]]))
    return Experts.open(path)


def make(dataset: Dataset, teacher: Experts, ipc: int = 2, **changes: Any) -> RobustFeatures:
    return RobustFeatures(
        dataset,
        RobustFeaturesHyperparameters(**{**TINY, **changes}),
        ipc=ipc,
        seed=5,
        plan=plan(mode="eager"),
        experts=teacher,
        dtype=torch.float64,
    )


def seen(method: RobustFeatures, x: Tensor) -> Tensor:
    """What the teacher makes of one normalised image: (d,)."""
    embedding, logits = method.teacher.embed_and_logits(x[None])
    return (embedding if method.hyperparameters.layer == "features" else logits)[0]


def naive_step(method: RobustFeatures, pixels: Tensor, iteration: int, ipc: int) -> Tensor:
    """One update by formulas, an image or a class at a time."""
    hp, dataset = method.hyperparameters, method.material.dataset
    mean, std = (s.double().view(-1, 1, 1) for s in (dataset.mean, dataset.std))
    real = (dataset.train_images.double() - mean) / std
    out = []
    for label in range(dataset.classes):
        block = pixels[label * ipc : (label + 1) * ipc].clone().requires_grad_()
        x = (block - mean) / std
        if hp.objective == "invert":
            loss = torch.zeros((), dtype=torch.float64)
            for place in range(ipc):
                target = seen(method, real[method._sources[label * ipc + place]]).detach()
                off = seen(method, x[place]) - target
                loss = loss + off.square().sum().sqrt() / target.square().sum().sqrt()
        else:
            row = augment.draw(
                hp.augmentation or dataset.augmentation,
                1,
                size=8,
                generator=method.draws.augmentation(iteration, 0, label),
                siamese=True,
            )
            members = torch.nonzero(dataset.train_labels == label).flatten()
            chosen = method.draws.real(iteration, 0, label, members, hp.batch_real)
            wanted = [seen(method, augment.apply(real[i][None], row)[0]).detach() for i in chosen]
            got = [seen(method, augment.apply(one[None], row)[0]) for one in x]
            loss = (sum(got) / len(got) - sum(wanted) / len(wanted)).square().sum()
        (gradient,) = torch.autograd.grad(loss, block)
        for place in range(ipc):
            g = gradient[place]
            moved = block.detach()[place] - hp.step * g / g.square().sum().sqrt()
            out.append(moved.clamp(0, 1))
    return torch.stack(out)


@pytest.mark.parametrize("layer", ["features", "logits"])
@pytest.mark.parametrize("objective", ["invert", "class_mean"])
@pytest.mark.parametrize("init", ["other", "class", "noise"])
def test_the_fast_form_equals_the_naive_one(
    tiny: Dataset, teacher: Experts, objective: str, layer: str, init: str
) -> None:
    method = make(tiny, teacher, objective=objective, layer=layer, init=init)
    pixels = method.pixels.clone()
    for iteration in range(4):
        pixels = naive_step(method, pixels, iteration, ipc=2)
        method.step()
        torch.testing.assert_close(method.pixels, pixels, rtol=0, atol=1e-10)


def test_groups_change_nothing(
    tiny: Dataset, teacher: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = make(tiny, teacher)
    together.step()
    monkeypatch.setattr(robust_features, "GROUP", 2)
    apart = make(tiny, teacher)
    apart.step()
    torch.testing.assert_close(together.pixels, apart.pixels, rtol=0, atol=1e-12)


def test_inverting_comes_near_the_features_and_stays_in_the_pixels(
    tiny: Dataset, teacher: Experts
) -> None:
    method = make(tiny, teacher, init="noise")
    losses = [method.step()["loss"] for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    assert float(method.pixels.min()) >= 0
    assert float(method.pixels.max()) <= 1


def test_images_start_from_what_was_asked_for(tiny: Dataset, teacher: Experts) -> None:
    def sources(method: RobustFeatures) -> list[int]:
        """Which real image each first image is."""
        flat, real = method.pixels.flatten(1), tiny.train_images.double().flatten(1)
        distance = torch.cdist(flat, real)
        assert float(distance.min(dim=1).values.max()) < 1e-6
        return distance.argmin(dim=1).tolist()

    same = make(tiny, teacher, init="class")
    of_class = sources(same)
    assert [int(tiny.train_labels[i]) for i in of_class] == [0, 0, 1, 1, 2, 2]
    assert not set(of_class) & set(same._sources.tolist())
    of_any = sources(make(tiny, teacher, init="other", ipc=8))
    assert len(set(of_any)) == len(of_any)
    labels = [int(tiny.train_labels[i]) for i in of_any]
    assert labels != sorted(labels)


def test_labels_are_the_teachers_probabilities(tiny: Dataset, teacher: Experts) -> None:
    method = make(tiny, teacher, temperature=2.0)
    method.step()
    made = method.synthetic_set()
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert made.soft_labels is not None
    logits = method.teacher(made.images.double()).detach()
    expected = (logits / 2 - (logits / 2).exp().sum(dim=1, keepdim=True).log()).exp()
    torch.testing.assert_close(made.soft_labels.double(), expected, rtol=0, atol=1e-6)
    assert make(tiny, teacher, labels="hard").synthetic_set().soft_labels is None


def test_without_an_objective_images_stay_and_labels_do_not(
    tiny: Dataset, teacher: Experts
) -> None:
    method = make(tiny, teacher, objective="none", init="class")
    before = method.pixels.clone()
    assert method.step() == {"loss": 0.0, "images": 0.0}
    assert torch.equal(method.pixels, before)
    assert method.synthetic_set().soft_labels is not None


@pytest.mark.parametrize("objective", ["invert", "class_mean"])
def test_a_resumed_run_ends_as_an_undisturbed_one(
    tiny: Dataset, teacher: Experts, objective: str
) -> None:
    whole = make(tiny, teacher, objective=objective)
    for _ in range(6):
        whole.step()
    first, buffer = make(tiny, teacher, objective=objective), io.BytesIO()
    for _ in range(3):
        first.step()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = make(tiny, teacher, objective=objective)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(3):
        second.step()
    assert torch.equal(second.pixels, whole.pixels)
    assert second.iteration == 6


def test_the_teacher_is_trained_as_asked() -> None:
    hp = RobustFeaturesHyperparameters(teacher_epsilon="4/255", teacher_steps=3)
    asked = experts(hp)
    assert (asked.count, asked.keep, asked.schedule) == (1, "last", "step")
    assert asked.adversarial is not None
    assert (asked.adversarial.epsilon, asked.adversarial.steps) == ("4/255", 3)
    assert asked.adversarial.domain == "pixel"
    control = RobustFeaturesHyperparameters(teacher_training="clean", teacher_curvature=100.0)
    assert experts(control).adversarial is None
    assert experts(control).curvature_weight == 100.0


def test_its_cost_counts_teacher_and_images() -> None:
    problem = Problem((3, 8, 8), (12, 12, 12), ipc=2)
    hp = RobustFeaturesHyperparameters(**TINY, teacher_epochs=2, teacher_steps=4)
    told = predict_cost(hp, problem)
    assert told.iteration == 2 * 6
    assert told.preparation == pytest.approx(36 * 2 * (2.93 + 2 * 4))
    still = predict_cost(RobustFeaturesHyperparameters(objective="none"), problem)
    assert still.iteration == 0
    matched = RobustFeaturesHyperparameters(**TINY, objective="class_mean")
    assert predict_cost(matched, problem).iteration == 2 * 6 + 15


def test_a_file_of_experts_is_read_from_disk(tiny: Dataset, teacher: Experts) -> None:
    assert Path(teacher.path).is_file()
    method = make(tiny, teacher)
    for name, value in teacher.state(0, 2).items():
        assert torch.equal(method.teacher.state_dict()[name], value.double())


def test_the_curvature_of_a_teacher_costs_passes() -> None:
    problem = Problem((3, 8, 8), (12, 12, 12), ipc=2)
    plain = RobustFeaturesHyperparameters(**TINY, teacher_epochs=2)
    curved = RobustFeaturesHyperparameters(**TINY, teacher_epochs=2, teacher_curvature=100.0)
    more = predict_cost(curved, problem).preparation - predict_cost(plain, problem).preparation
    assert more == pytest.approx(CURVATURE_BY_WEIGHTS * 36 * 2)


def test_a_teacher_that_couples_images_is_refused_by_its_field() -> None:
    with pytest.raises(ValidationError, match="teacher_network"):
        RobustFeaturesHyperparameters(teacher_network="convnet-batch")


def test_smoothed_labels_are_as_sure_as_the_teacher_and_know_no_more(
    tiny: Dataset, teacher: Experts
) -> None:
    soft = make(tiny, teacher, temperature=0.2).synthetic_set().soft_labels
    smoothed = make(tiny, teacher, temperature=0.2, labels="smoothed").synthetic_set().soft_labels
    assert soft is not None
    assert smoothed is not None
    own = torch.arange(3).repeat_interleave(2)
    sure = float(sum(float(row[label]) for row, label in zip(soft, own, strict=True))) / len(soft)
    expected = torch.full_like(smoothed, (1 - sure) / 2)
    expected[torch.arange(6), own] = sure
    torch.testing.assert_close(smoothed, expected)
    assert soft.std(dim=0).max() > 0
