"""Attacks that look for the smallest perturbation, under a budget: what of their finds counts."""

import torch
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.recipes.attacks import parse_fraction


def within(images: Tensor, x: Tensor, epsilon: str | None) -> Tensor:
    """Which images are no farther, in L2, than epsilon from x clamped to [0, 1]: (m,) bool.

    Without an epsilon all are.
    """
    if epsilon is None:
        return torch.ones(len(images), dtype=torch.bool, device=images.device)
    distance = norms.length(images - x.clamp(0, 1)).flatten()
    return distance <= float(parse_fraction(epsilon))


def settle(
    oracle: Oracle,
    x: Tensor,
    goal: Goal,
    done: Attacked,
    queries: Tensor,
    epsilon: str | None,
) -> Attacked:
    """Say which images reached their goal, at the end of an attack.

    `done.images` holds the smallest perturbation found of each image or, where there is none, the
    attack's best try; `queries` (n,) after how many forward passes one within epsilon was found, -1
    where none was. Those others are moved to the nearest point of the ball and tried once more, one
    forward pass: the boundary may be nearer than the attack thought.
    """
    found = (queries >= 0).nonzero()[:, 0]
    done.keep(found, done.images[found], queries[found])
    rest = done.open()
    if not len(rest):
        return done
    images = done.images[rest]
    if epsilon is not None:
        centre = x[rest].clamp(0, 1)
        images = norms.project("l2", images, centre, float(parse_fraction(epsilon)))
    hit = goal.reached(oracle.logits(images, rest), rest)
    done.note(rest, images)
    done.keep(rest[hit], images[hit], oracle.forwards[rest[hit]])
    return done
