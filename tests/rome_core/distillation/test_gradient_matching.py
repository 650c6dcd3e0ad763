"""DC and DSA: the fast form against the naive one, and what they promise beside equality."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import torch

from rome_core.data import Dataset
from rome_core.distillation import class_gradients, gradient_matching
from rome_core.distillation.gradient_matching import Dc, Dsa, GradientMatching
from rome_core.errors import CoreError
from rome_core.passes import plan
from rome_core.recipes.gradient_matching import DcHyperparameters, DsaHyperparameters
from tests.rome_core.distillation.conftest import tiny_dataset
from tests.rome_core.distillation.naive_gradient_matching import NaiveGradientMatching

DSA = "color_crop_cutout_flip_scale_rotate"
TINY: dict[str, Any] = {
    "iterations": 20,
    "outer_loop": 3,
    "inner_loop": 2,
    "network": "convnet-d2-w8",
    "batch_real": 6,
    "batch_train": 4,  # of six images: a whole batch and half of one
    "lr_net": 0.05,
    "pgd_steps": 2,
}
RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "dc": ("dc", {}),
    "dsa": ("dsa", {}),
    "dsa by warps alone": ("dsa", {"augmentation": "scale_rotate"}),
    "mse, from real images": ("dc", {"distance": "mse", "init": "real", "momentum": 0.0}),
    "cos, from noise": ("dsa", {"distance": "cos", "init": "noise", "augmentation": "crop_scale"}),
    "whole classes": ("dsa", {"batch_real": 1000}),
    "layer norm": ("dc", {"network": "convnet-d1-w4-layer-sigmoid-max"}),
    "mlp": ("dc", {"network": "mlp", "lr_img": 0.01}),
    "real attacked": ("dc", {"perturbed": "real"}),
    "synthetic attacked": ("dsa", {"perturbed": "synthetic"}),
    "curved networks": ("dsa", {"curvature_of_networks": 2.0, "curvature_step": 0.5}),
    "curved images": ("dsa", {"curvature_of_images": 3.0, "curvature_step": 0.5}),
    "all of it": (
        "dsa",
        {"perturbed": "both", "curvature_of_networks": 2.0, "curvature_of_images": 3.0},
    ),
    "a class at a time": ("dsa", {"network": "convnet-d2-w8", "outer_loop": 2, "inner_loop": 1}),
}


def make(
    dataset: Dataset,
    method: str = "dsa",
    *,
    ipc: int = 2,
    seed: int = 5,
    dtype: torch.dtype = torch.float64,
    **changes: Any,
) -> GradientMatching[Any]:
    settings = {**TINY, **changes}
    options: dict[str, Any] = {"ipc": ipc, "seed": seed, "dtype": dtype}
    if method == "dc":
        return Dc(dataset, DcHyperparameters(**settings), plan=plan(mode="eager"), **options)
    return Dsa(dataset, DsaHyperparameters(**settings), plan=plan(mode="eager"), **options)


def naive(fast: GradientMatching[Any]) -> NaiveGradientMatching:
    return NaiveGradientMatching(fast.material.dataset, fast.hyperparameters, ipc=fast.ipc, seed=5)


def assert_equal_networks(fast: GradientMatching[Any], slow: NaiveGradientMatching) -> None:
    for name, weight in slow.network.state_dict().items():
        torch.testing.assert_close(fast.weights[name], weight, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("method", "changes"), RULES.values(), ids=RULES.keys())
def test_the_fast_form_equals_the_naive_one_step_by_step(
    tiny: Dataset, method: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight outer steps, so two whole iterations and part of a third."""
    if changes.get("inner_loop") == 1:
        monkeypatch.setattr(class_gradients, "TOGETHER", 0)
    fast = make(tiny, method, **changes)
    slow = naive(fast)
    start = fast.images.clone()
    torch.testing.assert_close(start, slow.images.detach(), rtol=0, atol=1e-14)
    for _ in range(8):
        scalars = fast.step()
        assert scalars["loss"] == pytest.approx(slow.step(), rel=1e-9)
        torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)
        assert_equal_networks(fast, slow)
    assert (fast.images - start).abs().max() > 1e-4


