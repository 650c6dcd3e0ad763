"""The rules against their naive forms, and what each promises whatever the features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rome_core.distillation import coreset_rules as rules
from rome_core.randomness import generator
from tests.rome_core.distillation import naive_coresets as naive


def points(n: int, d: int = 3, *, name: str = "points") -> Tensor:
    return torch.randn(n, d, generator=generator(0, name, n, d), dtype=torch.float64)


def starts(count: int, name: str = "start") -> list[torch.Generator]:
    return [generator(1, name, restart) for restart in range(count)]


SHAPES = [(12, 5), (30, 8), (30, 30)]


@pytest.mark.parametrize(("n", "count"), SHAPES)
def test_herding_equals_its_naive_form(n: int, count: int) -> None:
    assert rules.herding(points(n), count).tolist() == naive.herding(points(n), count)


@pytest.mark.parametrize(("n", "count"), SHAPES)
def test_k_center_equals_its_naive_form(n: int, count: int) -> None:
    found = rules.k_center(points(n), count, first=3).tolist()
    assert found == naive.k_center(points(n), count, first=3)


@pytest.mark.parametrize("restarts", [1, 4])
@pytest.mark.parametrize("limit", [2, 100])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_k_means_equals_its_naive_form(restarts: int, limit: int, count: int) -> None:
    z = points(30)
    found = rules.k_means(z, count, starts(restarts), limit).tolist()
    assert found == naive.k_means(z, count, starts(restarts), limit)


def test_the_image_nearest_to_the_mean() -> None:
    z = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.9, 0.1], [2.0, 5.0]])
    assert rules.nearest_to_mean(z) == 2


def test_herding_follows_the_mean_and_not_away_from_it() -> None:
    """argmax in the place of argmin, as in code in circulation, would take the outlier first."""
    z = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]]).double()
    assert rules.herding(z, 5).tolist()[0] == 3  # nearest to the mean, 21.2
    assert 4 not in rules.herding(z[:4], 3).tolist()
    z = points(200, 6)
    mean = z.mean(dim=0)
    ours = (z[rules.herding(z, 20)].mean(dim=0) - mean).norm()
    drawn = (z[:20].mean(dim=0) - mean).norm()
    assert ours < 0.1 * drawn


def test_k_center_radii_are_at_most_twice_the_least() -> None:
    for trial in range(5):
        z = points(9, 2, name=f"radius {trial}")
        for first in range(9):
            chosen = rules.k_center(z, 3, first).tolist()
            assert naive.radius(z, chosen) <= 2 * naive.least_radius(z, 3) + 1e-12


def test_k_means_finds_the_middles_of_clusters_far_apart() -> None:
    middles = 100 * torch.eye(5, dtype=torch.float64)
    around = 0.1 * points(4 * 5, 5).view(5, 4, 5)
    around -= around.mean(dim=1, keepdim=True)  # so that each middle is its cluster's mean
    z = torch.cat([middles[:, None], middles[:, None] + around], dim=1).flatten(0, 1)
    assert sorted(rules.k_means(z, 5, starts(3), 100).tolist()) == [0, 5, 10, 15, 20]


def test_lloyd_never_spreads_the_clusters() -> None:
    z = points(60, 4)
    centres = rules.seeds(z, 7, generator(0, "seeds"))
    spreads = [rules.cluster(z, centres, limit)[1] for limit in range(1, 8)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < spreads[0]


def test_a_cluster_that_loses_its_images_takes_the_farthest() -> None:
    """The second centre is nobody's nearest: it goes to the image that its own centre fits least.

    The third stays, for it has one image only, however far that is.
    """
    z = torch.tensor([[0.0], [1.0], [5.0], [50.0]]).double()
    centres = torch.tensor([[1.0], [-90.0], [90.0]]).double()
    moved, spread = rules.cluster(z, centres, 100)
    assert moved.flatten().tolist() == [0.5, 5.0, 50.0]
    assert spread == 0.5


def test_more_clusters_than_different_images_still_give_different_choices() -> None:
    z = torch.tensor([[0.0], [0.0], [0.0], [1.0]])
    assert sorted(rules.k_means(z, 4, starts(2), 100).tolist()) == [0, 1, 2, 3]
    assert 3 in rules.k_means(z, 2, starts(2), 100).tolist()


def test_the_most_forgotten_come_first_and_a_draw_decides_between_equals() -> None:
    counts = torch.tensor([3, 0, 7, 3, 3, 9], dtype=torch.int32)
    orders = {
        tuple(rules.most_forgotten(counts, 6, generator(seed, "ties")).tolist())
        for seed in range(30)
    }
    assert all(order[:2] == (5, 2) and order[-1] == 1 for order in orders)
    assert {order[2] for order in orders} == {0, 3, 4}
    again = [rules.most_forgotten(counts, 4, generator(2, "ties")).tolist() for _ in range(2)]
    assert again[0] == again[1]


FEATURES = st.integers(2, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=n, max_size=n)
)


@settings(max_examples=60, deadline=None)
@given(features=FEATURES, data=st.data())
def test_every_rule_chooses_different_images_whatever_coincides(
    features: list[list[int]], data: st.DataObject
) -> None:
    z = torch.tensor(features, dtype=torch.float32)
    count = data.draw(st.integers(1, len(z)))
    for chosen in (
        rules.herding(z, count),
        rules.k_center(z, count, rules.nearest_to_mean(z)),
        rules.k_means(z, count, starts(2), 20),
        rules.most_forgotten(z[:, 0], count, generator(0, "ties")),
    ):
        assert chosen.dtype == torch.int64
        assert len(set(chosen.tolist())) == count
        assert 0 <= min(chosen.tolist()) <= max(chosen.tolist()) < len(z)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(12)))
def test_the_order_of_images_decides_nothing_without_ties(order: list[int]) -> None:
    z = points(12)
    for rule in (
        lambda x: rules.herding(x, 6),
        lambda x: rules.k_center(x, 6, rules.nearest_to_mean(x)),
    ):
        assert [order[i] for i in rule(z[order]).tolist()] == rule(z).tolist()


MOVES: list[Callable[[Tensor], Tensor]] = [
    lambda z: z + 5,
    lambda z: 3 * z,
    lambda z: z[:, [2, 0, 1]],
]


@pytest.mark.parametrize("move", MOVES)
def test_origin_unit_and_axes_decide_nothing(move: Callable[[Tensor], Tensor]) -> None:
    z = points(20)
    assert rules.herding(move(z), 7).tolist() == rules.herding(z, 7).tolist()
    assert rules.k_center(move(z), 7, 2).tolist() == rules.k_center(z, 7, 2).tolist()
    found = [rules.k_means(x, 7, starts(2), 100).tolist() for x in (z, move(z))]
    assert found[0] == found[1]
