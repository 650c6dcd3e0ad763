"""How far apart two gradients of a network are, class by class.

Owns the distances that gradient matching minimises. Must not know where the gradients come from.

Source: Zhao et al. 2021, "Dataset Condensation with Gradient Matching" (ICLR), and the authors'
code, which has the other two as options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

FLOOR = 1e-6  # added to the product of two lengths, as published

Gradients = Mapping[str, Tensor]
"""Of k classes by each weight of one network: (k, ...) each, in the weight's shape."""

Distance = Callable[[Gradients, Gradients], Tensor]
"""Synthetic and real gradients of k classes to one distance a class, (k,)."""


def layerwise(synthetic: Gradients, real: Gradients) -> Tensor:
    """Sum of 1 - cos over the rows of every weight: (k,).

    A row is what one filter, or unit, of a layer multiplies: c*h*w numbers of a convolution's
    weight (o, c, h, w), i of a linear one's (o, i), h*w of a layer norm's (c, h, w). Vectors, such
    as biases, count nothing.
    """
    parts = [
        _apart(gradient.flatten(2), real[name].flatten(2)).sum(dim=1)
        for name, gradient in synthetic.items()
        if gradient.dim() > 2
    ]
    return torch.stack(parts).sum(dim=0)


def mse(synthetic: Gradients, real: Gradients) -> Tensor:
    """Squared Euclidean distance of all weights' gradients as one vector: (k,)."""
    return (_vector(synthetic) - _vector(real)).square().sum(dim=1)


def cos(synthetic: Gradients, real: Gradients) -> Tensor:
    """1 - cos of all weights' gradients as one vector: (k,)."""
    return _apart(_vector(synthetic), _vector(real))


DISTANCES: Mapping[str, Distance] = {"layerwise": layerwise, "mse": mse, "cos": cos}


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """1 - cos along the last dimension."""
    lengths: Tensor = torch.linalg.vector_norm(one, dim=-1)
    lengths = lengths * torch.linalg.vector_norm(other, dim=-1)
    return 1 - (one * other).sum(dim=-1) / (lengths + FLOOR)


def _vector(gradients: Gradients) -> Tensor:
    return torch.cat([gradient.flatten(1) for gradient in gradients.values()], dim=1)
