"""BACON's loss: the likelihood as a distribution has it, where that can be computed and beyond."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from rome_core.distillation.bacon import Bacon, negative_log_likelihood, total_variation
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.randomness import generator
from rome_core.recipes.bacon import BaconHyperparameters
from tests.rome_core.distillation.conftest import tiny_dataset


def some(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=generator(1, *shape), dtype=torch.float64)


def test_the_likelihood_is_a_gaussians_with_the_exponential_for_its_scale() -> None:
    difference, std = some(3, 5, scale=4).requires_grad_(), some(3, 7)[:, :5].abs()
    ours = negative_log_likelihood(difference, std)
    theirs = -Normal(torch.zeros_like(std), std.exp()).log_prob(difference).sum(dim=1)
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(ours.sum(), difference, retain_graph=True)
    (expected,) = torch.autograd.grad(theirs.sum(), difference)
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("far", [14.0, 1e4])
def test_it_is_finite_where_the_density_is_zero(far: float) -> None:
    """The released code takes log(exp(log density)), in float32."""
    difference = torch.full((1, 2), far, requires_grad=True)
    std = torch.zeros(1, 2)
    density = Normal(std, std.exp()).log_prob(difference).exp()
    (released,) = torch.autograd.grad(-density.log().sum(), difference)
    assert not released.isfinite().all()
    loss = negative_log_likelihood(difference, std)
    (gradient,) = torch.autograd.grad(loss.sum(), difference)
    assert loss.isfinite().all()
    torch.testing.assert_close(gradient, difference.detach())


def test_a_wide_spread_takes_the_weight_away() -> None:
    difference = torch.tensor([[3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(
        negative_log_likelihood(difference, torch.tensor([[200.0]])).sum(), difference
    )
    assert gradient.item() == 0


def test_the_variation_is_half_the_l1_norm() -> None:
    assert total_variation(torch.tensor([[1.0, -3.0, 0.0], [0.0, 0.0, 0.5]])).tolist() == [2, 0.25]


SMALL: dict[str, Any] = {
    "network": "convnet-d1-w4",
    "net_begin": 1,
    "net_num": 2,
    "fetch_net_num": 1,
    "factor": 1,
    "batch_real": 4,
    "batch_train": 4,
    "model_train_steps": 1,
}


def make(per_class: int, **changes: Any) -> Bacon:
    settings = BaconHyperparameters(**{**SMALL, **changes})
    dataset = tiny_dataset(per_class=per_class)
    return Bacon(dataset, settings, ipc=1, seed=5, plan=plan(mode="eager", threads=1))


def test_the_spread_is_unbiased_and_of_the_real_images() -> None:
    embeddings = some(6, 4)
    mean, std = make(4).summarise(embeddings)
    torch.testing.assert_close(mean, embeddings.sum(dim=0) / 6)
    torch.testing.assert_close(std.square(), (embeddings - mean).square().sum(dim=0) / 5)


def test_a_spread_takes_two_images() -> None:
    make(2).step()
    for method in (lambda: make(1), lambda: make(2, selection="holdout", holdout=0.5)):
        with pytest.raises(CoreError) as caught:
            method()
        assert (caught.value.code, caught.value.field) == ("class_too_small", "dataset")


def test_weights_of_the_terms() -> None:
    bacon = make(4, tv_weight=0.7)
    synthetic, real = some(3, 5), torch.stack([some(3, 5, scale=2), some(3, 5).abs()])
    difference = synthetic - real[0]
    expected = negative_log_likelihood(difference, real[1]) + 0.7 * total_variation(difference)
    torch.testing.assert_close(bacon.matching(synthetic, real), expected)
