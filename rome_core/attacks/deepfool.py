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
    wanted = _wanted(leads(logits, rows))
    here = _Walkers(rows, images, torch.zeros_like(x)).take(~hit).sorted(wanted[~hit])
    for step_number in range(settings.steps):
        if not len(here.rows):
            break
        logits, gap, slope, normal = _nearest(oracle, here, goal, leads, first=step_number == 0)
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
    wanted: Tensor  # (m,): how many classes will be looked at, by the latest logits

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


def _wanted(leads: Tensor) -> Tensor:
    """How many classes would be looked at if all were equally steep: (m, k) to (m,)."""
    gaps = leads.abs()
    return (gaps < REACH * gaps.amin(dim=1, keepdim=True)).sum(dim=1)


def _nearest(
    oracle: Oracle, here: _Walkers, goal: Goal, leads: Leads
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nearest plane of each image that has not reached the goal.

    Logits (m, classes), the plane's lead without its sign and the length of its gradient, (m,), and
    that gradient (m, c, h, w), which is zero where there is no plane.
    """

    def look(forward: Forward, images: Tensor, part: slice) -> tuple[Tensor, ...]:
        rows = here.rows[part]
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = forward(leaf)
            each = leads(logits, rows)
            gaps, order = each.detach().abs().sort(dim=1, stable=True)
            totals = each.gather(1, order).sum(dim=0).unbind()
        asked = ~goal.reached(logits, rows)
        passes, slope = torch.zeros_like(rows), torch.ones_like(gaps[:, 0])
        gap, normal = torch.zeros_like(slope), torch.zeros_like(images)
        nearest, steepest = torch.full_like(slope, torch.inf), torch.zeros_like(slope)
        for gap_k, total in zip(gaps.unbind(dim=1), totals, strict=True):
            asked = asked & (nearest.isinf() | (gap_k < REACH * steepest * nearest))
            if not asked.any():
                break
            (normal_k,) = torch.autograd.grad(total, leaf, retain_graph=True)
            slope_k = norms.length(normal_k).flatten()
            distance = gap_k / slope_k
            nearer = asked & (slope_k > 0) & (distance < nearest)
            gap, slope = torch.where(nearer, gap_k, gap), torch.where(nearer, slope_k, slope)
            nearest = torch.where(nearer, distance, nearest)
            normal = torch.where(nearer.view(-1, 1, 1, 1), normal_k, normal)
            steepest = torch.where(asked, torch.maximum(steepest, slope_k), steepest)
            passes += asked
        return logits.detach(), gap, slope, normal, passes

    logits, gap, slope, normal = oracle.explore(here.images, here.rows, look)
    return logits, gap, slope, normal
