"""The fast form against the naive one, and what ROME promises beside equality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rome_core.data import Dataset
from rome_core.distillation import pool_matching, sides
from rome_core.distillation.rome import Rome, l2, tv2
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.recipes.rome import RomeHyperparameters
from tests.rome_core.distillation.conftest import tiny_dataset
from tests.rome_core.distillation.naive_rome import NaiveRome, decode

TINY: dict[str, Any] = {
    "iterations": 50,
    "network": "convnet-d2-w8",
    "batch_real": 6,
    "batch_train": 8,
    "net_begin": 2,
    "net_num": 3,
    "net_generate_interval": 2,
    "model_train_steps": 2,
    "lr_net": 0.05,
    "pgd_steps": 3,
    "eval_interval": 3,
    "lr_img": 0.05,
}
RELEASED = {
    "attack_domain": "reference",
    "image_step": "per_class",
    "pgd_step": "2/225",
    "perf_weight": "acc_percent",
    "meter": "since_evaluation",
}
SWITCHES: dict[str, dict[str, Any]] = {
    "released": RELEASED,
    "pixel": {"attack_domain": "pixel", "image_step": "per_class", "perf_weight": "acc_fraction"},
    "untargeted": {**RELEASED, "target_rule": "untargeted"},
    "l2, no weight": {"image_step": "per_class", "rob_loss": "l2", "perf_weight": "none"},
    "plain images": {"image_step": "per_class", "factor": 1, "augmentation": "none"},
    "clean pool": {**RELEASED, "pool_training": "clean"},
    "pool of both": {"image_step": "per_class", "pool_training": "both"},
    "synthetic perturbed": {**RELEASED, "perturbed": "synthetic"},
    "both perturbed": {"image_step": "per_class", "perturbed": "both"},
    "two networks matched": {"image_step": "per_class", "train_net_num": 2},
    "whole classes": {"image_step": "per_class", "batch_real": 1000},
    "from noise": {"image_step": "per_class", "init": "noise"},
}


def make(
    dataset: Dataset, *, ipc: int = 2, dtype: torch.dtype = torch.float64, **changes: Any
) -> Rome:
    hyperparameters = RomeHyperparameters(**{**TINY, **changes})
    return Rome(dataset, hyperparameters, ipc=ipc, seed=5, plan=plan(mode="eager"), dtype=dtype)


def naive(fast: Rome, dtype: torch.dtype = torch.float64) -> NaiveRome:
    return NaiveRome(fast.material.dataset, fast.hyperparameters, ipc=fast.ipc, seed=5, dtype=dtype)


def assert_equal_pools(fast: Rome, slow: NaiveRome, tolerance: float) -> None:
    assert len(fast.pool) == len(slow.pool)
    for member, network in zip(fast.pool.members, slow.pool, strict=True):
        for name, weight in network.module.state_dict().items():
            torch.testing.assert_close(member.weights[name], weight, rtol=0, atol=tolerance)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
def test_the_fast_form_equals_the_naive_one_step_by_step(
    tiny: Dataset, changes: dict[str, Any]
) -> None:
    fast = make(tiny, **changes)
    slow = naive(fast)
    start = fast.images.clone()
    torch.testing.assert_close(start, slow.images.detach(), rtol=0, atol=1e-14)
    for _ in range(8):  # the pool is full from iteration 0 and evicts from iteration 2
        fast.step()
        slow.step()
        torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-11)
        assert_equal_pools(fast, slow, 1e-12)
    assert (fast.images - start).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [{"pgd_step": "0", "pgd_epsilon": "0"}, {}],
    ids=["no attack", "attacks"],
)
def test_float32_stays_within_rounding_of_the_naive_float64_form(
    tiny: Dataset, changes: dict[str, Any]
) -> None:
    """An attack follows signs, and that of a gradient near zero may differ between precisions: not
    on these images.
    """
    fast = make(tiny, dtype=torch.float32, **{**RELEASED, **changes})
    slow = naive(fast)
    for _ in range(5):
        fast.step()
        slow.step()
    torch.testing.assert_close(fast.images.double(), slow.images.detach(), rtol=0, atol=2e-6)


def test_the_published_target_rule_with_ten_classes() -> None:
    fast = make(tiny_dataset(classes=10, per_class=4), ipc=1, **RELEASED, target_rule="mod10")
    slow = naive(fast)
    for _ in range(2):
        fast.step()
        slow.step()
    torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-11)


def test_groups_of_classes_change_nothing(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = make(tiny), make(tiny)
    for _ in range(3):
        together.step()
    monkeypatch.setattr(sides, "REAL_GROUP", 7)
    monkeypatch.setattr(pool_matching, "SYNTHETIC_GROUP", 9)
    for _ in range(3):
        apart.step()
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=1e-12)


# Ten classes, for the tail of the momentum is momentum^classes: 0.1 % here.
TAIL = {
    "network": "convnet-d1-w4",
    "factor": 1,
    "batch_real": 4,
    "pgd_steps": 1,
    "fetch_net_num": 1,
    "model_train_steps": 1,
    "perf_weight": "none",
}


@pytest.mark.parametrize(("loss", "lr"), [("l2", 0.05), ("tv2", 0.005)])
def test_the_batched_step_equals_the_sequential_one_but_for_the_tail(loss: str, lr: float) -> None:
    """Zhao et al.'s loop moves class c by lr (1 + m + m^2 + ...) of its gradient before it is seen
    again, cut off after C terms. What is left at the end is the velocity still to come.

    tv2 has kinks, where the least difference turns a gradient over: lr keeps clear of them.
    """
    ten = tiny_dataset(classes=10, per_class=4)
    fast = make(ten, ipc=1, rob_loss=loss, lr_img=lr, **TAIL)
    slow = naive(fast)
    start = fast.images.clone()
    for _ in range(50):
        fast.step()
        slow.step()
    sequential = slow.images.detach()
    momentum = fast.hyperparameters.momentum
    velocity = slow.optimiser.state[slow.images]["momentum_buffer"]
    to_come = lr * momentum / (1 - momentum) * velocity
    moved = (fast.images - start).abs().max().item()
    torch.testing.assert_close(fast.images, sequential - to_come, rtol=0, atol=2e-5 * moved)
    # The first class has had ten steps since its gradient, so hardly anything is to come.
    first = fast.images[0] - sequential[0]
    assert first.abs().max() < 1e-4 * moved


def test_the_losses_on_fixed_tensors() -> None:
    synthetic = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    real = torch.tensor([[0.0, 1.0, 0.5], [3.0, 4.0, 0.0]])
    # Half of 1 + 3 + 0, squared; half of 3 + 4 + 0, squared.
    assert tv2(synthetic, real).tolist() == [4.0, 12.25]
    assert l2(synthetic, real).tolist() == [10.0, 25.0]


def test_the_start_packs_four_half_size_real_images(tiny: Dataset) -> None:
    method = make(tiny, ipc=2)
    decoded = decode(method.images[:2])  # class 0, blocks of two
    halves = torch.nn.functional.avg_pool2d(
        tiny.normalise(tiny.train_images[tiny.train_labels == 0]).double(), 2
    )
    for tile in method.images[:2].unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).unbind(2):
        for one in tile:
            assert any(torch.allclose(one, real) for real in halves)
    assert decoded.shape == (8, 3, 8, 8)


def test_a_start_from_noise_is_normal(tiny: Dataset) -> None:
    method = make(tiny, ipc=12, init="noise")
    assert method.images.shape == (36, 3, 8, 8)
    assert abs(method.images.std().item() - 1) < 0.05


def test_equal_seeds_equal_runs_and_other_seeds_do_not(tiny: Dataset) -> None:
    first, second = make(tiny), make(tiny)
    other = Rome(tiny, first.hyperparameters, ipc=2, seed=6, plan=plan(mode="eager"))
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images.float(), other.images)
    first.step()
    second.step()
    assert torch.equal(first.images, second.images)


def test_a_synthetic_set_is_a_copy_in_normalised_units(tiny: Dataset) -> None:
    method = make(tiny)
    synthetic = method.synthetic_set()
    before = synthetic.images.clone()
    method.step()
    assert torch.equal(synthetic.images, before)
    assert synthetic.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert (synthetic.factor, synthetic.ipc, synthetic.dataset) == (2, 2, "tiny")
    assert synthetic.space is tiny.space


def test_held_out_images_change_nothing(tiny: Dataset) -> None:
    """Neither the images nor the pool may learn from what iterates are judged on."""
    settings: dict[str, Any] = {"selection": "holdout", "holdout": 0.25, "batch_train": 20}
    clean = make(tiny, **settings)
    pixels = tiny.train_images.clone()
    pixels[clean.held_out] = 1 - pixels[clean.held_out]
    poisoned = make(replace(tiny, train_images=pixels), **settings)
    assert torch.equal(clean.images, poisoned.images)
    for _ in range(4):
        assert clean.step() == poisoned.step()
    torch.testing.assert_close(clean.state_dict(), poisoned.state_dict(), rtol=0, atol=0)


def test_held_out_images_are_never_drawn(tiny: Dataset) -> None:
    method = make(tiny, selection="holdout", holdout=0.25)
    assert len(method.held_out) == 9  # three of twelve in each of three classes
    used = torch.cat(method.material.members)
    assert not set(method.held_out.tolist()) & set(used.tolist())
    assert sorted([*method.held_out.tolist(), *used.tolist()]) == list(range(36))
    assert len(make(tiny).held_out) == 0


def test_scalars_are_finite_and_count_every_pass(tiny: Dataset) -> None:
    scalars = make(tiny).step()
    assert all(map(torch.isfinite, map(torch.tensor, scalars.values())))
    assert 0 <= scalars["pool_accuracy"] <= 1
    # 3 classes of 6 real images through 3 PGD steps and one embedding, 24 decoded ones, and two
    # networks of 2 steps on 8 images through 3 PGD steps and one update.
    assert scalars["images"] == 18 * 4 + 24 + 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("ipc", "changes", "code"),
    [
        (13, {}, "class_too_small"),
        (13, {"init": "noise"}, "class_too_small"),
        (10, {"selection": "holdout", "holdout": 0.5}, "class_too_small"),
        (1, {"target_rule": "mod10"}, "target_out_of_range"),
        (1, {"network": "convnet-d4"}, "network_too_deep"),
    ],
)
def test_what_a_dataset_cannot_serve_is_an_error(
    tiny: Dataset, ipc: int, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(CoreError) as caught:
        make(tiny, ipc=ipc, **changes)
    assert caught.value.code == code


def test_an_odd_size_cannot_be_packed() -> None:
    odd = tiny_dataset(size=9)
    with pytest.raises(CoreError, match="factor=1"):
        make(odd)
    assert make(odd, factor=1).images.shape == (6, 3, 9, 9)


def test_divergence_is_named(tiny: Dataset) -> None:
    method = make(tiny, lr_img=1e3, rob_loss="l2", ce_weight=1e4, perf_weight="none", alpha=1.0)
    method.images.fill_(float("inf"))
    with pytest.raises(CoreError, match="lr_img"):
        method.step()
