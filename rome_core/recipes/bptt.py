"""What BPTT can be told: its hyperparameters, their bounds, and settings by name.

Free of torch, as every recipe; the method is `rome_core.distillation.bptt`.

Sources: "paper" is Feng, Vedantam and Kempe, "Embarrassingly Simple Dataset Distillation", ICLR
2024 (RaT-BPTT), "code" the authors' release (github.com/fengyzpku/RaT-BPTT).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from rome_core.recipes import cost
from rome_core.recipes.augmentation import OBJECTS, SIGNS
from rome_core.recipes.cost import Cost, Problem
from rome_core.recipes.hyperparameters import (
    MethodHyperparameters,
    Perturbing,
    Selecting,
    Strategy,
    UncoupledNetworkName,
)
from rome_core.recipes.mtt import GRAPHS, GROUP
from rome_core.recipes.presets import Preset, per_class


class BpttHyperparameters(MethodHyperparameters, Perturbing, Selecting):
    """Everything that decides what a BPTT run computes, beside dataset, ipc and seed.

    With `perturbed: real` the student, trained as usual, is asked to be right on images attacked
    against itself: robustness is then what the set is made for, and not a hope.
    """

    iterations: int = Field(
        2_000, ge=1, le=1_000_000, description="Updates of the set, each from a fresh student."
    )
    network: UncoupledNetworkName = Field(
        "convnet",
        description="Name of the students' architecture, without batch normalisation. Code: "
        "ConvNet (depth 3, width 128).",
    )
    augmentation: Strategy | None = Field(
        None,
        description="DSA strategy of the student's training, one operator a batch and parameters "
        'per image; "none" for none (Zhao and Bilen 2021). null takes the dataset\'s own, which '
        "mirrors no digits. Code: flip and rotation alone.",
    )
    init: Literal["real", "noise"] = Field(
        "real", description="Start from real images or from Gaussian noise."
    )
    labels: Literal["learned", "classes"] = Field(
        "learned",
        description="learned: probabilities, moved with the images and stored as soft labels. "
        "classes: hard labels, as in the paper.",
    )
    confidence: float = Field(
        0.7,
        gt=0,
        lt=1,
        description="Probability of its class that a learned label starts with; the others share "
        "the rest.",
    )
    unroll: int = Field(
        200,
        ge=1,
        le=10_000,
        description="T, most steps of a student's training; an iteration draws how many it makes, "
        "from `window` up. Code: 200.",
    )
    window: int = Field(
        60,
        ge=1,
        le=1_000,
        description="W, its last steps, through which gradients go back. Code: 60.",
    )
    batch_syn: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Synthetic images of one step, without replacement; null for all. Code: all "
        "at 10 images per class.",
    )
    batch_real: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Real images that the student is judged on, of all classes. Code: 5,000.",
    )
    lr_img: float = Field(
        1e-3,
        gt=0,
        le=100,
        description="Adam's learning rate of the images (units networks take). Code: 0.001.",
    )
    lr_labels: float = Field(
        1e-2,
        gt=0,
        le=100,
        description="Adam's learning rate of the labels, in logits.",
    )
    lr_student: float = Field(
        0.05,
        gt=0,
        le=100,
        description="Step size of the student's plain SGD to begin with. Code: Adam at 0.001.",
    )
    lr_lr: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Adam's learning rate of the logarithm of that step size; 0 keeps it.",
    )
    perturbed: Literal["none", "real"] = Field(
        "none",
        description="real: the images that the student is judged on are attacked, against itself.",
    )
    selection: Literal["none", "holdout", "test"] = Field(
        "none",
        description="Which iterate is returned: the last, the best on held-out training images, or "
        "the best on the test set (code).",
    )

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        if self.window > self.unroll:
            raise ValueError("window is above unroll: gradients go through steps that are made")
        return self


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class the start needs."""
    assert isinstance(hyperparameters, BpttHyperparameters)
    return ipc


