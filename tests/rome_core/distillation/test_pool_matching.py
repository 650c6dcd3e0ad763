"""IDM and BACON against their naive forms, and what all methods of the pool share."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from rome_core.data import Dataset
from rome_core.distillation import curvature, pool_matching, sides
from rome_core.distillation.bacon import Bacon
from rome_core.distillation.idm import Idm
from rome_core.distillation.pool_matching import PoolMatching
from rome_core.distillation.rome import Rome
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.recipes.bacon import BaconHyperparameters
from rome_core.recipes.idm import IdmHyperparameters
from rome_core.recipes.pool import PoolHyperparameters
from rome_core.recipes.rome import RomeHyperparameters
from tests.rome_core.distillation.conftest import tiny_dataset
from tests.rome_core.distillation.naive_bacon import NaiveBacon
from tests.rome_core.distillation.naive_idm import NaiveIdm
from tests.rome_core.distillation.naive_pool import NaivePool
from tests.rome_core.distillation.naive_rome import NaiveRome


@dataclass(frozen=True)
class Kind:
    """A method: its fast form, what it can be told, its naive form."""

    fast: type[PoolMatching[Any]]
    settings: type[PoolHyperparameters]
    naive: type[NaivePool]


KINDS: Mapping[str, Kind] = {
    "idm": Kind(Idm, IdmHyperparameters, NaiveIdm),
    "bacon": Kind(Bacon, BaconHyperparameters, NaiveBacon),
    "rome": Kind(Rome, RomeHyperparameters, NaiveRome),
}
NEW = ["idm", "bacon"]

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
    "pgd_steps": 2,
    "eval_interval": 3,
    "lr_img": 0.05,
}
ROBUST = {"perturbed": "real", "pool_training": "adversarial"}
SWITCHES: dict[str, dict[str, Any]] = {
    "released": {"perf_weight": "acc_percent", "meter": "since_evaluation", "ce_weight": 0.05},
    "robust": {**ROBUST, "perf_weight": "acc_fraction", "ce_weight": 5.0},
    "all attacked, towards a target": {
        "perturbed": "both",
        "pool_training": "both",
        "target_rule": "modC",
        "attack_domain": "reference",
        "factor": 1,
        "perf_weight": "none",
    },
    "curvature": {"curvature_of_networks": 0.3, "curvature_of_images": 0.2, "curvature_step": 0.7},
    "two networks, from noise": {"train_net_num": 2, "init": "noise", "augmentation": "none"},
}


def make(
    kind: str, dataset: Dataset, *, dtype: torch.dtype = torch.float64, ipc: int = 2, **changes: Any
) -> PoolMatching[Any]:
    settings = KINDS[kind].settings(**{**TINY, **changes})
    return KINDS[kind].fast(
        dataset, settings, ipc=ipc, seed=5, plan=plan(mode="eager", threads=1), dtype=dtype
    )


def naive(kind: str, fast: PoolMatching[Any]) -> NaivePool:
    return KINDS[kind].naive(fast.material.dataset, fast.hyperparameters, ipc=fast.ipc, seed=5)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize("kind", NEW)
def test_the_fast_form_equals_the_naive_one_step_by_step(
    kind: str, changes: dict[str, Any], tiny: Dataset
) -> None:
    fast = make(kind, tiny, image_step="per_class", **changes)
    slow = naive(kind, fast)
    start = fast.images.clone()
    for _ in range(8):  # the pool is full from iteration 0 and evicts from iteration 2
        fast.step()
        slow.step()
        torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)
        for member, network in zip(fast.pool.members, slow.pool, strict=True):
            for name, weight in network.module.state_dict().items():
                torch.testing.assert_close(member.weights[name], weight, rtol=0, atol=1e-11)
    assert (fast.images - start).abs().max() > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        SWITCHES["curvature"],
        {"perturbed": "none", "pool_training": "clean"},
    ],
    ids=["curvature", "no attack"],
)
def test_rome_has_what_the_others_have(changes: dict[str, Any], tiny: Dataset) -> None:
    fast = make("rome", tiny, image_step="per_class", **changes)
    slow = naive("rome", fast)
    for _ in range(3):
        fast.step()
        slow.step()
    torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kind", "lr"), [("idm", 0.02), ("bacon", 0.02)])
def test_the_batched_step_equals_the_sequential_one_but_for_the_tail(kind: str, lr: float) -> None:
    """As for ROME: after ten classes hardly anything of the first one's gradient is to come."""
    small: dict[str, Any] = {
        "network": "convnet-d1-w4",
        "factor": 1,
        "batch_real": 4,
        "fetch_net_num": 1,
        "model_train_steps": 1,
        "lr_img": lr,
    }
    fast = make(kind, tiny_dataset(classes=10, per_class=4), ipc=1, **small)
    slow = naive(kind, fast)
    start = fast.images.clone()
    for _ in range(50):
        fast.step()
        slow.step()
    moved = (fast.images - start).abs().max()
    first = fast.images[0] - slow.images[0].detach()
    assert first.abs().max() < 1e-4 * moved


