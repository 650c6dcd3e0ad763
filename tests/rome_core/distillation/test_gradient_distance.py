"""The distances against row loops and hand-made numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rome_core.distillation.gradient_distance import cos, layerwise, mse
from rome_core.randomness import generator
from tests.rome_core.distillation.naive_gradient_matching import cosine, rows_apart

SHAPES = {
    "conv.weight": (4, 3, 2, 2),
    "conv.bias": (4,),
    "group.weight": (4,),
    "layer.weight": (4, 2, 2),
    "layer.bias": (4, 2, 2),
    "linear.weight": (3, 16),
    "linear.bias": (3,),
}


def gradients(k: int, name: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    made = generator(0, "distances", name)
    return {
        weight: torch.randn(k, *shape, dtype=dtype, generator=made)
        for weight, shape in SHAPES.items()
    }


def test_the_layerwise_distance_is_a_sum_over_rows_of_matrices() -> None:
    one, other = gradients(5, "one"), gradients(5, "other")
    expected = [
        sum(
            rows_apart(one[name][c], other[name][c])
            for name, shape in SHAPES.items()
            if len(shape) > 1
        )
        for c in range(5)
    ]
    torch.testing.assert_close(layerwise(one, other), torch.stack(expected), rtol=0, atol=1e-12)


def test_vectors_count_nothing_in_it() -> None:
    one, other = gradients(2, "one"), gradients(2, "other")
    before = layerwise(one, other)
    for name in ("conv.bias", "group.weight", "linear.bias"):
        other[name] = -7 * other[name]
    assert torch.equal(layerwise(one, other), before)
    other["layer.bias"] = -other["layer.bias"]
    assert not torch.equal(layerwise(one, other), before)


def test_scale_counts_nothing_but_for_the_floor() -> None:
    one = gradients(2, "one")
    scaled = {name: 3 * value for name, value in one.items()}
    rows = 4 + 4 + 4 + 3
    assert layerwise(one, scaled).abs().max() < 1e-5
    opposite = {name: -value for name, value in one.items()}
    torch.testing.assert_close(
        layerwise(one, opposite),
        torch.full((2,), 2.0 * rows, dtype=torch.float64),
        atol=1e-4,
        rtol=0,
    )


def test_hand_made_numbers() -> None:
    """(3, 4) and (4, 3): cosine 24 / (25 + 1e-6); with the bias 1 against 2, |d|^2 = 1 + 1 + 1."""
    one = {"weight": torch.tensor([[[3.0, 4.0]]]).double(), "bias": torch.tensor([[1.0]]).double()}
    other = {
        "weight": torch.tensor([[[4.0, 3.0]]]).double(),
        "bias": torch.tensor([[2.0]]).double(),
    }
    assert layerwise(one, other).tolist() == [pytest.approx(1 - 24 / 25.000001, abs=1e-15)]
    assert mse(one, other).tolist() == [3.0]
    assert cos(one, other).tolist() == [
        pytest.approx(1 - 26 / (26**0.5 * 29**0.5 + 1e-6), abs=1e-15)
    ]


def test_the_others_look_at_all_weights_as_one_vector() -> None:
    one, other = gradients(3, "one"), gradients(3, "other")
    for c in range(3):
        a, b = (torch.cat([v[c].reshape(-1) for v in g.values()]) for g in (one, other))
        torch.testing.assert_close(cos(one, other)[c], cosine(a, b), rtol=0, atol=1e-14)
        torch.testing.assert_close(mse(one, other)[c], ((a - b) ** 2).sum(), rtol=1e-14, atol=0)


def test_a_row_without_gradient_has_a_finite_slope() -> None:
    one, other = gradients(1, "one"), gradients(1, "other")
    one["conv.weight"][0, 0] = 0
    leaf = one["conv.weight"].requires_grad_()
    (slope,) = torch.autograd.grad(layerwise(one, other).sum(), leaf)
    assert slope.isfinite().all()
