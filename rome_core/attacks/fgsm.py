"""The fast gradient sign method (Goodfellow et al. 2015), with torchattacks' semantics."""

import torch
from torch import Tensor

from rome_core.attacks.gradient import Model, ascent
from rome_core.recipes.attacks import Budget


@torch.no_grad()
def fgsm(
    model: Model,
    x: Tensor,
    labels: Tensor,
    budget: Budget,
    generator: torch.Generator | None = None,
    *,
    targets: Tensor | None = None,
) -> Tensor:
    """One step of epsilon along the sign of the gradient at x, clamped to [0, 1].

    x is (n, c, h, w) in the attack's space. Of the budget only epsilon counts; the generator is
    unused and accepted so that attacks are called alike.
    """
    return (x + float(budget.epsilon) * ascent(model, x, labels, targets)).clamp(0, 1)
