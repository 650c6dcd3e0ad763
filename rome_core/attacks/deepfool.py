"""DeepFool (Moosavi-Dezfooli et al. 2016): steps onto the nearest linearised decision boundary, L2.

Untargeted, the boundaries are those between the label and its nearest rivals: the classes with the
largest logits at the start, as in the authors' implementation. Targeted, which the paper has not,
there is one: between the target and the class that leads at the moment.

Two forms. `overshoot_on="total"` is the paper's (algorithm 2): all steps so far, lengthened by the
overshoot, are added to x; there the network is asked and linearised next. Each step goes a hair
farther than the plane, as in the authors' implementation. `overshoot_on="step"` is that of
torchattacks, which the published protocol uses: each step is lengthened and clamped on its own.
Where the clamp takes most of a step away it creeps up to the boundary itself, and on which side of
it an image ends is a matter of rounding.

A backward pass for every class is what DeepFool's time goes into, and most are for nothing: the
nearest plane is nearly always that of a class whose logit is near. So classes are looked at in the
order of their logits, as far as `REACH` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal, rivals
from rome_core.attacks.gradient import Forward
from rome_core.attacks.minimal import settle, within
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import DeepFoolSettings

REACH = 2.0
"""How much steeper than any class looked at before a class is taken to be at most. One that would
still be farther than the nearest is not looked at, nor are those with larger gaps. On networks
trained on BACON's, DC's and MTT's sets, and untrained ones, none was steeper by more than 1.5."""

BEYOND = 1e-4
"""How far beyond the plane a step of the paper's form goes, in units of the attack's space."""

Leads = Callable[[Tensor, Tensor], Tensor]
"""(logits (m, classes), rows (m,)) to (m, k): at a boundary one is 0, and it grows beyond."""


@torch.no_grad()
def deepfool(
    oracle: Oracle, x: Tensor, goal: Goal, settings: DeepFoolSettings, draws: ImageDraws
) -> Attacked:
    """Step until the goal is reached, for at most `steps` steps.

    x is (n, c, h, w) in the attack's space; nothing is drawn. It is looked at first, one pass:
    clamped to [0, 1] in the paper's form, as it is in the other, where an image that has reached
    the goal is left so. Then a step is one forward pass, and one backward for each class that is
    looked at. An image leaves where it reaches the goal or, in the other form, where a step no
    longer changes it, for then none will. What was found farther than `epsilon` does not count.
    """
    creeping = settings.overshoot_on == "step"
    rows, images = torch.arange(len(x), device=x.device), x if creeping else x.clamp(0, 1)
    done, queries = Attacked.start(images), torch.full_like(rows, -1)
    logits = oracle.logits(images, rows)
    leads = _leads(goal, logits, settings.classes)
    hit = goal.reached(logits, rows)
    queries[hit] = oracle.forwards[hit]
    here = _Walkers(rows, images, torch.zeros_like(x)).take(~hit)
    here = here.take(_by_classes_wanted(leads(logits[~hit], here.rows)))
    limit = None
    for _ in range(settings.steps):
        if not len(here.rows):
            break
        logits, gap, slope, normal = _nearest(oracle, here, goal, leads, limit)
        limit = 1
        hit = goal.reached(logits, here.rows)
        near = hit & within(here.images, x[here.rows], settings.epsilon)
        queries[here.rows[near]] = oracle.forwards[here.rows[near]]
        done.note(here.rows[hit], here.images[hit])
        distance = gap / slope if creeping else gap / slope + BEYOND
        step = (distance / slope).view(-1, 1, 1, 1) * normal
        start = here.images if creeping else x[here.rows]
        total = step if creeping else here.total + step
        moved = (start + (1 + settings.overshoot) * total).clamp(0, 1)
        # What one form goes on from is the image, what the other goes on from is the total.
        change = moved != here.images if creeping else total != here.total
        stuck = ~hit & ~change.flatten(1).any(dim=1)
        done.note(here.rows[stuck], here.images[stuck])
        here = _Walkers(here.rows, moved, total).take(~hit & ~stuck)
    done.note(here.rows, here.images)
    return settle(oracle, x, goal, done, queries, settings.epsilon)


