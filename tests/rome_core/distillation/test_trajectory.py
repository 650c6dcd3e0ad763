"""The gradients of a student's training: exactness, TESLA, and memory."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from rome_core import augment, networks
from rome_core.distillation.experts import Layout
from rome_core.distillation.trajectory import Loss, Matched, Step, cross_entropy, match
from rome_core.randomness import generator

SIZE, CLASSES, IMAGES = 8, 3, 9
DSA = "color_crop_cutout_flip_scale_rotate"


def loss_of(name: str = "convnet-d2-w8", dtype: torch.dtype = torch.float64) -> tuple[Loss, Tensor]:
    """A student's loss, and weights to start from."""
    network = networks.build(
        name, channels=3, size=SIZE, classes=CLASSES, generator=generator(0, "network")
    ).to(dtype)
    layout = Layout.of(network)
    weights = layout.flat(dict(network.named_parameters())).detach()
    return cross_entropy(network, layout.state), weights


def problem(
    steps: int,
    *,
    batch: int = IMAGES,
    strategy: str = DSA,
    dtype: torch.dtype = torch.float64,
    network: str = "convnet-d2-w8",
) -> dict[str, Any]:
    loss, start = loss_of(network, dtype)
    made = generator(1, "problem")
    away = torch.randn(start.shape, generator=made, dtype=torch.float64).to(dtype)
    return {
        "loss": loss,
        "steps": [
            Step(
                torch.randperm(IMAGES, generator=made)[:batch],
                augment.draw(strategy, batch, size=SIZE, generator=made, siamese=False),
            )
            for _ in range(steps)
        ],
        "images": torch.randn(IMAGES, 3, SIZE, SIZE, generator=made, dtype=torch.float64).to(dtype),
        "labels": torch.arange(CLASSES).repeat_interleave(IMAGES // CLASSES),
        "start": start,
        "target": start + 0.03 * away,
    }


def unrolled(
    loss: Loss,
    steps: list[Step],
    images: Tensor,
    labels: Tensor,
    *,
    rate: float,
    start: Tensor,
    target: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """One backward call through the whole training: loss, gradients by images and rate."""
    x, alpha = images.clone().requires_grad_(), torch.tensor(rate, dtype=images.dtype)
    alpha.requires_grad_()
    student = start.clone().requires_grad_()
    for step in steps:
        mean = loss(student, step.augmented(x[step.chosen]), labels[step.chosen]) / len(step)
        (gradient,) = torch.autograd.grad(mean, student, create_graph=True)
        student = student - alpha * gradient
    value = ((student - target) ** 2).sum() / ((start - target) ** 2).sum()
    by_images, by_rate = torch.autograd.grad(value, (x, alpha))
    return value.detach(), by_images, by_rate


def assert_close(made: Matched, expected: tuple[Tensor, Tensor, Tensor], tolerance: float) -> None:
    for one, other in zip((made.loss, made.by_images, made.by_rate), expected, strict=True):
        assert (one - other).norm() <= tolerance * other.norm()


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize(
    ("steps", "batch", "strategy"),
    [(1, 9, DSA), (3, 9, "none"), (8, 4, DSA), (4, 1, DSA), (5, 7, "scale_rotate")],
)
def test_the_adjoint_is_the_unrolled_gradient(
    steps: int, batch: int, strategy: str, rate: float
) -> None:
    given = problem(steps, batch=batch, strategy=strategy)
    expected = unrolled(**given, rate=rate)
    assert expected[1].norm() > 0
    assert_close(match(**given, rate=rate, group=3), expected, 1e-12)


@pytest.mark.parametrize("network", ["mlp", "convnet-d2-w8-swish-max-group", "convnet-d1-w8-layer"])
def test_whatever_the_network(network: str) -> None:
    given = problem(4, network=network)
    assert_close(match(**given, rate=0.1, group=100), unrolled(**given, rate=0.1), 1e-12)


def test_soft_labels() -> None:
    given = problem(4)
    said = torch.randn(IMAGES, CLASSES, generator=generator(2, "labels"), dtype=torch.float64)
    given["labels"] = said.softmax(dim=1)
    assert_close(match(**given, rate=0.1, group=4), unrolled(**given, rate=0.1), 1e-12)


def test_float32_is_within_rounding() -> None:
    single = match(**problem(8, dtype=torch.float32), rate=0.1, group=4)
    exact = unrolled(**problem(8), rate=0.1)
    assert_close(single, exact, 2e-5)


def test_images_that_no_step_chose_have_no_gradient() -> None:
    given = problem(2, batch=2)
    made = match(**given, rate=0.1, group=2)
    seen = {number for step in given["steps"] for number in step.chosen.tolist()}
    moved = torch.nonzero(made.by_images.flatten(1).norm(dim=1)).flatten()
    assert set(moved.tolist()) == seen


def test_tesla_is_exact_for_one_step_and_drifts_with_more() -> None:
    """Cui et al. 2023 drop how a step's weights depend on the steps before it."""
    cosines = []
    for steps in (1, 5, 20):
        given = problem(steps)
        exact = match(**given, rate=0.1, group=9)
        short = match(**given, rate=0.1, group=9, first_order=True)
        assert torch.equal(exact.loss, short.loss)
        cosines.append(
            torch.cosine_similarity(
                exact.by_images.flatten(), short.by_images.flatten(), dim=0
            ).item()
        )
    assert cosines[0] == pytest.approx(1, abs=1e-12)
    assert cosines[0] > cosines[1] > cosines[2]
    assert cosines[2] < 0.9


class Kept:
    """Bytes that graphs keep for going back, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Tensor:
        held = tensor.detach()  # a tensor of its own, whose end is that of the graph's
        size = held.numel() * held.element_size()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(held, self._free, size)
        return held

    def _free(self, size: int) -> None:
        self.now -= size


def kept(steps: int, *, naive: bool = False, group: int = IMAGES) -> int:
    given, meter = problem(steps, strategy="rotate"), Kept()
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, lambda held: held):
        if naive:
            unrolled(**given, rate=0.1)
        else:
            match(**given, rate=0.1, group=group)
    return meter.most


def test_what_is_kept_does_not_grow_with_the_steps() -> None:
    assert kept(2) == kept(4) == kept(16)
    assert kept(4, naive=True) > 3 * kept(4)
    assert kept(4, group=3) < kept(4) / 2
