"""The fast form against the naive one, and what DM promises beside equality."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch

from rome_core.data import Dataset
from rome_core.distillation import dm, sides
from rome_core.distillation.dm import Dm
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.recipes.dm import DmHyperparameters
from tests.rome_core.distillation.conftest import tiny_dataset
from tests.rome_core.distillation.naive_dm import NaiveDm

TINY: dict[str, Any] = {
    "iterations": 50,
    "network": "convnet-d2-w8",
    "batch_real": 6,
    "lr_img": 0.5,
    "pgd_steps": 3,
    "eval_interval": 3,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "published": {},
    "packed": {"factor": 2},
    "no augmentation, no momentum": {"augmentation": "none", "momentum": 0.0},
    "three networks": {"networks_per_iteration": 3},
    "whole classes": {"batch_real": 1000},
    "from noise": {"init": "noise"},
    "real attacked": {"perturbed": "real"},
    "synthetic attacked": {"perturbed": "synthetic", "target_rule": "modC"},
    "both attacked": {"perturbed": "both", "attack_domain": "reference", "factor": 2},
    "curvature": {"curvature_of_images": 10.0, "curvature_step": 0.5},
}


def make(
    dataset: Dataset, *, ipc: int = 2, dtype: torch.dtype = torch.float64, **changes: Any
) -> Dm:
    hyperparameters = DmHyperparameters(**{**TINY, **changes})
    return Dm(dataset, hyperparameters, ipc=ipc, seed=5, plan=plan(mode="eager"), dtype=dtype)


def naive(fast: Dm) -> NaiveDm:
    return NaiveDm(fast.material.dataset, fast.hyperparameters, ipc=fast.ipc, seed=5)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
def test_the_fast_form_equals_the_naive_one_step_by_step(
    tiny: Dataset, changes: dict[str, Any]
) -> None:
    fast = make(tiny, **changes)
    slow = naive(fast)
    start = fast.images.clone()
    torch.testing.assert_close(start, slow.images.detach(), rtol=0, atol=1e-14)
    for _ in range(8):
        fast.step()
        slow.step()
        torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)
    assert (fast.images - start).abs().max() > 1e-3


def test_float32_stays_within_rounding_of_the_naive_float64_form(tiny: Dataset) -> None:
    fast = make(tiny, dtype=torch.float32)
    slow = naive(fast)
    for _ in range(5):
        fast.step()
        slow.step()
    torch.testing.assert_close(fast.images.double(), slow.images.detach(), rtol=0, atol=5e-6)


def test_groups_of_classes_change_nothing(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = make(tiny), make(tiny)
    for _ in range(3):
        together.step()
    monkeypatch.setattr(sides, "REAL_GROUP", 7)
    monkeypatch.setattr(dm, "SYNTHETIC_GROUP", 3)
    for _ in range(3):
        apart.step()
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ipc", [1, 5])
def test_any_number_of_images_will_do(tiny: Dataset, ipc: int) -> None:
    """The released code crashes at 1 and refuses 5."""
    method = make(tiny, ipc=ipc)
    method.step()
    assert method.synthetic_set().images.shape == (3 * ipc, 3, 8, 8)


@pytest.mark.parametrize("changes", [{}, {"perturbed": "both", "networks_per_iteration": 2}])
def test_a_resumed_run_ends_as_an_undisturbed_one(tiny: Dataset, changes: dict[str, Any]) -> None:
    whole = make(tiny, dtype=torch.float32, **changes)
    for _ in range(6):
        whole.step()
    first = make(tiny, dtype=torch.float32, **changes)
    for _ in range(3):
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(tiny, dtype=torch.float32, **changes)
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        second.step()
    assert torch.equal(whole.images, second.images)
    assert torch.equal(whole.state_dict()["velocity"], second.state_dict()["velocity"])


def test_more_networks_an_iteration_give_a_steadier_gradient(tiny: Dataset) -> None:
    """Gradients of one step from different seeds scatter less about their mean."""

    def scatter(count: int) -> float:
        moves = []
        for seed in range(6):
            settings = {"batch_real": 12, "augmentation": "none", "networks_per_iteration": count}
            hyperparameters = DmHyperparameters(**{**TINY, **settings})
            method = Dm(tiny, hyperparameters, ipc=2, seed=seed, plan=plan(mode="eager"))
            method.images.zero_()  # all from one point, and by whole classes: networks differ alone
            method.step()
            moves.append(method.images.clone())
        stacked = torch.stack(moves)
        return float((stacked - stacked.mean(dim=0)).square().sum().sqrt())

    assert scatter(8) < 0.6 * scatter(1)


def test_the_loss_is_of_all_classes_and_falls(tiny: Dataset) -> None:
    method = make(tiny, augmentation="none", batch_real=12, init="noise", lr_img=2.0)
    losses = [method.step()["loss"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_held_out_images_change_nothing(tiny: Dataset) -> None:
    settings: dict[str, Any] = {"selection": "holdout", "holdout": 0.25, "batch_real": 20}
    clean = make(tiny, **settings)
    assert len(clean.held_out) == 9  # three of twelve in each of three classes
    pixels = tiny.train_images.clone()
    pixels[clean.held_out] = 1 - pixels[clean.held_out]
    poisoned = make(replace(tiny, train_images=pixels), **settings)
    for _ in range(3):
        assert clean.step() == poisoned.step()
    assert torch.equal(clean.images, poisoned.images)
    assert len(make(tiny).held_out) == 0


def test_a_whitened_set_is_matched_in_its_own_units(tiny: Dataset) -> None:
    whitened = tiny.whitened()
    method = make(whitened, whitening="zca")
    first = tiny.train_images[tiny.train_labels == 0].double()
    assert any(
        torch.allclose(method.images[0], one, atol=1e-6)
        for one in whitened.space.from_pixels(first)
    )
    method.step()


def test_scalars_count_every_pass(tiny: Dataset) -> None:
    scalars = make(tiny).step()
    assert set(scalars) == {"loss", "images"}
    assert scalars["images"] == 18 + 6
    bent = make(tiny, perturbed="real", curvature_of_images=1.0, networks_per_iteration=2).step()
    # 18 real images through 3 PGD steps and one embedding, 6 synthetic ones through three passes.
    assert bent["images"] == 2 * (18 * 4 + 6 * 3)
    assert bent["loss"] == pytest.approx(bent["matching_loss"] + bent["curvature"], rel=1e-9)


@pytest.mark.parametrize(
    ("ipc", "changes", "code"),
    [
        (13, {}, "class_too_small"),
        (10, {"selection": "holdout", "holdout": 0.5}, "class_too_small"),
        (1, {"perturbed": "real", "target_rule": "mod10"}, "target_out_of_range"),
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
    with pytest.raises(CoreError, match="factor=1"):
        make(tiny_dataset(size=9), factor=2)


def test_divergence_is_named(tiny: Dataset) -> None:
    method = make(tiny)
    method.images.fill_(float("inf"))
    with pytest.raises(CoreError, match="lr_img") as caught:
        method.step()
    assert caught.value.code == "diverged"