def predict_cost(hyperparameters: BaseModel, problem: Problem) -> Cost:
    """What a run will cost: half the way to the longest training, and back through the window."""
    assert isinstance(hyperparameters, BpttHyperparameters)
    hp = hyperparameters
    images = problem.classes * problem.ipc
    batch = min(images, hp.batch_syn or images)
    real = min(hp.batch_real, cost.distilled_from(hp, problem))
    attack = cost.INPUT_GRADIENT * hp.pgd_steps
    way = (hp.unroll - hp.window) / 2 * batch * cost.WEIGHT_GRADIENT
    back = hp.window * batch * cost.ADJOINT_STEP
    judged = real * (cost.WEIGHT_GRADIENT + attack * (hp.perturbed == "real"))
    size = problem.shape[1]
    return Cost(
        network=hp.network,
        iterations=hp.iterations,
        iteration=way + back + judged,
        selection=cost.judging(hp, problem, images=images, iterations=hp.iterations, attack=attack),
        peak_bytes=cost.dataset_bytes(problem)
        + GRAPHS * cost.graph_bytes(hp.network, size, min(batch, GROUP)),
    )


_ROBUST: Mapping[str, Any] = {"perturbed": "real", "pgd_epsilon": "2/255", "pgd_steps": 3}


def _modern(dataset: str, title: str, ipc: int, *, robust: bool) -> Preset:
    way = "pixel" if robust else "modern"
    return Preset(
        name=f"bptt-{way}-{dataset}-ipc{ipc}",
        title=f"BPTT{' made robust in pixel space' if robust else ''}, {title}, {per_class(ipc)}",
        method="bptt",
        dataset=dataset,
        ipc=ipc,
        hyperparameters=MappingProxyType(
            {
                "augmentation": OBJECTS,
                "batch_syn": 500 if ipc > 10 else None,
                **(_ROBUST if robust else {}),
            }
        ),
        source="this project, after Feng et al., ICLR 2024",
        notes="Sized for a GPU and not yet run on one. Windows and lengths are the published ones; "
        "the student is one of SGD and labels are learned, unlike theirs.",
    )


_CPU: Mapping[str, Any] = {
    "iterations": 150,
    "unroll": 40,
    "window": 10,
    "lr_img": 0.05,
    "lr_labels": 0.05,
    "lr_lr": 0.02,
}


def _quick(robust: bool, dataset: str, title: str, changes: Mapping[str, Any]) -> Preset:
    return Preset(
        name=f"bptt-{'pixel-' if robust else ''}quick-{dataset}-ipc10",
        title=f"BPTT{' made robust in pixel space' if robust else ''} for a CPU, {title}, "
        f"{per_class(10)}",
        method="bptt",
        dataset=dataset,
        ipc=10,
        hyperparameters=MappingProxyType({**_CPU, **changes}),
        source="this project, sized for one CPU core",
        notes="Short trainings of narrow students: a trial, not a result.",
    )


_CIFAR: Mapping[str, Any] = {
    "network": "convnet-w32",
    "augmentation": OBJECTS,
    "batch_real": 256,
}
_DIGITS: Mapping[str, Any] = {
    "network": "convnet-d2-w32",  # eight pixels a side leave room for two halvings
    "augmentation": SIGNS,
    "batch_real": 256,
}

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            *(
                _modern(dataset, title, ipc, robust=robust)
                for dataset, title in (("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
                for ipc in (1, 10, 50)
                for robust in (False, True)
            ),
            _quick(False, "cifar10", "CIFAR-10", _CIFAR),
            _quick(True, "cifar10", "CIFAR-10", {**_CIFAR, **_ROBUST}),
            _quick(False, "digits", "digits", _DIGITS),
            _quick(
                True,
                "digits",
                "digits",
                {**_DIGITS, **_ROBUST, "pgd_epsilon": "16/255", "pgd_step": "8/255"},
            ),
        )
    }
)
