"""Momentum iterative FGSM (Dong et al. 2018, algorithm 1), and the steps variance tuning shares.

Images are crafted to fool models other than the one at hand, so every step is made for every image:
stopping at the first success would leave images that barely fool the crafting model.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import MiFgsmSettings, VmiFgsmSettings, parse_fraction

Variance = Callable[[Tensor, Tensor, int], Tensor]
"""(iterates (n, c, h, w), their gradients, the step's number) to what is added to the next one."""


@torch.no_grad()
def mi_fgsm(
    oracle: Oracle, x: Tensor, goal: Goal, settings: MiFgsmSettings, draws: ImageDraws
) -> Attacked:
    """Steps along the sign of a decaying sum of gradients, each first divided by its L1 norm.

    x is (n, c, h, w) in the attack's space. The cross-entropy is climbed from x itself, nothing is
    drawn, and the last iterate is kept; `reached` says whether it fools the model it is made with.
    """
    return climb(oracle, x, goal, settings)


def climb(
    oracle: Oracle,
    x: Tensor,
    goal: Goal,
    settings: MiFgsmSettings | VmiFgsmSettings,
    variance: Variance | None = None,
) -> Attacked:
    """All steps of either attack: `variance` tunes the gradient of every step but the first."""
    epsilon, size = float(parse_fraction(settings.epsilon)), float(parse_fraction(settings.step))
    loss, done, rows = goal.loss("ce"), Attacked.start(x), torch.arange(len(x), device=x.device)
    images, momentum, tuning = x, torch.zeros_like(x), torch.zeros_like(x)
    for step in range(settings.steps):
        _, _, gradient = oracle.gradient(images, rows, loss)
        momentum = settings.decay * momentum + _over_l1(gradient + tuning)
        if variance is not None and step + 1 < settings.steps:  # the last one's nobody would use
            tuning = variance(images, gradient, step)
        images = norms.project("linf", images + size * momentum.sign(), x, epsilon)
    hit = goal.reached(oracle.logits(images, rows), rows)
    done.note(rows, images)
    done.keep(rows[hit], images[hit], oracle.forwards[rows[hit]])
    return done


def _over_l1(gradient: Tensor) -> Tensor:
    # Only a gradient of zero stays as it is: a confident model's are far below any fixed bound.
    size = gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
    return gradient / size.clamp_min(torch.finfo(size.dtype).tiny)
