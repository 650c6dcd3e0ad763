"""What an attack asks of a model: logits, and the gradient of its loss by the input."""

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Model(Protocol):
    """Images (n, c, h, w) in the attack's space to logits (n, classes)."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


@runtime_checkable
class Differentiable(Protocol):
    """A model that knows a faster way to its input gradient than autograd through `__call__`."""

    def input_gradient(self, x: Tensor, labels: Tensor) -> Tensor: ...


def input_gradient(model: Model, x: Tensor, labels: Tensor) -> Tensor:
    """Gradient by x of the cross-entropy summed over images: each image's own, in any batch.

    A module in training mode is put into evaluation mode meanwhile.
    """
    if isinstance(model, Differentiable):
        return model.input_gradient(x, labels)
    training = isinstance(model, nn.Module) and model.training
    if training:
        model.eval()  # type: ignore[attr-defined]  # `training` says it is a module
    try:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = F.cross_entropy(model(leaf), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
    finally:
        if training:
            model.train()  # type: ignore[attr-defined]  # as above
    return gradient


def ascent(model: Model, x: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
    """Sign of the attack's direction: away from the labels or, if given, towards the targets."""
    if targets is None:
        return input_gradient(model, x, labels).sign()
    return input_gradient(model, x, targets).sign().neg()
