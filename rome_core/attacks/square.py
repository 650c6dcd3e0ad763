"""Square attack (Andriushchenko et al. 2020): random search, a square window of the image a query.

Owns the search and each norm's moves, and asks for nothing but logits. A window's share of the
image falls on the paper's schedule, stretched to the number of queries as AutoAttack does. Every
image has windows of its own, uniform over all places as in the paper's algorithms.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core.attacks import norms
from rome_core.attacks.goal import Goal
from rome_core.attacks.oracle import Oracle
from rome_core.attacks.outcome import Attacked
from rome_core.randomness import ImageDraws
from rome_core.recipes.attacks import SquareSettings, parse_fraction

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Past each of these steps, of 10000, a window covers half the share of the image it did."""

BLOCK = 64
"""Queries drawn for at once."""

PLACE_BITS = 24
"""A place is drawn as one of 2**24, then scaled to those there are: exact on every device."""

ROUNDING = 1e-3
"""Of a length of one. What is shorter where a pattern meets its opposite, or left of a spent
budget, is rounding: scaled up it would be a change of its own, another on every device."""


@torch.no_grad()
def square(
    oracle: Oracle, x: Tensor, goal: Goal, settings: SquareSettings, draws: ImageDraws
) -> Attacked:
    """Tries kept where they increase the loss; an image leaves at the first that reaches the goal.

    x is (n, c, h, w) in the attack's space. A restart spends `queries` forward passes an image, the
    first of them on its random start, and attacks what is left. An image that never gives way keeps
    its try of the highest loss.
    """
    epsilon, loss = float(parse_fraction(settings.epsilon)), goal.loss(settings.loss)
    moves = _Linf(epsilon) if settings.norm == "linf" else _L2(epsilon)
    plan = _plan(moves, settings, x)
    done, highest = Attacked.start(x), x.new_full((len(x),), -torch.inf)
    for restart in range(settings.restarts):
        rows = done.open()
        if not len(rows):
            break
        here = x[rows]
        best = moves.start(here, draws, rows, restart)
        losses = highest.new_full(rows.shape, -torch.inf)
        for query, window in enumerate(plan):
            block, place = divmod(query, BLOCK)
            if place == 0:
                ahead = plan[query : query + BLOCK]
                firsts, signs = _draw(moves, ahead, here, draws, rows, restart, block)
            trial = best
            if query:
                trial = moves.step(best, here, window, firsts[:, place], signs[:, place])
            logits = oracle.logits(trial, rows)
            now, hit = loss(logits, rows), goal.reached(logits, rows)
            better = now > losses
            losses = torch.where(better, now, losses)
            best = torch.where(better.view(-1, 1, 1, 1), trial, best)
            if hit.any():
                done.keep(rows[hit], trial[hit], oracle.forwards[rows[hit]])
                rows, here, best, losses, firsts, signs = (
                    t[~hit] for t in (rows, here, best, losses, firsts, signs)
                )
                if not len(rows):
                    break
        higher = losses > highest[rows]
        highest[rows[higher]] = losses[higher]
        done.note(rows[higher], best[higher])
    return done


@dataclass(frozen=True)
class _Window:
    """A square of one size, whose place says which cell of the image is its first."""

    side: int
    cells: Tensor  # (side**2,) int64: counted from the first, along rows of the image
    bumps: Tensor  # (2, side**2): the L2 attack's change to it, upright and lying

    @classmethod
    def of(cls, side: int, x: Tensor) -> _Window:
        along = torch.arange(side, device=x.device)
        cells = (along[:, None] * x.shape[3] + along).flatten()
        return cls(side, cells, _bumps(side).flatten(1).to(x))

    def at(self, firsts: Tensor, channels: int) -> Tensor:
        """Where it lies in images of flattened planes: (m,) to (m, channels, side**2)."""
        return (firsts[:, None] + self.cells)[:, None].expand(-1, channels, -1)


class _Linf:
    """Algorithm 2: stripes, then windows where each channel is all +epsilon or all -epsilon."""

    windows = 1  # a step
    turns = 0  # signs a step draws beside one a channel

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def side(self, share: float, height: int, width: int) -> int:
        return min(max(round(math.sqrt(share * height * width)), 1), height, width)

    def start(self, x: Tensor, draws: ImageDraws, rows: Tensor, restart: int) -> Tensor:
        _, channels, _, width = x.shape
        stripes = draws.signs(rows, (channels, 1, width), "stripes", restart).to(x)
        return (x + self.epsilon * stripes).clamp(0, 1)

    def step(
        self, best: Tensor, x: Tensor, window: _Window, firsts: Tensor, signs: Tensor
    ) -> Tensor:
        cells = window.at(firsts[:, 0], x.shape[1])
        corner = x.flatten(2).gather(2, cells) + self.epsilon * signs[:, :, None]
        return best.flatten(2).scatter(2, cells, corner.clamp(0, 1)).view_as(x)


