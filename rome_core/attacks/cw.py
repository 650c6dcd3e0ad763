"""The L2 attack of Carlini and Wagner 2017 (section VI): a small perturbation, by Adam on tanh.

Image (tanh(w) + 1) / 2 is always in [0, 1]. Adam lowers |image - x|^2 + c f(image) by w, f being
how far the goal is missed, in logits, and at least -kappa. With `binary_search_steps` above one the
steps are run again for other c, each image's own: ten times as large until the goal is reached,
then halfway between the largest c that failed and the smallest that did not.

`margin="published"` is the form of torchattacks. There negative logits count as zero in f; values
at 0 and 1, which is where the reference domain's clamp puts most, can't move, for tanh is flat
there (the other form starts a millionth inside); kappa is not asked of what counts as found; and
where nothing is found the outcome is x itself, unclamped. Distances are from x clamped: those from
x, which torchattacks takes, are larger by what no value can change.

With `stop="image"` an image leaves, until the next c, when its cost has not been lower for a fifth
of the steps. With `stop="batch"` all stop where, looked at every tenth of the steps, the summed
cost of the batch has grown, as in torchattacks: then an image's outcome depends on what else is in
its batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rome_core.attacks.goal import Goal, Loss
from rome_core.attacks.minimal import settle, within
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import CwSettings

BETAS, TINY = (0.9, 0.999), 1e-8
"""Of Adam, as everywhere."""

INSIDE = 0.999999
"""How near to the ends of (-1, 1) tanh starts, as in the authors' code."""

LARGEST_C = 1e10
"""As in the authors' code."""


@torch.no_grad()
def cw(oracle: Oracle, x: Tensor, goal: Goal, settings: CwSettings, draws: ImageDraws) -> Attacked:
    """Keep the smallest perturbation that reaches the goal, of all steps and all c.

    x is (n, c, h, w) in the attack's space; nothing is drawn. A step is one forward and one
    backward pass. Where images stop on their own, one that reaches the goal where it starts leaves
    for good. What was found farther than `epsilon` does not count.
    """
    search = _Search(oracle, x, goal, settings)
    c = x.new_full((len(x),), settings.c)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for _ in range(settings.binary_search_steps):
        enough = search.descend(c)
        low, high = torch.where(enough, low, c), torch.where(enough, c, high)
        c = torch.where(high.isinf(), (10 * c).clamp_max(LARGEST_C), (low + high) / 2)
    return settle(oracle, x, goal, search.done, search.queries, settings.epsilon)


class _Search:
    """What was found so far for the images of a batch."""

    def __init__(self, oracle: Oracle, x: Tensor, goal: Goal, settings: CwSettings) -> None:
        self._oracle, self._x, self._goal, self._settings = oracle, x, goal, settings
        self._published = settings.margin == "published"
        self._excess = _excess(goal, settings)
        self._nearest = x.new_full((len(x),), torch.inf)  # squared distances
        self._over = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.done = Attacked.start(x)
        self.queries = torch.full((len(x),), -1, device=x.device)

    def descend(self, c: Tensor) -> Tensor:
        """All steps with weights c (n,): which images reached the goal on the way, (n,) bool."""
        settings, enough = self._settings, torch.zeros_like(self._over)
        rows = (~self._over).nonzero()[:, 0]
        origin = self._x[rows].clamp(0, 1)
        limit = 1.0 if self._published else INSIDE
        w = (2 * origin - 1).clamp(-limit, limit).atanh()
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        lowest, fell_at = torch.full_like(c[rows], torch.inf), torch.zeros_like(rows)
        for step in range(settings.steps):
            if not len(rows):
                break
            position = w.tanh()
            images = (position + 1) / 2
            change = images - origin
            logits, excess, gradient = self._oracle.gradient(images, rows, self._excess)
            distance = change.square().flatten(1).sum(dim=1)
            hit = self._hit(logits, excess, rows)
            enough[rows] |= hit
            self._record(rows, images, distance, hit)
            cost = distance + c[rows] * excess
            slope = (2 * change + c[rows].view(-1, 1, 1, 1) * gradient) * (1 - position**2) / 2
            w = _adam(w, slope, mean, square, step + 1, settings.learning_rate)
            if settings.stop == "batch":
                stay = torch.ones_like(hit)
                if step % max(settings.steps // 10, 1) == 0:
                    if cost.sum() > lowest.sum():
                        break
                    lowest = cost
            else:
                fell_at[cost < lowest] = step
                lowest = torch.minimum(cost, lowest)
                stay = step - fell_at < max(settings.steps // 5, 1)
            if step == 0 and settings.stop == "image":
                self._over[rows[hit]] = True
                stay &= ~hit
            if not stay.all():
                rows, origin, w = rows[stay], origin[stay], w[stay]
                mean, square = mean[stay], square[stay]
                lowest, fell_at = lowest[stay], fell_at[stay]
        return enough

    def _hit(self, logits: Tensor, excess: Tensor, rows: Tensor) -> Tensor:
        hit = self._goal.reached(logits, rows)
        return hit if self._published else hit & (excess <= -self._settings.kappa)

    def _record(self, rows: Tensor, images: Tensor, distance: Tensor, hit: Tensor) -> None:
        nearer = hit & (distance < self._nearest[rows])
        self._nearest[rows[nearer]] = distance[nearer]
        # Of what has not been found the latest try is kept, or x.
        show = nearer if self._published else nearer | self._nearest[rows].isinf()
        self.done.note(rows[show], images[show])
        first = nearer & (self.queries[rows] < 0)
        first &= within(images, self._x[rows], self._settings.epsilon)
        self.queries[rows[first]] = self._oracle.forwards[rows[first]]


def _excess(goal: Goal, settings: CwSettings) -> Loss:
    """How much the logit that should lose leads, -kappa at least: f of the paper's equation 8."""
    floor = 0.0 if settings.margin == "published" else -math.inf

    def excess(logits: Tensor, rows: Tensor) -> Tensor:
        named = (goal.labels if goal.targets is None else goal.targets)[rows][:, None]
        own = logits.gather(1, named)[:, 0].clamp_min(floor)
        others = logits.scatter(1, named, -torch.inf).amax(dim=1).clamp_min(floor)
        lead = own - others if goal.targets is None else others - own
        return lead.clamp_min(-settings.kappa)

    return excess


def _adam(w: Tensor, slope: Tensor, mean: Tensor, square: Tensor, step: int, rate: float) -> Tensor:
    """One step of Adam (Kingma and Ba 2015, algorithm 1); the moments are updated in place."""
    first, second = BETAS
    mean.lerp_(slope, 1 - first)
    square.mul_(second).addcmul_(slope, slope, value=1 - second)
    spread = (square.sqrt() / math.sqrt(1 - second**step)).add_(TINY)
    return w.addcdiv(mean, spread, value=-rate / (1 - first**step))
