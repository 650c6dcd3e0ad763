"""A student's short training on a synthetic set, and the gradients of what it comes to.

Owns the mathematics of MTT (Cazenavette et al., CVPR 2022) and of TESLA (Cui et al., ICML 2023),
and the way back through a training for whatever is asked of its end. Must not know of files of
experts, of draws, nor of the optimiser of the images.

A student starts at weights theta_0 and makes N steps on mini-batches S_b of the set, each augmented
anew: theta_{i+1} = theta_i - rate * g_i with g_i the gradient of the mean cross-entropy at theta_i.
MTT starts at an expert's weights, and its loss is |theta_N - target|^2 / |theta_0 - target|^2.

The gradient is that of backpropagation through all N steps, but nothing of a step is kept except
its weights. With lambda_N the gradient by theta_N, from the last step to the first,

    by its images       -rate * d<g_i, lambda_{i+1}> / dx_i
    by its labels       -rate * d<g_i, lambda_{i+1}> / dy_i
    by the rate         -<g_i, lambda_{i+1}>
    lambda_i = lambda_{i+1} - rate * d<g_i, lambda_{i+1}> / dtheta_i

so that memory is that of one step whatever N is, for 11.7 forward passes an image and step where
unrolling takes 8.7 (an image's weight gradient, 2.93, is computed twice). TESLA leaves the last
line out: lambda stays lambda_N, as if no step's weights depended on the images before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
class Gradients:
    """Of what a training comes to, by the set's images, by its soft labels and by the step size."""

    by_images: Tensor  # (n, c, h, w)
    by_labels: Tensor | None  # (n, classes), None where labels are class numbers
    by_rate: Tensor  # ()


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
    weights = train(loss, steps, images, labels, rate=rate, start=start, group=group)
    apart = weights[-1] - target
    whole = (start - target).square().sum()
    found = way_back(
        loss,
        steps,
        weights,
        images,
        labels,
        rate=rate,
        by_end=2 * apart / whole,
        group=group,
        first_order=first_order,
    )
    return Matched(apart.square().sum() / whole, found.by_images, found.by_rate)


def way_back(
    loss: Loss,
    steps: Sequence[Step],
    weights: Sequence[Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    rate: float,
    by_end: Tensor,
    group: int,
    first_order: bool = False,
) -> Gradients:
    """Gradients of what a training comes to, from that by the weights it ends at.

    Args:
        weights: before every step, N of (p,) or more: what `train` returned for these `steps`.
        by_end: lambda_N, (p,).

    The rest is as `match` has it. Soft labels (n, classes) get a gradient of their own.
    """
    images, soft = images.detach(), labels.is_floating_point()
    back, labels = by_end.detach(), labels.detach()
    by_images, by_rate = torch.zeros_like(images), torch.zeros_like(by_end.sum())
    by_labels = torch.zeros_like(labels) if soft else None
    for step, before in zip(reversed(steps), reversed(weights[: len(steps)]), strict=True):
        here = before.detach().requires_grad_()
        turn = torch.zeros_like(back)
        for part in step.parts(group):
            x, y = images[part.chosen].requires_grad_(), labels[part.chosen]
            wanted = [x]
            if soft:
                wanted.append(y.requires_grad_())
            if not first_order:
                wanted.append(here)
            mean = loss(here, part.augmented(x), y) / len(step)
            (gradient,) = torch.autograd.grad(mean, here, create_graph=True)
            along = gradient @ back
            by_rate -= along.detach()
            by_x, *others = torch.autograd.grad(along, wanted)
            by_images[part.chosen] -= rate * by_x
            if by_labels is not None:
                by_labels[part.chosen] -= rate * others.pop(0)
            for further in others:
                turn += further
        back = back - rate * turn
    return Gradients(by_images, by_labels, by_rate)


def train(
    loss: Loss,
    steps: Iterable[Step],
    images: Tensor,
    labels: Tensor,
    *,
    rate: float,
    start: Tensor,
    group: int,
) -> list[Tensor]:
    """The student's weights before every step and after the last: N + 1 of (p,)."""
    weights = [start]
    for step in steps:
        weights.append(stepped(loss, step, images, labels, weights[-1], rate=rate, group=group))
    return weights


def stepped(
    loss: Loss,
    step: Step,
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    rate: float,
    group: int,
) -> Tensor:
    """The student's weights after one step from some weights, (p,)."""
    here = weights.detach().requires_grad_()
    gradient = torch.zeros_like(weights)
    for part in step.parts(group):
        x = part.augmented(images[part.chosen])
        mean = loss(here, x, labels[part.chosen]) / len(step)
        gradient += torch.autograd.grad(mean, here)[0]
    return here.detach() - rate * gradient
