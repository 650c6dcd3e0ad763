"""The fast form against the naive one, and what BPTT promises beside equality."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from rome_core.data import Dataset
from rome_core.distillation.bptt import Bptt
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.recipes.bptt import BpttHyperparameters
from tests.rome_core.distillation.conftest import tiny_dataset
from tests.rome_core.distillation.naive_bptt import NaiveBptt

TINY: dict[str, Any] = {
    "iterations": 50,
    "network": "convnet-d2-w8",
    "unroll": 6,
    "window": 3,
    "batch_real": 10,
    "lr_img": 0.02,
    "lr_labels": 0.05,
    "lr_student": 0.1,
    "lr_lr": 0.02,
    "eval_interval": 3,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "everything learned": {},
    "hard labels, fixed step size": {"labels": "classes", "lr_lr": 0.0},
    "the whole training": {"unroll": 4, "window": 4},
    "mini-batches": {"batch_syn": 4},
    "attacked": {"perturbed": "real", "pgd_steps": 2, "pgd_step": "4/255"},
    "from noise, not augmented": {"init": "noise", "augmentation": "none", "confidence": 0.9},
    "all real images": {"batch_real": 1000},
}


def make(
    dataset: Dataset, *, ipc: int = 2, dtype: torch.dtype = torch.float64, **changes: Any
) -> Bptt:
    hyperparameters = BpttHyperparameters(**{**TINY, **changes})
    return Bptt(dataset, hyperparameters, ipc=ipc, seed=5, plan=plan(mode="eager"), dtype=dtype)


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
def test_the_fast_form_equals_the_naive_one_step_by_step(
    tiny: Dataset, changes: dict[str, Any]
) -> None:
    fast = make(tiny, **changes)
    slow = NaiveBptt(tiny, fast.hyperparameters, ipc=2, seed=5)
    for name in ("images", "logits", "log_rate"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name).detach())
    before = fast.images.clone()
    for number in range(5):
        told, expected = fast.step(), slow.step()
        assert told["loss"] == pytest.approx(expected, abs=1e-7)
        for name in ("images", "logits", "log_rate"):
            slowly = getattr(slow, name)
            # Adam divides by the gradient's own size: rounding of small ones is all that differs.
            torch.testing.assert_close(getattr(fast, name), slowly.detach(), rtol=0, atol=1e-7)
            if number == 0 and fast._moved[name].steps:
                gradient = fast._moved[name].mean / 0.1
                assert (gradient - slowly.grad).norm() <= 1e-12 * slowly.grad.norm()
    assert (fast.images - before).abs().max() > 0.01
    learned = fast.hyperparameters.labels == "learned"
    assert (fast.synthetic_set().soft_labels is not None) == learned


def test_a_run_resumes_bit_for_bit(tiny: Dataset) -> None:
    through = make(tiny, dtype=torch.float32, perturbed="real", pgd_steps=2)
    for _ in range(6):
        through.step()
    first = make(tiny, dtype=torch.float32, perturbed="real", pgd_steps=2)
    for _ in range(3):
        first.step()
    kept = io.BytesIO()
    torch.save(first.state_dict(), kept)
    kept.seek(0)
    second = make(tiny, dtype=torch.float32, perturbed="real", pgd_steps=2)
    second.load_state_dict(torch.load(kept))
    for _ in range(3):
        second.step()
    assert torch.equal(second.images, through.images)
    assert torch.equal(second.logits, through.logits)
    assert second.rate == through.rate


def test_groups_change_nothing_but_by_rounding(tiny: Dataset) -> None:
    together, apart = make(tiny), make(tiny)
    apart._group = 2
    for _ in range(3):
        together.step()
        apart.step()
    torch.testing.assert_close(apart.images, together.images, rtol=0, atol=1e-10)


def test_students_become_better(tiny: Dataset) -> None:
    method = make(tiny, unroll=4, window=4, augmentation="none")
    losses = [method.step()["loss"] for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_labels_start_at_their_confidence_and_stay_probabilities(tiny: Dataset) -> None:
    method = make(tiny, confidence=0.8)
    soft = method.synthetic_set().soft_labels
    assert soft is not None
    own = soft[torch.arange(len(soft)), method.material.labels]
    torch.testing.assert_close(own, torch.full_like(own, 0.8))
    method.step()
    soft = method.synthetic_set().soft_labels
    assert soft is not None
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(len(soft)).to(soft))
    assert float(soft.min()) > 0


def test_the_set_carries_the_step_size(tiny: Dataset) -> None:
    method = make(tiny)
    assert method.synthetic_set().learning_rate == pytest.approx(0.1)
    method.step()
    assert method.synthetic_set().learning_rate == method.rate != pytest.approx(0.1, abs=1e-4)


def test_lengths_of_trainings_fill_the_range(tiny: Dataset) -> None:
    method = make(tiny, unroll=5, window=3)
    assert {int(method.step()["steps"]) for _ in range(20)} == {3, 4, 5}


def test_what_is_held_out_is_not_looked_at(tiny: Dataset) -> None:
    method = make(tiny, selection="holdout", holdout=0.25, batch_real=1000)
    assert len(method.held_out) == 9
    told = method.step()
    way = 6 * (told["steps"] + method.hyperparameters.window)  # those of the window pass twice
    assert told["images"] == way + 2 * 27


@pytest.mark.parametrize("where", ["images", "logits", "log_rate"])
def test_a_run_that_diverges_says_so(tiny: Dataset, where: str) -> None:
    method = make(tiny)
    getattr(method, where).fill_(float("inf"))
    with pytest.raises(CoreError, match="no longer finite") as caught:
        method.step()
    assert caught.value.code == "diverged"


def test_a_class_too_small_is_refused() -> None:
    with pytest.raises(CoreError) as caught:
        make(tiny_dataset(per_class=3), ipc=4)
    assert caught.value.code == "class_too_small"
