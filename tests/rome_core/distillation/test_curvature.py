"""The curvature against plain autograd, an image at a time, and its own gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rome_core import networks
from rome_core.distillation import curvature as module
from rome_core.distillation.curvature import curvature, curvature_by_images, curvature_gradient
from rome_core.randomness import generator

STEP = 3.0
NAMES = ["convnet-d2-w8", "convnet-d2-w8-layer", "convnet-d2-w8-swish-max", "mlp"]


def network(name: str = "convnet-d2-w8", serial: int = 0) -> nn.Module:
    made = networks.build(
        name, channels=3, size=8, classes=4, generator=generator(serial, "curvature")
    )
    return made.double()


def batch(n: int = 5) -> tuple[Tensor, Tensor]:
    made = generator(1, "curvature")
    x = torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=made)
    return x, torch.arange(n) % 4


def naive(forward: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor, step: float) -> Tensor:
    """One image after another; the graph reaches `x` and the weights, but not through z."""
    values = []
    for image, label in zip(x, labels, strict=True):
        here = image[None] if image.requires_grad else image[None].requires_grad_()
        loss = F.cross_entropy(forward(here), label[None])
        (g,) = torch.autograd.grad(loss, here, create_graph=True)
        z = step * g.detach() / g.detach().square().sum().sqrt()
        there = here + z
        loss = F.cross_entropy(forward(there), label[None])
        (h,) = torch.autograd.grad(loss, there, create_graph=True)
        values.append((h - g).square().sum().sqrt())
    return torch.stack(values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [STEP, 0.1])
def test_it_equals_the_naive_form(name: str, step: float) -> None:
    net, (x, labels) = network(name), batch()
    found = curvature(net, x, labels, step, create_graph=False)
    assert not found.requires_grad
    torch.testing.assert_close(found, naive(net, x, labels, step).detach(), rtol=0, atol=1e-13)
    assert found.min() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_its_gradients_equal_the_naive_ones(name: str) -> None:
    """By the weights, as in training a network, and by the images, as in distilling."""
    net, (x, labels) = network(name), batch()
    images = x.clone().requires_grad_()
    wanted = [images, *net.parameters()]
    weights = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0], dtype=torch.float64)  # of the images
    totals = [
        (weights * form).sum()
        for form in (
            curvature(net, images, labels, STEP, create_graph=True),
            naive(net, images, labels, STEP),
        )
    ]
    fast, slow = (torch.autograd.grad(total, wanted, allow_unused=True) for total in totals)
    assert any(gradient is not None and gradient.abs().max() > 1e-3 for gradient in slow[1:])
    for one, other in zip(fast, slow, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_the_graph_goes_on_beyond_the_images() -> None:
    """Synthetic images are decoded and augmented before a network sees them."""
    net, (x, labels) = network(), batch()
    leaf = x.clone().requires_grad_()
    total = curvature(net, 2 * leaf, labels, STEP, create_graph=True).sum()
    (fast,) = torch.autograd.grad(total, leaf)
    other = (2 * x).requires_grad_()
    total = curvature(net, other, labels, STEP, create_graph=True).sum()
    (slow,) = torch.autograd.grad(total, other)
    torch.testing.assert_close(fast, 2 * slow, rtol=0, atol=1e-12)


def test_the_step_is_as_long_as_it_says() -> None:
    """Of l = |x|^4 summed over images, as logits whose cross-entropy it is: g = 4 |x|^2 x, so
    g(x + z) - g(x) has the length 4 ((r + step)^3 - r^3) at a distance r from the origin.
    """

    def forward(x: Tensor) -> Tensor:
        power = x.flatten(1).square().sum(dim=1).square()
        # The cross-entropy of label 0 in two classes is log(1 + exp(b)), with exp(b) = exp(p) - 1.
        return torch.stack([torch.zeros_like(power), torch.log(torch.expm1(power))], dim=1)

    x = torch.full((2, 1, 2, 2), 0.5, dtype=torch.float64)
    x[1] = 0.25
    found = curvature(forward, x, torch.zeros(2, dtype=torch.int64), 0.5, create_graph=False)
    r = torch.tensor([1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(found, 4 * ((r + 0.5) ** 3 - r**3))


def test_a_flat_loss_has_no_curvature_and_a_finite_gradient() -> None:
    net, (x, labels) = network(), batch()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    leaf = x.requires_grad_()
    found = curvature(net, leaf, labels, STEP, create_graph=True)
    assert found.tolist() == [0.0] * 5
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    assert gradient.abs().max() == 0


def test_small_gradients_keep_their_direction() -> None:
    """A confident network's gradients are tiny, and no less a direction."""
    net, (x, labels) = network(), batch()
    with torch.no_grad():
        net.get_parameter("classifier.weight").mul_(1e-20)
    found = curvature(net, x, labels, STEP, create_graph=False)
    torch.testing.assert_close(found, naive(net, x, labels, STEP).detach(), rtol=1e-9, atol=0)
    assert found.min() > 0


def test_it_stands_within_a_vmap_over_networks() -> None:
    nets, (x, labels) = [network(serial=serial) for serial in range(3)], batch()
    stacked, buffers = torch.func.stack_module_state(nets)
    skeleton = nets[0]

    def of(weights: dict[str, Tensor]) -> Tensor:
        def forward(images: Tensor) -> Tensor:
            logits: Tensor = torch.func.functional_call(skeleton, weights, (images,))
            return logits

        return curvature(forward, x, labels, STEP, create_graph=True).sum()

    assert not buffers
    fast = torch.func.vmap(torch.func.grad(of))(stacked)
    for place, net in enumerate(nets):
        total = naive(net, x, labels, STEP).sum()
        slow = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
        for (name, _), gradient in zip(net.named_parameters(), slow, strict=True):
            if gradient is not None:
                torch.testing.assert_close(fast[name][place], gradient, rtol=0, atol=1e-11)


def test_the_gradient_by_weights_is_that_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups of two images as well, the last of them of one."""
    net, (x, labels) = network(), batch()
    names = [name for name, _ in net.named_parameters()]
    wanted = torch.autograd.grad(naive(net, x, labels, STEP).mean(), list(net.parameters()))
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    for group in (64, 2):
        monkeypatch.setattr(module, "GROUP", group)
        found = curvature_gradient(network(serial=1), state, x, labels, STEP)
        assert list(found) == names
        for name, gradient in zip(names, wanted, strict=True):
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


def test_the_curvature_by_images_is_taken_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (x, labels) = network().requires_grad_(False), batch(7)
    leaf = x.clone().requires_grad_()
    expected = naive(net, leaf, labels, STEP)
    (slopes,) = torch.autograd.grad(expected.sum(), leaf)
    seen: list[int] = []

    def forward(images: Tensor) -> Tensor:
        seen.append(len(images))
        logits: Tensor = net(images)
        return logits

    monkeypatch.setattr(module, "GROUP", 3)
    found, slope = curvature_by_images(forward, leaf, labels, STEP)
    assert seen == [3, 3, 3, 3, 1, 1]
    assert not found.requires_grad
    assert not slope.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(slope, slopes, rtol=0, atol=1e-13)