class _L2:
    """Algorithm 3: tiles of bumps, then a window takes the budget of another and what is unused."""

    windows = 2
    turns = 1

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def side(self, share: float, height: int, width: int) -> int:
        side = max(round(math.sqrt(share * height * width)), 3)
        return min(side + 1 - side % 2, height, width)

    def start(self, x: Tensor, draws: ImageDraws, rows: Tensor, restart: int) -> Tensor:
        m, channels, height, width = x.shape
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        upright, lying = _bumps(side).to(x)[:, :, None]  # (side, 1, side) each
        shape = (channels, down, 1, across, 1)
        signs = draws.signs(rows, shape, "tiles", restart).to(x)
        turned = draws.signs(rows, (1, *shape[1:]), "turns", restart) > 0
        tiles = torch.where(turned, lying, upright) * signs  # (m, c, down, side, across, side)
        tiles = tiles.reshape(m, channels, down * side, across * side)
        top, left = (height - down * side) // 2, (width - across * side) // 2
        bottom, right = height - down * side - top, width - across * side - left
        return self._spent(x, F.pad(tiles, (left, right, top, bottom)))

    def step(
        self, best: Tensor, x: Tensor, window: _Window, firsts: Tensor, signs: Tensor
    ) -> Tensor:
        channels = x.shape[1]
        one, other = (window.at(first, channels) for first in firsts.unbind(1))
        change = (best - x).flatten(2)  # (m, c, h * w)
        unused = self.epsilon**2 - change.square().sum(dim=(1, 2))
        unused = F.threshold(unused, (ROUNDING * self.epsilon) ** 2, 0)
        old = change.gather(2, one)
        change.scatter_(2, one, 0)  # so that what both windows cover counts once
        given = change.gather(2, other)
        change.scatter_(2, other, 0)
        room = old.square().sum(2) + given.square().sum(2) + unused[:, None] / channels  # (m, c)
        bumps = window.bumps[(signs[:, -1] > 0).long()]  # (m, side**2)
        new = _of_length_one(old) + bumps[:, None] * signs[:, :-1, None]
        length = torch.linalg.vector_norm(new, dim=2)
        scale = torch.where(length > ROUNDING, room.sqrt() / length, 0)
        change.scatter_(2, one, new * scale[:, :, None])
        return self._spent(x, change.view_as(x))

    def _spent(self, x: Tensor, change: Tensor) -> Tensor:
        """x and the change, first scaled to the whole budget."""
        scale = self.epsilon / norms.length(change).clamp_min(norms.TINY)
        return (x + change * scale).clamp(0, 1)


def _plan(moves: _Linf | _L2, settings: SquareSettings, x: Tensor) -> list[_Window]:
    """The window of every query; the first, on the start, has no use for its own."""
    height, width = x.shape[2:]
    shares = [settings.p_init / 2**halved for halved in range(len(HALVINGS) + 1)]
    windows = [_Window.of(moves.side(share, height, width), x) for share in shares]
    steps = (max(query - 1, 0) for query in range(settings.queries))
    return [windows[bisect_left(HALVINGS, step * 10_000 // settings.queries)] for step in steps]


def _draw(
    moves: _Linf | _L2,
    ahead: list[_Window],
    x: Tensor,
    draws: ImageDraws,
    rows: Tensor,
    restart: int,
    block: int,
) -> tuple[Tensor, Tensor]:
    """First cells (m, BLOCK, windows) and signs (m, BLOCK, c and turns) of the queries `ahead`."""
    _, channels, height, width = x.shape
    shape = (len(ahead), moves.windows, 2)
    rooms = [(height - window.side + 1, width - window.side + 1) for window in ahead]
    room = torch.tensor(rooms, device=x.device)[:, None]  # (BLOCK, 1, 2)
    drawn = draws.integers(rows, shape, 2**PLACE_BITS, "places", restart, block)
    top, left = (drawn * room >> PLACE_BITS).unbind(-1)
    signs = draws.signs(rows, (len(ahead), channels + moves.turns), "signs", restart, block)
    return top * width + left, signs.to(x)


def _bumps(side: int) -> Tensor:
    """The paper's eta, (2, side, side) float64: a bump beside a negative one, upright and lying."""
    upper, lower = _rings(side // 2, side), _rings(side - side // 2, side)
    both = torch.cat([_of_length_one(upper.flatten()), -_of_length_one(lower.flatten())])
    upright = _of_length_one(both).view(side, side)
    return torch.stack([upright, upright.T])


def _rings(height: int, width: int) -> Tensor:
    """Falling from the middle: the sum of 1 / k**2 from the ring's number on, middle 1."""
    rows, columns = torch.arange(height), torch.arange(width)
    ring = torch.maximum((rows - height // 2).abs()[:, None], (columns - width // 2).abs())
    count = max(height, width) // 2 + 1
    shares: Tensor = 1 / torch.arange(1, count + 1, dtype=torch.float64) ** 2
    return shares.flip(0).cumsum(0).flip(0)[ring]


def _of_length_one(x: Tensor) -> Tensor:
    """Each row of the last dimension by its L2 norm, rows of zeros as they are."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / lengths.clamp_min(norms.TINY)