def test_the_batched_step_equals_accumulation_class_by_class_over_fifty_iterations() -> None:
    """There is no tail: all classes belong to one step in the published loop, too."""
    five = tiny_dataset(classes=5, per_class=4)
    fast = make(five, ipc=1, iterations=25, outer_loop=2, inner_loop=1, network="convnet-d1-w4")
    slow = naive(fast)
    for _ in range(50):
        fast.step()
        slow.step()
    assert fast.steps == fast.iterations
    torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)


def test_float32_stays_within_rounding_of_the_naive_float64_form(tiny: Dataset) -> None:
    fast = make(tiny, dtype=torch.float32)
    slow = naive(fast)
    for _ in range(6):
        fast.step()
        slow.step()
    torch.testing.assert_close(fast.images.double(), slow.images.detach(), rtol=0, atol=1e-4)


def test_groups_of_classes_change_nothing(tiny: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = make(tiny, perturbed="both"), make(tiny, perturbed="both")
    for _ in range(4):
        together.step()
    monkeypatch.setattr(gradient_matching, "GROUP", 17)  # two classes of 6 + 2 images, then one
    for _ in range(4):
        apart.step()
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=1e-12)


def test_classes_smaller_than_a_batch_are_taken_whole() -> None:
    """Class 0 has five images and the others twelve, of which a batch is six."""
    whole = tiny_dataset()
    keep = torch.ones(36, dtype=torch.bool)
    keep[torch.nonzero(whole.train_labels == 0).flatten()[5:]] = False
    uneven = replace(
        whole, train_images=whole.train_images[keep], train_labels=whole.train_labels[keep]
    )
    fast = make(uneven, perturbed="real")
    slow = naive(fast)
    for _ in range(5):
        fast.step()
        slow.step()
    torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_one_image_per_class_trains_no_network(tiny: Dataset, method: str) -> None:
    """The published table has one outer step there: every step of the engine is a fresh network.
    A single image a class is a batch like any other, where the published DSA stopped.
    """
    fast = make(tiny, method, ipc=1, outer_loop=None, inner_loop=None)
    assert (fast.outer_loop, fast.inner_loop) == (1, 1)
    assert fast.iterations == TINY["iterations"]
    slow = NaiveGradientMatching(
        tiny,
        fast.hyperparameters.model_copy(update={"outer_loop": 1, "inner_loop": 1}),
        ipc=1,
        seed=5,
    )
    for _ in range(8):
        scalars = fast.step()
        slow.step()
        assert "training_loss" not in scalars
        assert scalars["images"] == 3 * (6 + 1)
    torch.testing.assert_close(fast.images, slow.images.detach(), rtol=0, atol=1e-10)


def test_the_table_sets_the_loops() -> None:
    many = tiny_dataset(classes=2, per_class=21)
    method = make(many, ipc=20, outer_loop=None, inner_loop=None, iterations=7)
    assert (method.outer_loop, method.inner_loop, method.iterations) == (20, 25, 140)
    method = make(many, ipc=20, outer_loop=3, inner_loop=None, iterations=7)
    assert (method.outer_loop, method.inner_loop, method.iterations) == (3, 25, 21)


@pytest.mark.parametrize("made", [1, 2, 4])
def test_a_run_resumes_within_an_iteration_to_the_last_bit(tiny: Dataset, made: int) -> None:
    settings: dict[str, Any] = {"dtype": torch.float32, "perturbed": "both"}
    whole, first, second = (make(tiny, **settings) for _ in range(3))
    for _ in range(2 * made):
        whole.step()
    for _ in range(made):
        first.step()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    first.step()  # what was saved is no view of what goes on
    second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for _ in range(made):
        second.step()
    assert second.steps == whole.steps
    assert torch.equal(second.images, whole.images)
    assert second.weights.keys() == whole.weights.keys()
    for name, weight in whole.weights.items():
        assert torch.equal(second.weights[name], weight)
    assert torch.equal(second.state_dict()["velocity"], whole.state_dict()["velocity"])


