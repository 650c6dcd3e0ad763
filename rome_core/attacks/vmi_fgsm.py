"""Variance-tuned momentum iterative FGSM (Wang and He 2021, algorithm 1): MI-FGSM whose gradients
are corrected by how much they vary around the iterate before."""

import torch
from torch import Tensor

from rome_core.attacks.goal import Goal
from rome_core.attacks.mi_fgsm import climb
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import VmiFgsmSettings, parse_fraction


@torch.no_grad()
def vmi_fgsm(
    oracle: Oracle, x: Tensor, goal: Goal, settings: VmiFgsmSettings, draws: ImageDraws
) -> Attacked:
    """MI-FGSM, with V added to each gradient: the mean of those at `samples` neighbours of the
    iterate before, less its own.

    x is (n, c, h, w) in the attack's space. Neighbours are uniform within beta epsilon a value and
    not clamped to [0, 1]. They are looked at one an image a pass, so memory is that of MI-FGSM.
    """
    loss, rows = goal.loss("ce"), torch.arange(len(x), device=x.device)
    reach = settings.beta * float(parse_fraction(settings.epsilon))

    def variance(images: Tensor, gradient: Tensor, step: int) -> Tensor:
        total = torch.zeros_like(gradient)
        for sample in range(settings.samples):
            unit = draws.uniform(rows, tuple(x.shape[1:]), "neighbour", step, sample).to(x)
            near = images + (2 * unit - 1) * reach
            total += oracle.gradient(near, rows, loss)[2]
        return total / settings.samples - gradient

    return climb(oracle, x, goal, settings, variance)
