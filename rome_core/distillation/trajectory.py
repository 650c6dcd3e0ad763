"""Matching a student's short training on a synthetic set with an expert's: loss and gradients.

Owns the mathematics of MTT (Cazenavette et al., CVPR 2022) and of TESLA (Cui et al., ICML 2023).
Must not know of files of experts, of draws, nor of the optimiser of the images.

A student starts at an expert's weights, theta_0, and makes N steps on mini-batches S_b of the set,
each augmented anew: theta_{i+1} = theta_i - rate * g_i with g_i the gradient of the mean
cross-entropy at theta_i. Its loss is |theta_N - target|^2 / |theta_0 - target|^2.

The gradient is that of backpropagation through all N steps, but nothing of a step is kept except
its weights. With lambda_N the gradient by theta_N, from the last step to the first,

    by its images       -rate * d<g_i, lambda_{i+1}> / dx_i
    by the rate         -<g_i, lambda_{i+1}>
    lambda_i = lambda_{i+1} - rate * d<g_i, lambda_{i+1}> / dtheta_i

so that memory is that of one step whatever N is, for 11.7 forward passes an image and step where
unrolling takes 8.7 (an image's weight gradient, 2.93, is computed twice). TESLA leaves the last
line out: lambda stays lambda_N, as if no step's weights depended on the images before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rome_core import augment

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Weights (p,), images (n, c, h, w), labels (n,) or (n, classes) to the summed cross-entropy."""


@dataclass(frozen=True, eq=False)
class Step:
    """One step of the student: its mini-batch and how each image of it is augmented.

    `chosen` (n,) int64 are positions in the set, all different.
    """

    chosen: Tensor
    rows: augment.Augmentation

    def __len__(self) -> int:
        return len(self.chosen)

    def parts(self, group: int) -> Iterator[Step]:
        """The same images in groups of at most `group`."""
        for first in range(0, len(self), group):
            some = slice(first, first + group)
            yield Step(self.chosen[some], self.rows[some])

    def augmented(self, x: Tensor) -> Tensor:
        """Its images, (n, c, h, w), as the student sees them."""
        return augment.apply(x, self.rows)


@dataclass(frozen=True, eq=False)
class Matched:
    """The normalised loss, and its gradients by the set's images and by the step size."""

    loss: Tensor  # ()
    by_images: Tensor  # (n, c, h, w)
    by_rate: Tensor  # ()


def cross_entropy(network: nn.Module, unflatten: Callable[[Tensor], dict[str, Tensor]]) -> Loss:
    """The student's loss as a function of its weights as one vector, in training mode.

    `unflatten` gives the network's state as views of the vector. The network must treat each image
    by itself, so batch normalisation is none of it.
    """
    network.train()

    def loss(weights: Tensor, x: Tensor, labels: Tensor) -> Tensor:
        logits = functional_call(network, unflatten(weights), (x,))
        return F.cross_entropy(logits, labels, reduction="sum")

    return loss


def match(
    loss: Loss,
    steps: Sequence[Step],
    images: Tensor,
    labels: Tensor,
    *,
    rate: float,
    start: Tensor,
    target: Tensor,
    group: int,
    first_order: bool = False,
) -> Matched:
    """The loss of a student's training and its gradients, exact unless `first_order` (TESLA).

    Args:
        loss: of the student.
        steps: N of them, in their order.
        images: the set's, (n, c, h, w), with their `labels`, (n,) or (n, classes).
        rate: the student's step size.
        start: theta_0, (p,).
        target: the weights to end at, (p,), other than `start`.
        group: images of a step passed through the network at a time: bounds memory, and changes no
            value beyond rounding.
        first_order: TESLA's approximation.
    """
    images, start, target = images.detach(), start.detach(), target.detach()
    weights = _train(loss, steps, images, labels, rate, start, group)
    apart = weights.pop() - target
    whole = (start - target).square().sum()
    back = 2 * apart / whole  # lambda
    by_images, by_rate = torch.zeros_like(images), torch.zeros_like(whole)
    for step in reversed(steps):
        here = weights.pop().requires_grad_()
        turn = torch.zeros_like(back)
        for part in step.parts(group):
            x = images[part.chosen].requires_grad_()
            mean = loss(here, part.augmented(x), labels[part.chosen]) / len(step)
            (gradient,) = torch.autograd.grad(mean, here, create_graph=True)
            along = gradient @ back
            by_rate -= along.detach()
            wanted = [x] if first_order else [x, here]
            by_x, *by_weights = torch.autograd.grad(along, wanted)
            by_images[part.chosen] -= rate * by_x
            for further in by_weights:
                turn += further
        back = back - rate * turn
    return Matched(apart.square().sum() / whole, by_images, by_rate)


def _train(
    loss: Loss,
    steps: Sequence[Step],
    images: Tensor,
    labels: Tensor,
    rate: float,
    start: Tensor,
    group: int,
) -> list[Tensor]:
    """The student's weights before every step and after the last: N + 1 of (p,)."""
    weights = [start]
    for step in steps:
        here = weights[-1].detach().requires_grad_()
        gradient = torch.zeros_like(start)
        for part in step.parts(group):
            x = part.augmented(images[part.chosen])
            mean = loss(here, x, labels[part.chosen]) / len(step)
            gradient += torch.autograd.grad(mean, here)[0]
        weights.append(here.detach() - rate * gradient)
    return weights