@dataclass(frozen=True, eq=False)
class _Walkers:
    """The images on their way, a row each."""

    rows: Tensor  # (m,): which images of the batch
    images: Tensor  # (m, c, h, w)
    total: Tensor  # (m, c, h, w): all steps, without the overshoot

    def take(self, kept: Tensor) -> _Walkers:
        return _Walkers(*(getattr(self, field.name)[kept] for field in fields(self)))


def _leads(goal: Goal, logits: Tensor, classes: int | None) -> Leads:
    """The leads of other classes over the label, or of the target over the class that leads."""
    if goal.targets is not None:
        aims = goal.targets

        def over_the_first(logits: Tensor, rows: Tensor) -> Tensor:
            first = logits.argmax(dim=1, keepdim=True)
            return logits.gather(1, aims[rows][:, None]) - logits.gather(1, first)

        return over_the_first
    others = rivals(logits, goal.labels, (classes or logits.shape[1]) - 1)

    def over_the_label(logits: Tensor, rows: Tensor) -> Tensor:
        return logits.gather(1, others[rows]) - logits.gather(1, goal.labels[rows][:, None])

    return over_the_label


def _by_classes_wanted(leads: Tensor) -> Tensor:
    """An order, (m,), of leads (m, k): those that want more classes looked at come later.

    So those that want as many share a chunk, of which each pass serves all. How many are wanted is
    guessed: as many as were if all were equally steep.
    """
    gaps = leads.abs()
    wanted = (gaps < REACH * gaps.amin(dim=1, keepdim=True)).sum(dim=1)
    return wanted.argsort(stable=True)


def _nearest(
    oracle: Oracle, here: _Walkers, goal: Goal, leads: Leads, limit: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nearest plane of each image that has not reached the goal.

    Logits (m, classes), the plane's lead without its sign and the length of its gradient, (m,), and
    that gradient (m, c, h, w), which is zero where there is no plane. Where `limit` classes are not
    enough for an image it is looked at again, among its like.
    """
    logits, gap, slope, normal, more = _look(oracle, here, goal, leads, limit)
    rest = more.nonzero()[:, 0]
    if len(rest):
        rest = rest[_by_classes_wanted(leads(logits[rest], here.rows[rest]))]
        again = _look(oracle, here.take(rest), goal, leads, None)
        gap[rest], slope[rest], normal[rest] = again[1:4]
    return logits, gap, slope, normal


def _look(
    oracle: Oracle, here: _Walkers, goal: Goal, leads: Leads, limit: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`_nearest` among `limit` classes, and for which images more were wanted, (m,) bool."""

    def work(forward: Forward, images: Tensor, part: slice) -> tuple[Tensor, ...]:
        rows = here.rows[part]
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = forward(leaf)
            each = leads(logits, rows)
            gaps, order = each.detach().abs().sort(dim=1, stable=True)
            sums = each.gather(1, order).sum(dim=0).unbind()
        asked = ~goal.reached(logits, rows)
        passes, slope, more = torch.zeros_like(rows), torch.ones_like(gaps[:, 0]), ~asked & asked
        gap, normal = torch.zeros_like(slope), torch.zeros_like(images)
        nearest, steepest = torch.full_like(slope, torch.inf), torch.zeros_like(slope)
        for k, lead in enumerate(sums):
            gap_k = gaps[:, k]
            asked = asked & (nearest.isinf() | (gap_k < REACH * steepest * nearest))
            if k == limit:
                more = asked
                break
            if not asked.any():
                break
            (normal_k,) = torch.autograd.grad(lead, leaf, retain_graph=True)
            slope_k = norms.length(normal_k).flatten()
            distance = gap_k / slope_k
            nearer = asked & (distance < nearest)  # never where there is no slope
            gap, slope = torch.where(nearer, gap_k, gap), torch.where(nearer, slope_k, slope)
            nearest = torch.where(nearer, distance, nearest)
            normal = torch.where(nearer.view(-1, 1, 1, 1), normal_k, normal)
            steepest = torch.where(asked, torch.maximum(steepest, slope_k), steepest)
            passes += asked
        return logits.detach(), gap, slope, normal, more, passes

    logits, gap, slope, normal, more = oracle.explore(here.images, here.rows, work)
    return logits, gap, slope, normal, more
