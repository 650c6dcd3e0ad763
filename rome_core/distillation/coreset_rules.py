"""Rules that choose some of a class's images: pure functions of where images lie, or of a score.

Owns the rules. Features are (n, d) on the CPU and choices positions (count,) int64 in the order of
their being chosen, all different. All arithmetic is float64, so that ties are of the features' own
making, and a tie is the first image's. Whoever calls says what features are and what n is
(`coresets`); `count` is at most n.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def herding(features: Tensor, count: int) -> Tensor:
    """Greedily keep the mean of the chosen near the mean of all (Welling, ICML 2009).

    The k+1st is argmin_x |(k+1) mean - (sum of the k before) - z(x)| of those not yet chosen, as in
    iCaRL (Rebuffi et al., CVPR 2017). Some code in circulation has argmax there: that is no
    herding.
    """
    z = features.double()
    lengths, mean = z.square().sum(dim=1), z.mean(dim=0)
    wanted = mean.clone()  # what the next image should be: (k+1) mean - sum
    taken = torch.zeros(len(z), dtype=torch.bool)
    chosen = []
    for _ in range(count):
        # |wanted - z|^2 without what is the same for all.
        distances = (lengths - 2 * (z @ wanted)).masked_fill(taken, torch.inf)
        best = int(distances.argmin())
        wanted += mean - z[best]
        taken[best] = True
        chosen.append(best)
    return torch.tensor(chosen)


def nearest_to_mean(features: Tensor) -> int:
    """The image nearest to the mean of all."""
    z = features.double()
    return int((z - z.mean(dim=0)).square().sum(dim=1).argmin())


def k_center(features: Tensor, count: int, first: int) -> Tensor:
    """Greedy k-center from a first image (Gonzalez 1985; Sener and Savarese, ICLR 2018).

    Each next image is the one farthest from the nearest of those chosen: the largest radius in
    which all lie is at most twice the least possible.
    """
    z = features.double()
    chosen, best = [first], first
    nearest = z.new_full((len(z),), torch.inf)  # squared distance to the nearest chosen image
    taken = torch.zeros(len(z), dtype=torch.bool)
    taken[first] = True
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (z - z[best]).square().sum(dim=1))
        best = int(nearest.masked_fill(taken, -1).argmax())
        taken[best] = True
        chosen.append(best)
    return torch.tensor(chosen)


def k_means(features: Tensor, count: int, made: Sequence[torch.Generator], limit: int) -> Tensor:
    """The images nearest to the means of `count` clusters, each taken once.

    The tightest of several clusterings: one a generator, from k-means++ starts (Arthur and
    Vassilvitskii 2007), of at most `limit` rounds of Lloyd's.
    """
    z = features.double()
    found = [cluster(z, seeds(z, count, generator), limit) for generator in made]
    centres, _ = min(found, key=lambda one: one[1])  # the first of equals
    rough = _squared_distances(z, centres)  # (n, count)
    slack = 1e-9 * float(z.square().sum(dim=1).max())  # more than its rounding
    chosen = []
    for number, centre in enumerate(centres):
        near = torch.nonzero(rough[:, number] <= rough[:, number].min() + slack).flatten()
        exact = (z[near] - centre).square().sum(dim=1)
        # Both images of a cluster of two are as near to their mean: the first is taken, whatever
        # rounding says.
        best = int(near[exact <= exact.min() * (1 + 1e-9)][0])
        rough[best] = torch.inf
        chosen.append(best)
    return torch.tensor(chosen)


def seeds(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """k-means++: centres (count, d), each an image drawn by its squared distance to those before.

    Where all images lie on centres already, the first image serves again.
    """
    first = int(torch.randint(len(features), (1,), generator=generator))
    chosen = [first]
    nearest = (features - features[first]).square().sum(dim=1)
    for _ in range(count - 1):
        mass = nearest.cumsum(dim=0)
        drawn = torch.rand(1, dtype=torch.float64, generator=generator) * mass[-1]
        place = min(int(torch.searchsorted(mass, drawn, right=True)), len(features) - 1)
        chosen.append(place if mass[-1] > 0 else 0)
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(dim=1))
    return features[chosen].clone()


def cluster(features: Tensor, centres: Tensor, limit: int) -> tuple[Tensor, float]:
    """Lloyd's algorithm: centres (k, d) and the summed squared distances of images to them.

    A cluster that lost its last image takes the image that lies farthest from the centre of its own
    and is not alone there. Ends where nothing moves, or after `limit` rounds.
    """
    before = None
    for _ in range(limit):
        distances = _squared_distances(features, centres)
        nearest, mine = distances.min(dim=1)
        _fill_empty(mine, nearest, len(centres))
        if before is not None and torch.equal(mine, before):
            break
        before = mine
        counts = mine.bincount(minlength=len(centres)).unsqueeze(1)
        sums = torch.zeros_like(centres).index_add_(0, mine, features)
        # With fewer images than clusters, some clusters stay empty where they are.
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    nearest = _squared_distances(features, centres).min(dim=1).values
    return centres, float(nearest.sum())


def most_forgotten(counts: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of the largest counts (n,), in falling order; which of equals is a draw's.

    Toneva et al., "An Empirical Study of Example Forgetting", ICLR 2019.
    """
    order = torch.randperm(len(counts), generator=generator)
    falling = counts[order].argsort(descending=True, stable=True)
    return order[falling[:count]]


def _squared_distances(features: Tensor, centres: Tensor) -> Tensor:
    """(n, d), (k, d) -> (n, k), at least 0."""
    lengths = features.square().sum(dim=1, keepdim=True) + centres.square().sum(dim=1)
    return (lengths - 2 * features @ centres.T).clamp(min=0)


def _fill_empty(mine: Tensor, nearest: Tensor, count: int) -> None:
    """Give every empty cluster an image of one that has several: `mine` (n,) changes in place."""
    sizes = mine.bincount(minlength=count)
    for empty in torch.nonzero(sizes == 0).flatten().tolist():
        shared = sizes[mine] > 1
        if not bool(shared.any()):
            return
        far = int(nearest.masked_fill(~shared, -1).argmax())
        sizes[mine[far]] -= 1
        sizes[empty] += 1
        mine[far] = empty
