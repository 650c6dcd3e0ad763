"""The fast gradient sign method (Goodfellow et al. 2015)."""

import torch
from torch import Tensor

from rome_core.attacks.goal import Goal
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import FgsmSettings, parse_fraction


@torch.no_grad()
def fgsm(
    oracle: Oracle, x: Tensor, goal: Goal, settings: FgsmSettings, draws: ImageDraws
) -> Attacked:
    """One step of epsilon along the sign of the gradient of the cross-entropy at x, clamped.

    x is (n, c, h, w) in the attack's space; nothing is drawn.
    """
    done, rows = Attacked.start(x), torch.arange(len(x), device=x.device)
    _, _, gradient = oracle.gradient(x, rows, goal.loss("ce"))
    images = (x + float(parse_fraction(settings.epsilon)) * gradient.sign()).clamp(0, 1)
    hit = goal.reached(oracle.logits(images, rows), rows)
    done.note(rows, images)
    done.keep(rows[hit], images[hit], oracle.forwards[rows[hit]])
    return done