@pytest.mark.parametrize("kind", NEW)
def test_groups_change_nothing(kind: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = (make(kind, tiny, **ROBUST, **SWITCHES["curvature"]) for _ in range(2))
    for _ in range(2):
        together.step()
    monkeypatch.setattr(sides, "REAL_GROUP", 7)
    monkeypatch.setattr(pool_matching, "SYNTHETIC_GROUP", 9)
    monkeypatch.setattr(curvature, "GROUP", 5)
    for _ in range(2):
        apart.step()
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize(
    "changes",
    [{"meter": "since_evaluation", "image_step": "per_class"}, {**ROBUST, **SWITCHES["curvature"]}],
    ids=["released", "robust"],
)
def test_a_resumed_run_is_the_undisturbed_one(
    kind: str, changes: dict[str, Any], tiny: Dataset
) -> None:
    whole, first, second = (make(kind, tiny, dtype=torch.float32, **changes) for _ in range(3))
    for _ in range(6):
        whole.step()
    for _ in range(3):
        first.step()
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    for _ in range(3):
        second.step()
    assert torch.equal(second.images, whole.images)
    torch.testing.assert_close(second.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", NEW)
def test_what_is_not_attacked_costs_no_attack(
    kind: str, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither passes nor draws, and not even a target rule that fits."""

    def never(*args: object, **more: object) -> None:
        raise AssertionError("an attack")

    monkeypatch.setattr("rome_core.distillation.perturbation.Perturbation.__call__", never)
    monkeypatch.setattr("rome_core.distillation.perturbation.Perturbation.noise", never)
    plain = make(kind, tiny, target_rule="mod10")
    # 3 classes of 6 real images embedded, 24 decoded ones, and two networks of 2 steps on 8 images.
    assert plain.step()["images"] == 18 + 24 + 2 * 2 * 8
    with pytest.raises(CoreError) as caught:
        make(kind, tiny, target_rule="mod10", **ROBUST)
    assert caught.value.code == "target_out_of_range"


def test_passes_of_attacks_and_curvature_are_counted(tiny: Dataset) -> None:
    fast = make("idm", tiny, perturbed="real", pool_training="both", **SWITCHES["curvature"])
    # 18 real images through 2 PGD steps and one embedding; 24 decoded ones, twice more for their
    # curvature; 32 images of the pool through 2 PGD steps, and 64 learned from, curvature included.
    assert fast.step()["images"] == 18 * 3 + 24 * 3 + 32 * 2 + 64 * 3


@pytest.mark.parametrize(
    ("perf_weight", "scale"), [("acc_percent", 100.0), ("acc_fraction", 1.0), ("none", None)]
)
@pytest.mark.parametrize("kind", NEW)
def test_the_cross_entropy_weighs_as_much_as_the_network_knows(
    kind: str, perf_weight: str, scale: float | None, tiny: Dataset
) -> None:
    """One network, trained to a known accuracy: the scalars of the next iteration add up."""
    fast = make(
        kind,
        tiny,
        perf_weight=perf_weight,
        ce_weight=0.3,
        net_begin=0,
        net_num=1,
        net_generate_interval=50,
        fetch_net_num=1,
        meter_decay=0.5,
    )
    first = fast.step()
    weight = 1.0 if scale is None else 0.0  # nothing is known yet
    expected = first["matching_loss"] + 0.3 * weight * first["performance_loss"]
    assert first["loss"] == pytest.approx(expected, rel=1e-12)
    (member,) = fast.pool.members
    member.meter.record(3, 4)
    known = member.meter.accuracy
    assert 0.3 < known < 1
    second = fast.step()
    weight = 1.0 if scale is None else scale * known
    expected = second["matching_loss"] + 0.3 * weight * second["performance_loss"]
    assert second["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", NEW)
def test_a_curvature_joins_the_loss(kind: str, tiny: Dataset) -> None:
    scalars = make(kind, tiny, curvature_of_images=2.0, perf_weight="none").step()
    expected = scalars["matching_loss"] + 0.5 * scalars["performance_loss"]
    assert scalars["curvature"] > 1e-3
    assert scalars["loss"] == pytest.approx(expected + 2 * scalars["curvature"], rel=1e-12)
    assert "curvature" not in make(kind, tiny).step()


@pytest.mark.parametrize("kind", NEW)
def test_a_set_says_what_made_it(kind: str, tiny: Dataset) -> None:
    made = make(kind, tiny).synthetic_set()
    assert (made.method, made.factor, made.ipc) == (kind, 2, 2)
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", NEW)
def test_held_out_images_change_nothing(kind: str, tiny: Dataset) -> None:
    """Neither the images nor the pool may learn from what iterates are judged on."""
    settings: dict[str, Any] = {"selection": "holdout", "holdout": 0.25, "batch_train": 20}
    clean = make(kind, tiny, **settings)
    pixels = tiny.train_images.clone()
    pixels[clean.held_out] = 1 - pixels[clean.held_out]
    poisoned = make(kind, replace(tiny, train_images=pixels), **settings)
    assert len(clean.held_out) == 9
    for _ in range(3):
        assert clean.step() == poisoned.step()
    torch.testing.assert_close(clean.state_dict(), poisoned.state_dict(), rtol=0, atol=0)
