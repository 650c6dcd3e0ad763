"""Losses of classes, computed group by group: what a step tells of them.

Owns their going from tensors with a graph to the numbers a run shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Losses = Mapping[str, Tensor]
"""By name, of k classes: (k,) each."""


def told(loss: Tensor, parts: Losses) -> Losses:
    """A loss with the parts it was put together from, free of their graph."""
    return {name: value.detach() for name, value in {"loss": loss, **parts}.items()}


def means(groups: Sequence[Losses]) -> dict[str, float]:
    """Means over all classes of what was told of them group by group."""
    return {name: torch.cat([group[name] for group in groups]).mean().item() for name in groups[0]}
