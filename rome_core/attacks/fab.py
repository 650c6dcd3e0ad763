"""FAB, the fast adaptive boundary attack (Croce and Hein 2020), and FAB-T, one class at a time.

It looks for the nearest image on the other side of a decision boundary: steps onto the boundary as
the gradient draws it, drawn back towards the original, and back inside after each crossing. As in
the authors' implementation for AutoAttack there is no search along the last segment at the end. An
image leaves at the first crossing within epsilon: what is asked is whether there is one.

Distances are from the image clamped to [0, 1], and values that the clamp moved stay where it put
them: so what is found within epsilon is within it in the reference domain too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal, Loss, rivals
from rome_core.attacks.gradient import joined
from rome_core.attacks.hyperplane import step_onto
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked, begin
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import FabSettings, parse_fraction

SHORTEST = 1e-8
"""A step's length at least, where two are compared."""

Boundary = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images (m, c, h, w), rows (m,), which values are free to move) to a function of images that is
negative before a boundary and positive beyond: its values (m,), and gradients where free."""

JACOBIAN_VALUES = 2**26
"""Of gradients of all classes at once: a quarter of a GiB in float32."""


@torch.no_grad()
def fab(
    oracle: Oracle, x: Tensor, goal: Goal, settings: FabSettings, draws: ImageDraws
) -> Attacked:
    """Cross the boundary within epsilon, of the nearest class or of one class after another.

    x is (n, c, h, w) in the attack's space and is looked at first, clamped to [0, 1]: one pass. A
    step is two forward passes and one backward, or, where all classes are looked at, one backward a
    class. The first run of a class starts at the image, the others at half of epsilon from it. With
    a targeted goal the boundary is the target's alone. What never crosses within epsilon keeps
    the point of the ball that is nearest to its nearest crossing.
    """
    done, logits = begin(oracle, x, goal)
    epsilon = float(parse_fraction(settings.epsilon))
    nearest = x.new_full((len(x),), torch.inf)
    for aim, boundary in enumerate(_boundaries(oracle, goal, settings, logits)):
        for restart in range(settings.restarts):
            rows = done.open()
            if not len(rows):
                return done
            start = _start(x, rows, settings, draws, aim, restart)
            left = _search(oracle, start, goal, boundary, settings, done)
            nearer = left.distance <= nearest[left.rows]
            nearest[left.rows[nearer]] = left.distance[nearer]
            images = norms.project(settings.norm, left.nearest, left.x, epsilon)
            done.note(left.rows[nearer], images[nearer])
    return done


def _boundaries(
    oracle: Oracle, goal: Goal, settings: FabSettings, logits: Tensor
) -> list[Boundary]:
    """What is crossed, one after another; `logits` (n, classes) are those of the images."""
    if goal.targets is not None:
        return [_boundary(oracle, goal.loss("margin"))]
    if not settings.multi_target:
        return [_nearest_boundary(oracle, goal.labels, logits.shape[1], settings.norm)]
    aims = rivals(logits, goal.labels, settings.target_classes)
    return [_boundary(oracle, _lead(goal.labels, aim)) for aim in aims.unbind(dim=1)]


def _lead(labels: Tensor, targets: Tensor) -> Loss:
    def lead(logits: Tensor, rows: Tensor) -> Tensor:
        pair = torch.stack([targets[rows], labels[rows]], dim=1)
        target, own = logits.gather(1, pair).unbind(dim=1)
        return target - own

    return lead


def _boundary(oracle: Oracle, lead: Loss) -> Boundary:
    def boundary(images: Tensor, rows: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        _, leads, gradient = oracle.gradient(images, rows, lead)
        return leads, gradient * free

    return boundary


def _nearest_boundary(oracle: Oracle, labels: Tensor, classes: int, norm: str) -> Boundary:
    """That of the class which, were leads linear, would take the shortest step."""

    def some(images: Tensor, rows: Tensor, free: Tensor) -> tuple[Tensor, ...]:
        each, own = torch.arange(len(rows), device=rows.device), labels[rows]
        every = torch.arange(classes, device=rows.device).expand(len(rows), classes)
        logits, gradients = oracle.jacobian(images, rows, every)
        leads = logits - logits[each, own][:, None]
        gradients = (gradients - gradients[each, own][:, None]) * free[:, None]
        # A step of length one, in the norm, gains at most the gradient's dual norm.
        gain = torch.linalg.vector_norm(gradients.flatten(2), ord=1 if norm == "linf" else 2, dim=2)
        steps = leads.abs() / gain.clamp_min(norms.TINY)
        steps[each, own] = torch.inf
        best = steps.argmin(dim=1)
        return leads[each, best], gradients[each, best]

    def boundary(images: Tensor, rows: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        size = max(1, JACOBIAN_VALUES // (classes * images[0].numel()))
        parts = zip(*(torch.split(t, size) for t in (images, rows, free)), strict=True)
        leads, gradients = joined([some(*part) for part in parts])
        return leads, gradients

    return boundary


@dataclass(eq=False)
class _Searchers:
    """The images of one run that have not crossed within epsilon, a row each."""

    rows: Tensor  # (m,): which images of the batch
    x: Tensor  # (m, c, h, w), in [0, 1]
    free: Tensor  # (m, c, h, w) bool: which values may move
    images: Tensor
    nearest: Tensor  # the nearest crossing, or the latest point where there is none
    distance: Tensor  # (m,), infinite where there is none

    def take(self, kept: Tensor) -> _Searchers:
        return _Searchers(*(getattr(self, field.name)[kept] for field in fields(self)))


def _start(
    x: Tensor, rows: Tensor, settings: FabSettings, draws: ImageDraws, aim: int, restart: int
) -> _Searchers:
    """The images of `rows`, at themselves or, in a later run, nearby."""
    original = x[rows]
    free, centre = (original >= 0) & (original <= 1), original.clamp(0, 1)
    images = centre
    if restart:
        half = float(parse_fraction(settings.epsilon)) / 2
        step = norms.surface(settings.norm, centre, half, draws, rows, aim, restart)
        images = (centre + step * free).clamp(0, 1)
    far = x.new_full((len(rows),), torch.inf)
    return _Searchers(rows, centre, free, images, images, far)


def _search(
    oracle: Oracle,
    here: _Searchers,
    goal: Goal,
    boundary: Boundary,
    settings: FabSettings,
    done: Attacked,
) -> _Searchers:
    """One run: those that it leaves open."""
    norm, epsilon = settings.norm, float(parse_fraction(settings.epsilon))
    for _ in range(settings.steps):
        lead, normal = boundary(here.images, here.rows, here.free)
        here.images = _step(here, lead, normal, settings)
        crossed = goal.reached(oracle.logits(here.images, here.rows), here.rows)
        distance = _length(norm, here.images - here.x)
        hit = crossed & (distance <= epsilon)
        if hit.any():
            done.keep(here.rows[hit], here.images[hit], oracle.forwards[here.rows[hit]])
            here, crossed, distance = here.take(~hit), crossed[~hit], distance[~hit]
            if not len(here.rows):
                break
        nearer = crossed & (distance < here.distance)
        show = (nearer | here.distance.isinf()).view(-1, 1, 1, 1)
        here.nearest = torch.where(show, here.images, here.nearest)
        here.distance = torch.where(nearer, distance, here.distance)
        back = here.x + settings.beta * (here.images - here.x)
        here.images = torch.where(crossed.view(-1, 1, 1, 1), back, here.images)
    return here


def _step(here: _Searchers, lead: Tensor, normal: Tensor, settings: FabSettings) -> Tensor:
    """Just beyond the boundary, from the point and from the original: a mean of the two.

    The boundary is where `lead` (m,) would be 0, were it linear with the gradient `normal`. The
    nearer the point is to it and the farther the original, the less the original weighs, and never
    more than `alpha_max`.
    """
    norm = settings.norm
    moved = (normal * (here.images - here.x)).flatten(1).sum(dim=1)
    both = torch.cat([here.images, here.x])
    steps = step_onto(norm, both, torch.cat([normal, normal]), torch.cat([-lead, moved - lead]))
    ahead, direct = steps.chunk(2)
    near, far = _length(norm, steps).clamp_min(SHORTEST).view(-1, 1, 1, 1).chunk(2)
    alpha = (near / (near + far)).clamp_max(settings.alpha_max)
    point, original = here.images + settings.eta * ahead, here.x + settings.eta * direct
    return ((1 - alpha) * point + alpha * original).clamp(0, 1)


def _length(norm: str, change: Tensor) -> Tensor:
    """(m, c, h, w) to (m,)."""
    flat = change.flatten(1)
    return flat.abs().amax(dim=1) if norm == "linf" else torch.linalg.vector_norm(flat, dim=1)
