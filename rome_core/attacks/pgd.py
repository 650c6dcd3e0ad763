"""Projected gradient descent in the Linf ball (Madry et al. 2018), with torchattacks' semantics."""

import torch
from torch import Tensor

from rome_core.attacks.gradient import Model, ascent
from rome_core.recipes.attacks import Budget


@torch.no_grad()
def pgd(
    model: Model,
    x: Tensor,
    labels: Tensor,
    budget: Budget,
    generator: torch.Generator | None = None,
    *,
    targets: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """Steps along the sign of the gradient, each projected to the ball around x and to [0, 1].

    x is (n, c, h, w) in the attack's space and need not lie in [0, 1]: then the clamp wins over the
    ball, as in the published protocol. The random start is `noise` where given, else `start_noise`
    from the generator. Raises ValueError where a random start has neither.
    """
    epsilon, step = float(budget.epsilon), float(budget.step)
    adversarial = x.detach()
    if budget.random_start:
        if noise is None:
            if generator is None:
                raise ValueError("a random start needs a generator or its noise")
            noise = start_noise(x, budget, generator)
        adversarial = (adversarial + noise).clamp(0, 1)
    for _ in range(budget.steps):
        moved = adversarial + step * ascent(model, adversarial, labels, targets)
        adversarial = (x + (moved - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return adversarial


def start_noise(x: Tensor, budget: Budget, generator: torch.Generator) -> Tensor:
    """Uniform in [-epsilon, epsilon], shaped like x.

    Drawn in float32 whatever the type of x, so that runs in float32 and float64 share it. Draw it
    for a whole set and pass slices to `pgd`, and the set's chunking changes nothing.
    """
    unit = torch.rand(x.shape, generator=generator).to(x)
    return (unit * 2 - 1) * float(budget.epsilon)
