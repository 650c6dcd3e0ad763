"""The fast form against the naive one, and what MTT promises beside equality."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rome_core import networks
from rome_core.data import Dataset
from rome_core.distillation.draws import Draws
from rome_core.distillation.experts import About, Experts, Layout, Records, write
from rome_core.distillation.mtt import Mtt
from rome_core.errors import CoreError
from rome_core.evaluation.students import TrainingSet
from rome_core.passes import plan
from rome_core.randomness import generator
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.mtt import MttHyperparameters
from tests.rome_core.distillation.naive_mtt import NaiveMtt

NETWORK = "convnet-d2-w8"
EXPERTS, EPOCHS = 3, 5
TINY: dict[str, Any] = {
    "iterations": 50,
    "network": NETWORK,
    "syn_steps": 4,
    "expert_epochs": 2,
    "max_start_epoch": 3,
    "lr_img": 5.0,
    "lr_lr": 1e-2,
    "lr_teacher": 0.1,
    "eval_interval": 3,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "positive": {},
    "raw": {"step_size_parameter": "raw", "lr_lr": 1e-3},
    "mini-batches that do not divide the set": {"batch_syn": 4, "syn_steps": 5},
    "tesla": {"gradient": "tesla"},
    "tesla, raw": {"gradient": "tesla", "step_size_parameter": "raw", "lr_lr": 1e-3},
    "soft labels": {"soft_labels": "teacher"},
    "a later start": {"min_start_epoch": 2, "augmentation": "none"},
    "bounded": {"max_move": 0.008},
    "skipped": {"skip_above": 0.45},
    "from noise, without momentum": {"init": "noise", "momentum": 0.0},
    "curvature": {"curvature_of_images": 0.01, "curvature_step": 0.5},
    "average": {"ema": 0.7},
}


def walks(dataset: Dataset, path: Path, *, space: str = "normalised", **changes: Any) -> Experts:
    """Experts that learn a little, by plain gradient descent on the whole training set."""
    channels, size, _ = dataset.shape
    network: nn.Module = networks.build(
        NETWORK,
        channels=channels,
        size=size,
        classes=dataset.classes,
        generator=generator(0, "walks"),
    )
    layout = Layout.of(network)
    x, labels = dataset.normalise(dataset.train_images), dataset.train_labels
    usual: dict[str, Any] = {"network": NETWORK, "count": EXPERTS, "epochs": EPOCHS}
    training = ExpertTraining(**{**usual, **changes})

    def snapshots() -> Iterator[Tensor]:
        first = layout.flat(dict(network.named_parameters())).detach()
        for expert in range(training.count):
            noise = torch.randn(first.shape, generator=generator(expert, "walk"))
            weights = first + 0.02 * noise
            for epoch in range(training.epochs + 1):
                if training.keep == "all" or epoch == training.epochs:
                    yield weights
                for _ in range(4):
                    leaf = weights.requires_grad_()
                    logits = torch.func.functional_call(network, layout.state(leaf), (x,))
                    loss = nn.functional.cross_entropy(logits, labels)
                    weights = weights.detach() - 0.1 * torch.autograd.grad(loss, leaf)[0]

    about = About(
        training=training,
        seed=0,
        dataset=dataset.name,
        data={},
        space=space,
        channels=channels,
        size=size,
        classes=dataset.classes,
        train_images=len(labels),
        layout=layout,
    )
    told = [[0.0] * training.epochs] * training.count
    write(path, about, snapshots(), Records([0.0] * training.count, told, told))
    return Experts.open(path)


@pytest.fixture(scope="module")
def experts(tiny: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Experts:
    return walks(tiny, tmp_path_factory.mktemp("experts") / "experts.safetensors")


def make(
    dataset: Dataset,
    experts: Experts,
    *,
    ipc: int = 2,
    dtype: torch.dtype = torch.float64,
    **changes: Any,
) -> Mtt:
    hyperparameters = MttHyperparameters(**{**TINY, **changes})
    return Mtt(
        dataset,
        hyperparameters,
        ipc=ipc,
        seed=5,
        experts=experts,
        plan=plan(mode="eager"),
        dtype=dtype,
    )


def naive(fast: Mtt) -> NaiveMtt:
    return NaiveMtt(fast.material.dataset, fast.hyperparameters, fast.experts, ipc=fast.ipc, seed=5)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
def test_the_fast_form_equals_the_naive_one_step_by_step(
    tiny: Dataset, experts: Experts, changes: dict[str, Any]
) -> None:
    fast = make(tiny, experts, **changes)
    slow = naive(fast)
    start, first_rate = fast.images.clone(), fast.rate
    torch.testing.assert_close(start, slow.images.detach(), rtol=0, atol=1e-14)
    for _ in range(7):  # every expert twice, and one of a third order
        scalars = fast.step()
        assert scalars["loss"] == pytest.approx(slow.step(), rel=1e-11)
        torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)
        assert fast.rate == pytest.approx(slow.rate.item(), rel=1e-11)
    assert (fast.images - start).abs().max() > 1e-3
    assert abs(fast.rate / first_rate - 1) > 1e-3
    if fast.hyperparameters.ema:
        expected = slow.average().float()
        torch.testing.assert_close(fast.synthetic_set().images, expected, rtol=0, atol=1e-6)


def test_groups_of_images_change_nothing(tiny: Dataset, experts: Experts) -> None:
    settings: dict[str, Any] = {"soft_labels": "teacher", "curvature_of_images": 0.01}
    together, apart = (make(tiny, experts, **settings) for _ in range(2))
    apart._group = 4
    for _ in range(2):
        together.step()
        apart.step()
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=1e-12)
    soft = [method.synthetic_set().soft_labels for method in (together, apart)]
    torch.testing.assert_close(soft[0], soft[1], rtol=0, atol=1e-6)


def test_some_iterations_are_skipped_and_some_are_not(tiny: Dataset, experts: Experts) -> None:
    """So that the equality of skipping says something."""
    fast = make(tiny, experts, **SWITCHES["skipped"])
    skipped = [fast.step() for _ in range(7)]
    assert {"skipped" in scalars for scalars in skipped} == {True, False}
    for scalars in skipped:
        assert ("skipped" in scalars) == (scalars["loss"] > 0.45)


def test_float32_stays_within_rounding_of_the_naive_float64_form(
    tiny: Dataset, experts: Experts
) -> None:
    fast = make(tiny, experts, dtype=torch.float32)
    slow = naive(fast)
    for _ in range(4):
        fast.step()
        slow.step()
    torch.testing.assert_close(fast.images.double(), slow.images.detach(), rtol=0, atol=1e-4)
    assert fast.rate == pytest.approx(slow.rate.item(), rel=1e-5)


def test_the_loss_falls(tiny: Dataset, experts: Experts) -> None:
    fast = make(tiny, experts, dtype=torch.float32, lr_img=20.0)
    losses = [fast.step()["loss"] for _ in range(18)]
    assert max(losses) < 1
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])


def test_every_expert_is_used_once_an_order_and_every_epoch_may_start() -> None:
    draws = Draws(3)
    orders = [[draws.expert(5 * turn + i, 5) for i in range(5)] for turn in range(4)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    assert {draws.start_epoch(i, 2, 5) for i in range(60)} == {2, 3, 4}


def test_no_more_experts_are_followed_than_were_asked_for(tiny: Dataset, experts: Experts) -> None:
    """A file of more serves as if it held those alone, though their order would be another."""
    fast = make(tiny, experts, buffer_experts=1)
    first = {tuple(experts.flat(0, epoch).tolist()) for epoch in experts.epochs}
    for iteration in range(6):
        start, target = fast._trajectory(iteration)
        assert {tuple(x.float().tolist()) for x in (start, target)} <= first


def test_mini_batches_are_pieces_of_a_permutation(tiny: Dataset, experts: Experts) -> None:
    """Popped from the end, so that the short one comes first; then of another permutation."""
    fast = make(tiny, experts, batch_syn=4, syn_steps=5)
    steps = fast._steps()
    assert [len(step) for step in steps] == [2, 4, 2, 4, 2]
    whole = [torch.cat([steps[i].chosen, steps[i + 1].chosen]) for i in (0, 2)]
    assert all(sorted(order.tolist()) == list(range(6)) for order in whole)
    assert whole[0].tolist() != whole[1].tolist()


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9, "batch_syn": 4, "step_size_parameter": "raw", "lr_lr": 1e-3}]
)
def test_a_resumed_run_equals_an_undisturbed_one(
    tiny: Dataset, experts: Experts, changes: dict[str, Any]
) -> None:
    whole = make(tiny, experts, dtype=torch.float32, **changes)
    halved = make(tiny, experts, dtype=torch.float32, **changes)
    for _ in range(4):
        whole.step()
    for _ in range(2):
        halved.step()
    buffer = io.BytesIO()
    torch.save(halved.state_dict(), buffer)
    buffer.seek(0)
    resumed = make(tiny, experts, dtype=torch.float32, **changes)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(2):
        resumed.step()
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert torch.equal(resumed.synthetic_set().images, whole.synthetic_set().images)


def descend(fast: Mtt, by_rate: float) -> float:
    """One step of the step size alone, by this gradient."""
    fast._descend(torch.zeros_like(fast.images), by_rate)
    return fast.rate


def test_a_positive_step_size_follows_the_raw_one_wherever_it_goes(
    tiny: Dataset, experts: Experts
) -> None:
    """From 0.1 to 0.5 and down to 0.02, by 3,000 gradients of either sign.

    Moves of d leave it d/2 log(0.5 / 0.02) above the raw one, which is 5e-4.
    """
    kept, raw = (
        make(tiny, experts, lr_lr=1e-3, step_size_parameter=parameter)
        for parameter in ("positive", "raw")
    )
    noise = torch.randn(3_000, generator=generator(0, "by rate"), dtype=torch.float64)
    rates = []
    for number, value in enumerate(noise.tolist()):
        drift = -0.133 if number < 1_500 else 0.16
        by_rate = drift + 0.05 * value
        rates.append((descend(kept, by_rate), descend(raw, by_rate)))
    assert max(rate for _, rate in rates) > 0.45
    assert min(rate for _, rate in rates) < 0.03
    for followed, rate in rates:
        assert followed == pytest.approx(rate, abs=6e-4)


def test_far_from_where_it_began_the_step_size_is_as_stable_as_the_raw_one(
    tiny: Dataset, experts: Experts
) -> None:
    """Towards ten times the first step size, at a rate that takes the raw one there."""
    for parameter in ("positive", "raw"):
        fast = make(tiny, experts, lr_lr=1e-2, step_size_parameter=parameter)
        for _ in range(100):
            descend(fast, 30 * (fast.rate - 1))
        assert fast.rate == pytest.approx(1, rel=1e-6)


def test_a_step_size_that_vanishes_is_named(tiny: Dataset, experts: Experts) -> None:
    fast = make(tiny, experts, lr_lr=1e-2, momentum=0.0)
    for _ in range(4):  # each e^-2 of the one before
        descend(fast, 200 * fast.rate)
    assert 0.1 * math.exp(-8) == pytest.approx(fast.rate)
    with pytest.raises(CoreError, match="lr_lr") as caught:
        descend(fast, 200 * fast.rate)
    assert caught.value.code == "diverged"


def test_the_step_size_stays_positive_where_the_raw_one_would_not(
    tiny: Dataset, experts: Experts
) -> None:
    """Where the step size itself, at the same rate, turns negative and says so."""
    wild: dict[str, Any] = {"lr_lr": 0.1, "lr_teacher": 0.3}
    kept = make(tiny, experts, **wild)
    for _ in range(3):
        assert kept.step()["learning_rate"] > 0
    assert kept.rate > 0
    raw = make(tiny, experts, **wild, step_size_parameter="raw")
    with pytest.raises(CoreError, match="step_size_parameter=positive") as caught:
        raw.step()
    assert caught.value.code == "diverged"


def test_both_parameters_move_the_step_size_alike_at_first(tiny: Dataset, experts: Experts) -> None:
    moved = []
    for parameter in ("positive", "raw"):
        fast = make(tiny, experts, lr_lr=1e-6, step_size_parameter=parameter)
        fast.step()
        moved.append(fast.rate - 0.1)
    assert moved[0] == pytest.approx(moved[1], rel=1e-3)
    assert moved[0] != 0


def test_divergence_is_named(tiny: Dataset, experts: Experts) -> None:
    fast = make(tiny, experts)
    fast.images.fill_(math.inf)
    with pytest.raises(CoreError, match="lr_img") as caught:
        fast.step()
    assert caught.value.code == "diverged"


def test_a_set_carries_the_step_size_and_is_a_copy(tiny: Dataset, experts: Experts) -> None:
    fast = make(tiny, experts, dtype=torch.float32)
    fast.step()
    synthetic = fast.synthetic_set()
    before = synthetic.images.clone()
    assert synthetic.learning_rate == fast.rate != 0.1
    assert synthetic.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (synthetic.factor, synthetic.ipc, synthetic.method) == (1, 2, "mtt")
    assert synthetic.soft_labels is None
    fast.step()
    assert torch.equal(synthetic.images, before)


def test_a_whitened_set_carries_its_whitening(tiny: Dataset, tmp_path: Path) -> None:
    white = tiny.whitened()
    experts = walks(white, tmp_path / "experts.safetensors", space="zca")
    fast = make(white, experts, dtype=torch.float32, whitening="zca")
    fast.step()
    synthetic = fast.synthetic_set()
    assert synthetic.space is white.space
    pixels = synthetic.space.to_pixels(fast.material.start("real"))
    near = torch.cdist(pixels.flatten(1), tiny.train_images.flatten(1)).min(dim=1).values
    assert near.max() < 1e-2


def test_soft_labels_are_those_of_the_last_expert(tiny: Dataset, experts: Experts) -> None:
    fast = make(tiny, experts, dtype=torch.float32, soft_labels="teacher", ema=0.5)
    for _ in range(2):
        fast.step()
    synthetic = fast.synthetic_set()
    expert = fast.draws.expert(1, EXPERTS)
    epoch = fast.draws.start_epoch(1, 0, 3) + 2
    teacher = networks.build(
        NETWORK, channels=3, size=8, classes=3, generator=generator(0, "teacher")
    )
    teacher.load_state_dict(experts.state(expert, epoch))
    with torch.no_grad():
        expected = teacher(synthetic.images).softmax(dim=1)
    assert synthetic.soft_labels is not None
    torch.testing.assert_close(synthetic.soft_labels, expected, rtol=0, atol=1e-6)
    assert TrainingSet.of(synthetic).kind_of_labels == "soft"
    make(tiny, experts, soft_labels="teacher").synthetic_set()  # before there is a last expert


def test_held_out_images_are_never_started_from(tiny: Dataset, experts: Experts) -> None:
    settings: dict[str, Any] = {"selection": "holdout", "holdout": 0.25}
    clean = make(tiny, experts, **settings)
    assert len(clean.held_out) == 9  # three of twelve in each of three classes
    pixels = tiny.train_images.clone()
    pixels[clean.held_out] = 1 - pixels[clean.held_out]
    poisoned = make(replace(tiny, train_images=pixels), experts, **settings)
    assert torch.equal(clean.images, poisoned.images)
    assert len(make(tiny, experts).held_out) == 0


def test_scalars_count_every_pass(tiny: Dataset, experts: Experts) -> None:
    assert make(tiny, experts).step()["images"] == 2 * 4 * 6
    assert make(tiny, experts, curvature_of_images=1.0).step()["images"] == 2 * 4 * 6 + 2 * 6


def test_a_class_must_hold_what_the_start_takes(tiny: Dataset, experts: Experts) -> None:
    with pytest.raises(CoreError) as caught:
        make(tiny, experts, ipc=13)
    assert caught.value.code == "class_too_small"
