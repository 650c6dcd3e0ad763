"""Gradients by class, in one call and one after another, against plain autograd."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core import networks
from rome_core.distillation import class_gradients
from rome_core.distillation.class_gradients import ClassGradients
from rome_core.passes import Passes, plan
from rome_core.randomness import generator

SMALL = [
    "convnet-d2-w8",
    "convnet-d1-w4-layer-sigmoid-max",
    "convnet-d2-w4-nonorm-swish-nopool",
    "mlp",
]
LARGE = [("lenet", 16), ("alexnet", 16), ("vgg11", 32), ("resnet18", 16)]
CPU = torch.device("cpu")


def made(name: str, size: int) -> tuple[networks.Network, dict[str, Tensor], ClassGradients]:
    nets = [
        networks.build(
            name, channels=3, size=size, classes=3, generator=generator(serial, "class gradients")
        ).double()
        for serial in range(2)
    ]
    weights = {key: value.detach().clone() for key, value in nets[0].state_dict().items()}
    other = nets[1].requires_grad_(False)  # whose weights must not matter
    return nets[0], weights, ClassGradients(other, Passes(other, plan(mode="eager")))


def batch(counts: list[int], size: int) -> tuple[Tensor, Tensor]:
    draws = generator(1, "class gradients")
    x = torch.randn(sum(counts), 3, size, size, dtype=torch.float64, generator=draws)
    return x, torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def naive(net: networks.Network, x: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """A class at a time, with the graph."""
    found = []
    for label in range(int(labels.max()) + 1):
        own = labels == label
        loss = F.cross_entropy(net(x[own]), labels[own])
        gradients = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        names = [name for name, _ in net.named_parameters()]
        found.append(dict(zip(names, gradients, strict=True)))
    return found


def assert_equal(found: Mapping[str, Tensor], slow: list[dict[str, Tensor]]) -> None:
    assert set(found) == set(slow[0])
    for label, gradients in enumerate(slow):
        for key, gradient in gradients.items():
            assert not found[key].requires_grad
            torch.testing.assert_close(found[key][label], gradient.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("together", [0, 1 << 40], ids=["one after another", "together"])
def test_both_forms_equal_plain_autograd(
    name: str, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_gradients, "TOGETHER", together)
    net, weights, fast = made(name, 8)
    x, labels = batch([2, 2, 2], 8)
    assert_equal(fast.values(weights, x, labels, [2, 2, 2]), naive(net, x, labels))


@pytest.mark.parametrize(("name", "size"), LARGE, ids=[name for name, _ in LARGE])
def test_every_family_can_be_taken_together(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_gradients, "TOGETHER", 1 << 40)
    net, weights, fast = made(name, size)
    x, labels = batch([1, 1], size)
    assert_equal(fast.values(weights, x, labels, [1, 1]), naive(net, x, labels))


@pytest.mark.parametrize("name", ["convnet-d2-w8", "mlp"])
@pytest.mark.parametrize("m", [1, 3])
def test_the_graph_goes_back_to_the_images(name: str, m: int) -> None:
    net, weights, fast = made(name, 8)
    counts = [m, m, m]
    x, labels = batch(counts, 8)
    slow = naive(net, x.requires_grad_(), labels)
    total = torch.stack([g.square().sum() for one in slow for g in one.values()]).sum()
    (expected,) = torch.autograd.grad(total, x)
    for k in (1, 3):
        parts: list[Tensor] = []
        for first in range(0, 3, k):
            block = slice(first * m, (first + k) * m)
            leaf = x[block].detach().requires_grad_()
            gradients = fast.graph(weights, leaf, labels[block], k)
            total = torch.stack([g.square().sum() for g in gradients.values()]).sum()
            parts += torch.autograd.grad(total, leaf)
        torch.testing.assert_close(torch.cat(parts), expected, rtol=0, atol=1e-12)
    assert expected.abs().max() > 1e-3


def test_classes_may_have_unequally_many_images() -> None:
    net, weights, fast = made("convnet-d2-w8", 8)
    counts = [3, 1, 2]
    x, labels = batch(counts, 8)
    found = fast.values(weights, x, labels, counts)
    assert_equal(found, naive(net, x, labels))


def test_classes_are_taken_together_where_they_are_small_and_alike() -> None:
    _, _, fast = made("convnet-d2-w8", 8)  # 8 maps of 8x8 numbers an image
    assert list(fast.parts([256, 256], CPU)) == [range(2)]
    assert list(fast.parts([257, 257], CPU)) == [range(1), range(1, 2)]
    assert list(fast.parts([2, 3], CPU)) == [range(1), range(1, 2)]
    assert list(fast.parts([4096, 4096], torch.device("meta"))) == [range(2)]


def test_layer_norms_are_never_taken_together() -> None:
    """As long as a `vmap` of their second derivative is wrong."""
    _, _, fast = made("convnet-d2-w8-layer", 8)
    assert list(fast.parts([1, 1], CPU)) == [range(1), range(1, 2)]
