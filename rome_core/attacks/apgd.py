"""Auto-PGD (Croce and Hein 2020, algorithm 1): PGD with momentum that finds its own step size.

The step starts at twice the radius. At checkpoints, closer together as the budget of steps runs
out, an image whose loss rose in too few of the steps since the last one, or whose best loss has not
grown since, halves its step and goes on from its best point. Checkpoints, start and momentum are
those of the authors' implementation: the same start gives the same iterates. There the first step's
loss is compared with zero, not with the start's, and momentum after a return to the best point is
reckoned from the point before the return; so it is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal, Loss, dlr_targeted, rivals
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked, begin
from rome_core.errors import CoreError
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import ApgdSettings, parse_fraction

MOMENTUM = 0.75
"""Weight of the new step; the last one has the rest."""


@torch.no_grad()
def apgd(
    oracle: Oracle, x: Tensor, goal: Goal, settings: ApgdSettings, draws: ImageDraws
) -> Attacked:
    """Climb a loss from random starts; an image leaves at the first iterate that reaches the goal.

    x is (n, c, h, w) in the attack's space and is looked at first, clamped to [0, 1]: one pass. A
    run of n steps is `eot` (n + 1) passes, forward and backward. `dlr-targeted` makes `restarts`
    runs towards each of the `target_classes` classes likeliest at x, or with a targeted goal
    towards the target alone. What never reaches the goal keeps its point of the highest loss.
    Raises CoreError for a loss that the number of classes is too small for.
    """
    done, logits = begin(oracle, x, goal)
    highest = x.new_full((len(x),), -torch.inf)
    for aim, loss in enumerate(_losses(goal, settings, logits)):
        for restart in range(settings.restarts):
            rows = done.open()
            if not len(rows):
                return done
            epsilon = float(parse_fraction(settings.epsilon))
            start = norms.surface(settings.norm, x[rows], epsilon, draws, rows, aim, restart)
            start = (x[rows] + start).clamp(0, 1)
            left = _climb(oracle, x[rows], start, rows, goal, loss, settings, done)
            higher = left.best_losses > highest[left.rows]
            highest[left.rows[higher]] = left.best_losses[higher]
            done.note(left.rows[higher], left.best[higher])
    return done


def _losses(goal: Goal, settings: ApgdSettings, logits: Tensor) -> list[Loss]:
    """What is climbed, one run after another; `logits` (n, classes) are those of the images."""
    needed = settings.classes_needed()
    if logits.shape[1] < needed:
        raise CoreError(
            "attack_unsuitable",
            f"The loss {settings.loss} means nothing with fewer than {needed} classes, and there "
            f"are {logits.shape[1]}.",
            "Set it to margin." if settings.loss == "dlr" else "Set it to dlr or margin.",
            field="loss",
        )
    if settings.loss != "dlr-targeted":
        return [goal.loss(settings.loss)]
    if goal.targets is not None:
        return [_towards(goal.labels, goal.targets)]
    aims = rivals(logits, goal.labels, settings.target_classes)
    return [_towards(goal.labels, aim) for aim in aims.unbind(dim=1)]


def _towards(labels: Tensor, targets: Tensor) -> Loss:
    def climbed(logits: Tensor, rows: Tensor) -> Tensor:
        return dlr_targeted(logits, labels[rows], targets[rows])

    return climbed


@dataclass(eq=False)
class _Climbers:
    """The images of one run that are still climbing, a row each."""

    rows: Tensor  # (m,): which images of the batch
    x: Tensor  # (m, c, h, w)
    images: Tensor
    previous: Tensor
    gradient: Tensor
    best: Tensor  # the point of the highest loss, and the gradient there
    best_gradient: Tensor
    best_losses: Tensor  # (m,)
    last_losses: Tensor
    rises: Tensor  # steps since the last checkpoint in which the loss rose
    step: Tensor  # (m, 1, 1, 1)
    halved: Tensor  # whether the last checkpoint halved the step, and the best loss there
    checked: Tensor

    def take(self, kept: Tensor) -> _Climbers:
        return _Climbers(*(getattr(self, field.name)[kept] for field in fields(self)))

    def move(self, norm: str, epsilon: float, *, momentum: float) -> None:
        ahead = self.images + self.step * norms.steepest(norm, self.gradient)
        ahead = norms.project(norm, ahead, self.x, epsilon)
        if momentum < 1:
            last = self.images - self.previous
            ahead = self.images + momentum * (ahead - self.images) + (1 - momentum) * last
            ahead = norms.project(norm, ahead, self.x, epsilon)
        self.previous, self.images = self.images, ahead

    def learn(self, losses: Tensor) -> None:
        """What the latest point's losses (m,) say; its gradient is in place."""
        higher = losses > self.best_losses
        self.best[higher] = self.images[higher]
        self.best_gradient[higher] = self.gradient[higher]
        self.best_losses = torch.where(higher, losses, self.best_losses)
        self.rises = self.rises + (losses > self.last_losses)
        self.last_losses = losses

    def check(self, enough: float) -> None:
        """A checkpoint: halve the step of those that have not risen `enough` times, or at all."""
        stuck = (self.rises <= enough) | (~self.halved & (self.checked >= self.best_losses))
        back = stuck.view(-1, 1, 1, 1)
        self.step = torch.where(back, self.step / 2, self.step)
        self.images = torch.where(back, self.best, self.images)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)
        self.halved, self.checked = stuck, self.best_losses
        self.rises = torch.zeros_like(self.rises)


