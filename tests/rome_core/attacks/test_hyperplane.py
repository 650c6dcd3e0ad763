"""The step onto a hyperplane against a search by halving, value by value, and its definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rome_core.attacks.hyperplane import step_onto
from rome_core.randomness import generator

NORMS = ["linf", "l2"]


def case(seed: int, m: int = 1, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points with values at both walls, and normals with zeros and very small values."""
    draw = generator(seed)
    points = torch.rand(m, 3, 4, 4, generator=draw, dtype=torch.float64) * 1.4 - 0.2
    normals = torch.randn(m, 3, 4, 4, generator=draw, dtype=torch.float64)
    kind = torch.randint(0, 4, normals.shape, generator=draw)
    normals = torch.where(kind == 0, 0, torch.where(kind == 1, normals * 1e-9, normals))
    return points.clamp(0, 1), normals * scale


def far(points: Tensor, normals: Tensor, sign: int) -> float:
    """How much normal . d can be at most, or at least, for one point."""
    target = (normals * sign > 0).double()
    return float((normals * torch.where(normals == 0, 0, target - points)).sum())


def slow(norm: str, point: Tensor, normal: Tensor, gap: float) -> Tensor:
    """By halving, for one point: each value moves for as long as the others, up to its wall."""
    sign = 1 if gap >= 0 else -1

    def after(time: float) -> Tensor:
        step = torch.zeros_like(point).flatten()
        for k, (t, w) in enumerate(zip(point.flatten(), normal.flatten() * sign, strict=True)):
            pace = float(w.sign()) if norm == "linf" else float(w)
            step[k] = min(max(float(t) + time * pace, 0.0), 1.0) - float(t)
        return step.view_as(point)

    low, high = 0.0, 1.0 if norm == "linf" else 1e12
    for _ in range(120):
        middle = (low + high) / 2
        if float((normal * after(middle)).sum()) * sign < gap * sign:
            low = middle
        else:
            high = middle
    return after(high)


@pytest.mark.parametrize("share", [-2.0, -0.9, -0.3, 0.0, 0.01, 0.5, 0.99, 3.0])
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_the_search_by_halving(norm: str, share: float):
    for seed in range(3):
        points, normals = case(seed)
        gap = abs(share) * far(points, normals, 1 if share > 0 else -1)
        made = step_onto(norm, points, normals, torch.tensor([gap], dtype=torch.float64))
        expected = slow(norm, points[0], normals[0], gap)
        moving = normals[0].abs() > 1e-6  # the rest moves at a pace that halving cannot resolve
        torch.testing.assert_close(made[0][moving], expected[moving], rtol=0, atol=1e-7)
        assert not made[0][normals[0] == 0].any()


@given(seed=st.integers(0, 99), share=st.floats(-1.5, 1.5), norm=st.sampled_from(NORMS))
def test_it_stays_in_the_box_and_meets_the_plane_where_the_box_does(
    seed: int, share: float, norm: str
):
    points, normals = case(seed)
    gap = abs(share) * far(points, normals, 1 if share > 0 else -1)
    made = step_onto(norm, points, normals, torch.tensor([gap], dtype=torch.float64))
    assert (points + made).min() >= -1e-15
    assert (points + made).max() <= 1 + 1e-15
    reachable = min(max(gap, far(points, normals, -1)), far(points, normals, 1))
    assert float((normals * made).sum()) == pytest.approx(reachable, abs=1e-9)


@given(seed=st.integers(0, 99), share=st.floats(0.05, 0.95), norm=st.sampled_from(NORMS))
def test_no_other_step_onto_the_plane_is_shorter(seed: int, share: float, norm: str):
    points, normals = case(seed)
    normals = torch.where(normals.abs() < 1e-6, 0, normals)
    gap = share * far(points, normals, 1)
    made = step_onto(norm, points, normals, torch.tensor([gap], dtype=torch.float64))

    def size(step: Tensor) -> float:
        return float(step.abs().max() if norm == "linf" else step.norm())

    # Pairs of values that trade what they gain keep to the plane: none of these steps is shorter.
    draw = generator(seed, "trades")
    moved = normals.flatten().nonzero()[:, 0]
    for _ in range(20):
        i, j = moved[torch.randperm(len(moved), generator=draw)[:2]]
        other = made.flatten().clone()
        trade = float(torch.rand((), generator=draw, dtype=torch.float64) - 0.5) * 1e-3
        other[i] += trade / normals.flatten()[i]
        other[j] -= trade / normals.flatten()[j]
        there = points.flatten() + other
        if there.min() >= 0 and there.max() <= 1:
            assert size(other) >= size(made) - 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_points_do_not_depend_on_one_another(norm: str):
    points, normals = case(7, m=6)
    gaps = torch.tensor([0.1, -2.0, 0.0, 50.0, 1.0, -0.5], dtype=torch.float64)
    whole = step_onto(norm, points, normals, gaps)
    for k in range(6):
        alone = step_onto(norm, points[k : k + 1], normals[k : k + 1], gaps[k : k + 1])
        torch.testing.assert_close(alone[0], whole[k], rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_the_scale_of_a_gradient_does_not_matter(norm: str, dtype: torch.dtype):
    """Squares of a saturated network's gradients underflow in float32."""
    points, normals = (t.to(dtype) for t in case(8, m=3))
    gaps = torch.tensor([0.2, -1.0, 3.0], dtype=dtype)
    plain = step_onto(norm, points, normals, gaps)
    small = step_onto(norm, points, normals * 1e-25, gaps * 1e-25)
    torch.testing.assert_close(small, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_there_is_no_step(norm: str):
    points, _ = case(9, m=2)
    for gap in (0.0, 1.0):
        step = step_onto(norm, points, torch.zeros_like(points), torch.full((2,), gap).double())
        assert torch.equal(step, torch.zeros_like(points))
