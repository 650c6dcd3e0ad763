"""What an attack asks of a model: logits, and gradients of what it makes of them.

A model is any callable from images to logits. Where it knows a faster way than autograd through
`__call__`, as `rome_core.passes` does, it has the methods of `Differentiable`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LogitLoss = Callable[[Tensor, slice], Tensor]
"""(logits (k, classes), which of the images asked about they are of) to losses (k,)."""

Forward = Callable[[Tensor], Tensor]
"""Images (k, c, h, w) to logits (k, classes), in a way that autograd can go back through."""

Work = Callable[[Forward, Tensor, slice], tuple[Tensor, ...]]
"""(a forward pass, the images (k, c, h, w) to start from, which of those asked about they are) to
results, each with a row an image. For what a backward pass decides on the next one by."""


class Model(Protocol):
    """Images (n, c, h, w) in the attack's space to logits (n, classes)."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


@runtime_checkable
class Differentiable(Protocol):
    """A model that knows a faster way to its gradients than autograd through `__call__`."""

    def input_gradient(self, x: Tensor, labels: Tensor) -> Tensor: ...

    def loss_gradient(self, x: Tensor, loss: LogitLoss) -> tuple[Tensor, Tensor, Tensor]: ...

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]: ...

    def explore(self, x: Tensor, work: Work) -> tuple[Tensor, ...]: ...


def input_gradient(model: Model, x: Tensor, labels: Tensor) -> Tensor:
    """Gradient by x of the cross-entropy summed over images: each image's own, in any batch.

    A module in training mode is put into evaluation mode meanwhile.
    """
    if isinstance(model, Differentiable):
        return model.input_gradient(x, labels)
    with _evaluating(model), torch.enable_grad():
        leaf = x.detach().requires_grad_()
        loss = F.cross_entropy(model(leaf), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def loss_gradient(model: Model, x: Tensor, loss: LogitLoss) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, classes), losses (n,) and each image's gradient (n, c, h, w) of its own loss."""
    if isinstance(model, Differentiable):
        return model.loss_gradient(x, loss)
    with _evaluating(model):
        return differentiate(model, x, loss, slice(0, len(x)))


def jacobian(model: Model, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (n, all classes), and the gradients by x of those in `classes` (n, k): (n, k, ...)."""
    if isinstance(model, Differentiable):
        return model.jacobian(x, classes)
    with _evaluating(model):
        return differentiate_each(model, x, classes)


def explore(model: Model, x: Tensor, work: Work) -> tuple[Tensor, ...]:
    """What `work` makes of one forward pass, some images at a time: results with a row an image."""
    if isinstance(model, Differentiable):
        return model.explore(x, work)
    with _evaluating(model):
        return work(model, x.detach(), slice(0, len(x)))


def differentiate(
    forward: Forward, x: Tensor, loss: LogitLoss, part: slice
) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and one backward pass by autograd, for the images x of `part`."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = forward(leaf)
        losses = loss(logits, part)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    return logits.detach(), losses.detach(), gradient


def differentiate_each(forward: Forward, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """One forward pass by autograd and a backward one for each column of `classes`."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        logits = forward(leaf)
        chosen = logits.gather(1, classes)
        count = classes.shape[1]
        gradients = [
            torch.autograd.grad(chosen[:, k].sum(), leaf, retain_graph=k + 1 < count)[0]
            for k in range(count)
        ]
    return logits.detach(), torch.stack(gradients, dim=1)


def ascent(model: Model, x: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Sign of the attack's direction: away from the labels or, if given, towards the targets."""
    if targets is None:
        return input_gradient(model, x, labels).sign()
    return input_gradient(model, x, targets).sign().neg()


def joined(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The results of chunks, one after another."""
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()  # type: ignore[attr-defined]  # `training` says it is a module
    try:
        yield
    finally:
        if training:
            model.train()  # type: ignore[attr-defined]  # as above
