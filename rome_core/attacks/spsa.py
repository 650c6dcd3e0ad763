"""SPSA (Uesato et al. 2018, algorithm 1): gradients estimated from queries alone, climbed by Adam.

The published protocol's single iteration is `steps=1`: Adam's first step is one of the learning
rate along the sign of the estimate.
"""

import torch
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal, Loss
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import SpsaSettings, parse_fraction

BETA_1, BETA_2, STABLE = 0.9, 0.999, 1e-8  # Adam's, as Kingma and Ba 2015 have them

PAIRS = 24
"""Pairs a block: each number drawn has as many random bits, each the sign of one of them."""

AT_ONCE = 512
"""Images a pass, where one pair for every image of the batch is not more than that already."""


@torch.no_grad()
def spsa(
    oracle: Oracle, x: Tensor, goal: Goal, settings: SpsaSettings, draws: ImageDraws
) -> Attacked:
    """Adam's steps up the margin loss, each projected to the Linf ball around x and to [0, 1].

    x is (n, c, h, w) in the attack's space. A step costs an image `samples` queries, two for each
    direction of random signs, which are not clamped to [0, 1]. With `early_stop` every iterate, the
    start included, is looked at, one query more, and an image leaves at the first that reaches the
    goal; without it only the last iterate is looked at.
    """
    epsilon, rate = float(parse_fraction(settings.epsilon)), settings.learning_rate
    loss, done = goal.loss("margin"), Attacked.start(x)
    rows, here, images = done.open(), x, x
    mean, square = torch.zeros_like(x), torch.zeros_like(x)  # of the estimates so far
    for step in range(settings.steps):
        if settings.early_stop and len(rows):
            hit = goal.reached(oracle.logits(images, rows), rows)
            done.keep(rows[hit], images[hit], oracle.forwards[rows[hit]])
            rows, here, images, mean, square = (t[~hit] for t in (rows, here, images, mean, square))
        if not len(rows):
            return done
        gradient = _estimate(oracle, images, rows, loss, settings, draws, step)
        mean = BETA_1 * mean + (1 - BETA_1) * gradient
        square = BETA_2 * square + (1 - BETA_2) * gradient.square()
        spread = (square / (1 - BETA_2 ** (step + 1))).sqrt() + STABLE
        moved = images + rate / (1 - BETA_1 ** (step + 1)) * mean / spread
        images = norms.project("linf", moved, here, epsilon)
    hit = goal.reached(oracle.logits(images, rows), rows)
    done.note(rows, images)
    done.keep(rows[hit], images[hit], oracle.forwards[rows[hit]])
    return done


def _estimate(
    oracle: Oracle,
    images: Tensor,
    rows: Tensor,
    loss: Loss,
    settings: SpsaSettings,
    draws: ImageDraws,
    step: int,
) -> Tensor:
    """The mean over directions v of (loss(x + delta v) - loss(x - delta v)) / (2 delta) v.

    Directions are drawn in blocks of a fixed size and asked about in groups as large as memory is
    meant to be, so that an image's directions do not depend on how many others are attacked.
    """
    pairs, delta, m = settings.samples // 2, settings.delta, len(rows)
    group = max(1, AT_ONCE // (2 * m))
    total = torch.zeros_like(images)
    for block in range(0, pairs, PAIRS):
        bits = draws.integers(rows, tuple(images.shape[1:]), 2**PAIRS, "directions", step, block)
        bit = torch.arange(min(PAIRS, pairs - block), device=bits.device)
        for places in torch.split(bit, group):
            signs = bits[:, None] >> places.view(-1, 1, 1, 1) & 1
            signs = signs.to(images) * 2 - 1  # (m, k, c, h, w)
            ahead, back = images[:, None] + delta * signs, images[:, None] - delta * signs
            points = torch.stack([ahead, back], dim=1)  # (m, 2, k, c, h, w)
            asked = rows.repeat_interleave(2 * len(places))
            heights = loss(oracle.logits(points.flatten(0, 2), asked), asked).view(m, 2, -1)
            rises = heights[:, 0] - heights[:, 1]  # (m, k)
            total += torch.einsum("mk,mkchw->mchw", rises, signs)
    return total / (2 * delta * pairs)