def _climb(
    oracle: Oracle,
    x: Tensor,
    start: Tensor,
    rows: Tensor,
    goal: Goal,
    loss: Loss,
    settings: ApgdSettings,
    done: Attacked,
) -> _Climbers:
    """One run for the images x of `rows`: what did not reach the goal."""
    epsilon = float(parse_fraction(settings.epsilon))
    logits, losses, gradient = _ask(oracle, start, rows, loss, settings.eot)
    climbers = _Climbers(
        rows=rows,
        x=x,
        images=start,
        previous=start,
        gradient=gradient,
        best=start.clone(),
        best_gradient=gradient.clone(),
        best_losses=losses,
        last_losses=torch.zeros_like(losses),
        rises=torch.zeros_like(rows),
        step=x.new_full((len(x), 1, 1, 1), 2 * epsilon),
        halved=torch.ones_like(rows, dtype=torch.bool),
        checked=losses,
    )
    climbers = _leave(climbers, logits, goal, oracle, done)[0]
    windows = _windows(settings.steps)
    window, since = next(windows), 0
    for step in range(settings.steps):
        if not len(climbers.rows):
            break
        climbers.move(settings.norm, epsilon, momentum=MOMENTUM if step else 1)
        logits, losses, climbers.gradient = _ask(
            oracle, climbers.images, climbers.rows, loss, settings.eot
        )
        climbers, left = _leave(climbers, logits, goal, oracle, done)
        climbers.learn(losses[left])
        since += 1
        if since == window:
            climbers.check(settings.rho * window)
            window, since = next(windows), 0
    return climbers


def _ask(
    oracle: Oracle, images: Tensor, rows: Tensor, loss: Loss, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and losses of the last sample, and the mean gradient of all."""
    logits, losses, gradient = oracle.gradient(images, rows, loss)
    for _ in range(samples - 1):
        logits, losses, another = oracle.gradient(images, rows, loss)
        gradient = gradient + another
    return logits, losses, gradient / samples


def _leave(
    climbers: _Climbers, logits: Tensor, goal: Goal, oracle: Oracle, done: Attacked
) -> tuple[_Climbers, Tensor]:
    """Without those whose latest point has reached the goal, and which are left: (m,) bool."""
    hit = goal.reached(logits, climbers.rows)
    if hit.any():
        rows = climbers.rows[hit]
        done.keep(rows, climbers.images[hit], oracle.forwards[rows])
        climbers = climbers.take(~hit)
    return climbers, ~hit


def _windows(steps: int) -> Iterator[int]:
    """How many steps there are from one checkpoint to the next, in a run of `steps`.

    Rounded down, each: after 22, 41, 57, 70, 80, 87, 93 and 99 of 100 steps.
    """
    window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    while True:
        yield window
        window = max(window - shrink, least)