def test_the_loss_falls(tiny: Dataset) -> None:
    method = make(tiny, "dc", ipc=3, dtype=torch.float32, iterations=40, outer_loop=1)
    losses = [method.step()["loss"] for _ in range(40)]
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_scalars_say_what_was_done(tiny: Dataset) -> None:
    method = make(tiny, perturbed="both", curvature_of_images=1.0, curvature_of_networks=1.0)
    scalars = method.step()
    assert all(map(torch.isfinite, map(torch.tensor, scalars.values())))
    assert scalars["loss"] == pytest.approx(scalars["matching_loss"] + scalars["curvature"])
    # 18 real and 6 synthetic images through two attack steps and one gradient; the curvature of the
    # synthetic ones; two epochs of 6 images through a gradient and a curvature.
    assert scalars["images"] == 24 * 3 + 2 * 6 + 2 * 6 * 3
    assert "training_loss" in scalars
    method.step()
    assert "training_loss" not in method.step()  # an iteration's last outer step
    assert "curvature" not in make(tiny).step()


def test_equal_seeds_equal_runs_and_other_seeds_do_not(tiny: Dataset) -> None:
    first, second, other = make(tiny), make(tiny), make(tiny, seed=6)
    for _ in range(2):
        assert first.step() == second.step()
        other.step()
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)


def test_the_set_says_what_students_train_with(tiny: Dataset) -> None:
    plain = make(tiny, "dc").synthetic_set()
    assert (plain.method, plain.augmentation, plain.factor, plain.ipc) == ("dc", "none", 1, 2)
    assert plain.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert make(tiny, "dc", augmentation=DSA).synthetic_set().augmentation == DSA
    siamese = make(tiny, augmentation="crop").synthetic_set()
    assert (siamese.method, siamese.augmentation) == ("dsa", "crop")


def test_what_dc_tells_students_does_not_change_its_images(tiny: Dataset) -> None:
    one, other = make(tiny, "dc"), make(tiny, "dc", augmentation=DSA)
    for _ in range(3):
        assert one.step() == other.step()
    assert torch.equal(one.images, other.images)


def test_a_synthetic_set_is_a_copy(tiny: Dataset) -> None:
    method = make(tiny, dtype=torch.float32)
    synthetic = method.synthetic_set()
    before = synthetic.images.clone()
    method.step()
    assert torch.equal(synthetic.images, before)
    assert not torch.equal(method.images, before)


def test_held_out_images_change_nothing(tiny: Dataset) -> None:
    settings: dict[str, Any] = {"selection": "holdout", "holdout": 0.25, "eval_interval": 2}
    clean = make(tiny, **settings)
    assert len(clean.held_out) == 9
    pixels = tiny.train_images.clone()
    pixels[clean.held_out] = 1 - pixels[clean.held_out]
    poisoned = make(replace(tiny, train_images=pixels), **settings)
    for _ in range(4):
        assert clean.step() == poisoned.step()
    torch.testing.assert_close(clean.state_dict(), poisoned.state_dict(), rtol=0, atol=0)
    assert len(make(tiny).held_out) == 0


@pytest.mark.parametrize(
    ("ipc", "changes", "code"),
    [
        (13, {}, "class_too_small"),
        (10, {"selection": "holdout", "holdout": 0.5, "eval_interval": 1}, "class_too_small"),
        (1, {"perturbed": "real", "target_rule": "mod10"}, "target_out_of_range"),
        (1, {"network": "convnet-d4"}, "network_too_deep"),
        (1, {"outer_loop": None, "selection": "holdout", "eval_interval": 21}, "spec_invalid"),
    ],
)
def test_what_a_dataset_cannot_serve_is_an_error(
    tiny: Dataset, ipc: int, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(CoreError) as caught:
        make(tiny, ipc=ipc, **changes)
    assert caught.value.code == code


def test_divergence_is_named(tiny: Dataset) -> None:
    method = make(tiny)
    method.images.fill_(float("inf"))
    with pytest.raises(CoreError, match="lr_img"):
        method.step()
