"""Projected gradient descent (Madry et al. 2018): the bare steps, and the attack made of them."""

import torch
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal
from rome_core.attacks.gradient import Model, ascent
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import Budget, PgdSettings, parse_fraction


@torch.no_grad()
def pgd(
    oracle: Oracle, x: Tensor, goal: Goal, settings: PgdSettings, draws: ImageDraws
) -> Attacked:
    """Steps up the loss, each projected to the ball around x and to [0, 1].

    x is (n, c, h, w) in the attack's space and need not lie in [0, 1]: then the clamp wins over the
    ball. With `early_stop` an image leaves at the first iterate that reaches the goal, the start
    included, which is x itself where it is not random; without it only the last iterate of a start
    counts. Each restart attacks what is left; without a random start all are the same, and one is
    made. What never reaches the goal keeps the last iterate with the highest loss of all starts.
    """
    epsilon, step = float(parse_fraction(settings.epsilon)), float(parse_fraction(settings.step))
    loss, done = goal.loss(settings.loss), Attacked.start(x)
    highest = x.new_full((len(x),), -torch.inf)
    for restart in range(settings.restarts if settings.random_start else 1):
        rows = done.open()
        if not len(rows):
            break
        images = x[rows]
        if settings.random_start:
            start = norms.noise(settings.norm, images, epsilon, draws, restart, rows)
            images = (images + start).clamp(0, 1)
        for _ in range(settings.steps):
            logits, _, gradient = oracle.gradient(images, rows, loss)
            if settings.early_stop:
                hit = goal.reached(logits, rows)
                done.keep(rows[hit], images[hit], oracle.forwards[rows[hit]])
                rows, images, gradient = rows[~hit], images[~hit], gradient[~hit]
                if not len(rows):
                    break
            moved = images + step * norms.steepest(settings.norm, gradient)
            images = norms.project(settings.norm, moved, x[rows], epsilon)
        if len(rows):
            logits = oracle.logits(images, rows)
            hit, height = goal.reached(logits, rows), loss(logits, rows)
            higher = height >= highest[rows]
            highest[rows[higher]] = height[higher]
            done.note(rows[higher], images[higher])
            done.keep(rows[hit], images[hit], oracle.forwards[rows[hit]])
    return done


@torch.no_grad()
def perturb(
    model: Model,
    x: Tensor,
    labels: Tensor,
    budget: Budget,
    generator: torch.Generator | None = None,
    *,
    targets: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """The bare steps under Linf, all of them for every image, as training against attacks needs.

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
    for a whole set and pass slices to `perturb`, and the set's chunking changes nothing.
    """
    unit = torch.rand(x.shape, generator=generator).to(x)
    return (unit * 2 - 1) * float(budget.epsilon)
