"""MTT's hyperparameters: the authors' table, the experts it asks for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rome_core.recipes import catalogue
from rome_core.recipes.cost import WEIGHT_GRADIENT, Problem
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.mtt import MttHyperparameters, experts, predict_cost
from rome_core.recipes.mtt_presets import PRESETS

# The authors' settings: dataset, ipc, ZCA, syn_steps, expert_epochs, max_start_epoch, lr_img,
# lr_lr, lr_teacher, batch_syn.
PUBLISHED = [
    ("cifar10", 1, True, 50, 2, 2, 100, 1e-7, 0.01, None),
    ("cifar10", 10, True, 30, 2, 20, 100, 1e-5, 0.001, None),
    ("cifar10", 50, False, 30, 2, 40, 1000, 1e-5, 0.001, None),
    ("cifar100", 1, True, 20, 3, 20, 1000, 1e-5, 0.01, None),
    ("cifar100", 10, False, 20, 2, 20, 1000, 1e-5, 0.01, None),
    ("cifar100", 50, True, 80, 2, 40, 1000, 1e-5, 0.01, 125),
    ("tinyimagenet", 1, False, 10, 2, 10, 10000, 1e-4, 0.01, None),
    ("tinyimagenet", 10, False, 20, 2, 40, 10000, 1e-4, 0.01, 200),
    ("tinyimagenet", 50, False, 20, 2, 40, 10000, 1e-4, 0.01, 300),
]
COMMON: dict[str, Any] = {
    "iterations": 5000,
    "augmentation": "color_crop_cutout_flip_scale_rotate",
    "init": "real",
    "soft_labels": "none",
    "min_start_epoch": 0,
    "gradient": "adjoint",
    "momentum": 0.5,
    "step_size_parameter": "raw",
    "max_move": None,
    "skip_above": None,
    "ema": 0.0,
    "buffer_experts": 100,
    "buffer_epochs": None,
    "buffer_lr": 0.01,
    "buffer_batch": 256,
    "expert_training": "clean",
    "curvature_of_images": 0.0,
    "curvature_of_networks": 0.0,
    "selection": "test",
    "selection_score": "clean",
    "eval_interval": 100,
    "num_eval": 5,
    "eval_epochs": 1000,
}


def settings(name: str) -> MttHyperparameters:
    return MttHyperparameters(**PRESETS[name].hyperparameters)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row[0]}-ipc{row[1]}")
def test_the_authors_settings_field_by_field(row: tuple[Any, ...]) -> None:
    dataset, ipc, zca, steps, epochs, start, lr_img, lr_lr, lr_teacher, batch = row
    preset = PRESETS[f"mtt-2022-{dataset}-ipc{ipc}"]
    assert (preset.dataset, preset.ipc, preset.method) == (dataset, ipc, "mtt")
    expected = COMMON | {
        "network": "convnet-d4" if dataset == "tinyimagenet" else "convnet",
        "whitening": "zca" if zca else "none",
        "syn_steps": steps,
        "expert_epochs": epochs,
        "max_start_epoch": start,
        "lr_img": lr_img,
        "lr_lr": lr_lr,
        "lr_teacher": lr_teacher,
        "batch_syn": batch,
    }
    got = settings(preset.name)
    assert {name: getattr(got, name) for name in expected} == expected
    modern = settings(f"mtt-modern-{dataset}-ipc{ipc}")
    differ = {name for name in expected if getattr(modern, name) != expected[name]}
    assert differ == {"step_size_parameter", "max_move", "selection", "eval_interval"}
    assert (modern.step_size_parameter, modern.selection) == ("positive", "none")
    robust = settings(f"mtt-pixel-{dataset}-ipc{ipc}")
    differs = {"expert_training": "adversarial"}
    if zca:  # whitened images are not attacked once their color was changed
        differs["augmentation"] = "crop_cutout_flip_scale_rotate"
    assert robust == modern.model_copy(update=differs)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_presets_are_whole(preset: Any) -> None:
    made = MttHyperparameters(**preset.hyperparameters)
    assert preset.dataset in DATASETS
    assert preset.source
    assert preset.notes
    assert made.network in {"convnet", "convnet-d4", "convnet-w32", "convnet-d2-w32"}


def test_experts_are_trained_only_as_long_as_they_are_read() -> None:
    """Cazenavette et al. read 3, 21 and 41 epochs of the 50 on CIFAR-10."""
    epochs = [experts(settings(f"mtt-2022-cifar10-ipc{ipc}")).epochs for ipc in (1, 10, 50)]
    assert epochs == [3, 21, 41]
    whole = experts(MttHyperparameters(buffer_epochs=50))
    assert (whole.epochs, whole.count, whole.keep) == (50, 100, "all")
    assert (whole.learning_rate, whole.momentum, whole.weight_decay) == (0.01, 0, 0)
    assert whole.adversarial is None


def test_what_experts_are_told() -> None:
    asked = MttHyperparameters(
        network="convnet-w32",
        augmentation="none",
        buffer_lr=0.02,
        buffer_batch=64,
        buffer_experts=7,
        expert_training="adversarial",
        pgd_epsilon="4/255",
        pgd_step="1/255",
        pgd_steps=5,
        curvature_of_networks=100.0,
        curvature_step=2.0,
    )
    made = experts(asked)
    assert (made.network, made.augmentation, made.count) == ("convnet-w32", "none", 7)
    assert (made.learning_rate, made.batch) == (0.02, 64)
    assert (made.curvature_weight, made.curvature_step) == (100, 2)
    attack = made.adversarial
    assert attack is not None
    assert (attack.domain, attack.epsilon, attack.step, attack.steps, attack.random_start) == (
        "pixel",
        "4/255",
        "1/255",
        5,
        True,
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"network": "convnet-batch"}, "batch normalisation"),
        ({"min_start_epoch": 25}, "max_start_epoch"),
        ({"buffer_epochs": 26}, "27"),
        ({"selection": "holdout", "iterations": 10}, "eval_interval"),
        ({"selection": "test", "selection_score": "robust"}, "holdout"),
        ({"lr_teacher": 0.0}, "greater than 0"),
        ({"perturbed": "real"}, "Extra inputs"),
        ({"gradient": "unrolled"}, "adjoint"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        MttHyperparameters(**changes)


def test_the_cost_of_the_published_rows() -> None:
    """The table of measured costs: 2.65 TFLOP an iteration at IPC 10, 74 PFLOP for whole buffers.

    A forward pass of the reference network is 0.1015 GFLOP.
    """
    cifar = Problem((3, 32, 32), (5000,) * 10, 10)
    flops = 0.1015e9
    ten = predict_cost(settings("mtt-2022-cifar10-ipc10"), cifar)
    # That table is of the unrolled gradient, 8.7 passes an image and step where this takes 11.7.
    assert ten.iteration * flops * 8.7 / 11.7 == pytest.approx(2.65e12, rel=0.02)
    assert ten.preparation == 21 * 100 * 50_000 * WEIGHT_GRADIENT
    whole = predict_cost(MttHyperparameters(buffer_epochs=50), cifar)
    assert whole.preparation * flops == pytest.approx(74e15, rel=0.02)
    student = 1001 * 100 * WEIGHT_GRADIENT + 10_000  # its training, and the test images
    assert ten.selection == pytest.approx(50 * 5 * student)
    assert whole.selection == 0


def test_memory_is_that_of_one_step() -> None:
    problem = Problem((3, 32, 32), (5000,) * 10, 50)
    few = predict_cost(MttHyperparameters(syn_steps=2), problem)
    many = predict_cost(MttHyperparameters(syn_steps=50), problem)
    assert few.peak_bytes == many.peak_bytes
    assert many.iteration == 25 * few.iteration
    assert predict_cost(MttHyperparameters(gradient="tesla"), problem).iteration < many.iteration
    halves = predict_cost(MttHyperparameters(syn_steps=50, batch_syn=250), problem)
    assert halves.iteration == many.iteration / 2


def test_options_cost_what_they_take() -> None:
    problem = Problem((3, 32, 32), (5000,) * 10, 1)
    plain = predict_cost(MttHyperparameters(), problem)
    attacked = predict_cost(MttHyperparameters(expert_training="adversarial"), problem)
    assert attacked.preparation > 5 * plain.preparation
    bent = predict_cost(MttHyperparameters(curvature_of_images=1.0), problem)
    assert bent.iteration == plain.iteration + 100
    assert predict_cost(MttHyperparameters(curvature_of_networks=1.0), problem).preparation > (
        plain.preparation
    )


def test_the_catalogue_knows_it() -> None:
    recipe = catalogue.method("mtt")
    assert recipe is not None
    assert recipe.predict_cost is predict_cost
    assert recipe.experts is experts
