"""The rules of coresets written out: every distance by itself, every choice by looking at all."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def squared_distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def mean_of(points: list[list[float]]) -> list[float]:
    return [sum(values) / len(points) for values in zip(*points, strict=True)]


def herding(features: Tensor, count: int) -> list[int]:
    z = features.tolist()
    mean, chosen = mean_of(z), list[int]()
    for k in range(count):
        best, least = -1, float("inf")
        for i, point in enumerate(z):
            if i in chosen:
                continue
            rest = [
                (k + 1) * m - sum(z[j][d] for j in chosen) - point[d] for d, m in enumerate(mean)
            ]
            length = sum(value**2 for value in rest)
            if length < least:
                best, least = i, length
        chosen.append(best)
    return chosen


def k_center(features: Tensor, count: int, first: int) -> list[int]:
    z, chosen = features.tolist(), [first]
    while len(chosen) < count:
        best, farthest = -1, -1.0
        for i, point in enumerate(z):
            if i in chosen:
                continue
            radius = min(squared_distance(point, z[j]) for j in chosen)
            if radius > farthest:
                best, farthest = i, radius
        chosen.append(best)
    return chosen


def radius(features: Tensor, chosen: list[int]) -> float:
    """How far the image farthest from all chosen ones is from the nearest of them."""
    z = features.tolist()
    return max(min(squared_distance(point, z[j]) for j in chosen) for point in z) ** 0.5


def least_radius(features: Tensor, count: int) -> float:
    """The best that any choice of so many images can do, by trying all."""
    every = itertools.combinations(range(len(features)), count)
    return min(radius(features, list(chosen)) for chosen in every)


def k_means(features: Tensor, count: int, made: list[torch.Generator], limit: int) -> list[int]:
    z = features.tolist()
    best: list[list[float]] = []
    tightest = float("inf")
    for generator in made:
        centres = lloyd(z, plus_plus(z, count, generator), limit)
        spread = sum(min(squared_distance(point, c) for c in centres) for point in z)
        if spread < tightest:
            best, tightest = centres, spread
    chosen: list[int] = []
    for centre in best:
        free = [i for i in range(len(z)) if i not in chosen]
        least = min(squared_distance(z[i], centre) for i in free)
        ties = [i for i in free if squared_distance(z[i], centre) <= least * (1 + 1e-9)]
        chosen.append(ties[0])
    return chosen


def plus_plus(z: list[list[float]], count: int, generator: torch.Generator) -> list[list[float]]:
    chosen = [int(torch.randint(len(z), (1,), generator=generator))]
    while len(chosen) < count:
        masses = [min(squared_distance(point, z[j]) for j in chosen) for point in z]
        drawn = float(torch.rand(1, dtype=torch.float64, generator=generator)) * sum(masses)
        place, below = 0, masses[0]
        while below <= drawn:
            place += 1
            below += masses[place]
        chosen.append(place)
    return [z[i] for i in chosen]


def lloyd(z: list[list[float]], centres: list[list[float]], limit: int) -> list[list[float]]:
    before: list[int] = []
    for _ in range(limit):
        mine = [
            min(range(len(centres)), key=lambda c: squared_distance(point, centres[c]))
            for point in z
        ]
        if mine == before:
            break
        before = mine
        centres = [
            mean_of([point for point, own in zip(z, mine, strict=True) if own == c])
            for c in range(len(centres))
        ]
    return centres
