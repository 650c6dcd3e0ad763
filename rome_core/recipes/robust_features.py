"""The method `robust_features`: images and labels that carry what a robust teacher sees.

Owns its hyperparameters and presets. It looks for what no published set has: students that are
trained as usual and yet withstand attacks in pixel space. The construction of images is that of
Ilyas et al. 2019, "Adversarial Examples Are Not Bugs, They Are Features": an image whose robust
features are those of a real image, and whose other features are anything. Free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, Field

from rome_core.recipes import cost
from rome_core.recipes.attacks import FractionText
from rome_core.recipes.augmentation import OBJECTS, SIGNS
from rome_core.recipes.cost import Cost, Problem
from rome_core.recipes.evaluate import AdversarialTraining
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.hyperparameters import (
    MethodHyperparameters,
    Strategy,
    UncoupledNetworkName,
)
from rome_core.recipes.presets import Preset


class RobustFeaturesHyperparameters(MethodHyperparameters):
    """What decides the images, the labels and the teacher."""

    iterations: int = Field(
        200, ge=1, le=1_000_000, description="Updates of the images. Ilyas et al.: 1,000."
    )
    objective: Literal["invert", "class_mean", "none"] = Field(
        "invert",
        description="invert: each image takes the teacher's features of one real image (Ilyas et "
        "al. 2019). class_mean: a class's images take the mean of its real ones (as in DM). none: "
        "images stay where they start, which tells what the labels alone are worth.",
    )
    layer: Literal["features", "logits"] = Field(
        "features", description="What is matched: the embedding before the classifier, or logits."
    )
    init: Literal["other", "class", "noise"] = Field(
        "other",
        description="Start from real images of any class (Ilyas et al. 2019), of the class, or "
        "from uniform noise.",
    )
    step: float = Field(
        0.1,
        gt=0,
        le=100,
        description="L2 length of an update of each image, in pixel units. Ilyas et al.: 0.1.",
    )
    batch_real: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Real images per class and iteration for objective class_mean.",
    )
    labels: Literal["hard", "soft", "smoothed"] = Field(
        "soft",
        description="soft: the teacher's probabilities of the images are stored with them. "
        "smoothed: the class has the teacher's mean probability of it and the others share the "
        "rest, the control that tells what a teacher knows beside how sure it is.",
    )
    temperature: float = Field(
        1.0, gt=0, le=100, description="Of the teacher's probabilities; above 1 they are flatter."
    )
    augmentation: Strategy | None = Field(
        None,
        description="DSA strategy of objective class_mean, and what students train with; null "
        "takes the dataset's own, which mirrors no digits.",
    )

    teacher_training: Literal["adversarial", "clean"] = Field(
        "adversarial",
        description="How the teacher was trained; clean is the control that tells what its "
        "robustness is worth.",
    )
    teacher_network: UncoupledNetworkName = Field(
        "convnet", description="The teacher's architecture."
    )
    teacher_epochs: int = Field(30, ge=1, le=10_000, description="Its passes over the dataset.")
    teacher_lr: float = Field(0.05, gt=0, le=100, description="A tenth from half-time on.")
    teacher_batch: int = Field(128, ge=1, le=65_536, description="Images of one training step.")
    teacher_augmentation: Strategy | None = Field(
        "crop_flip",
        description="DSA strategy of its training. Take flip out where a mirror matters; null "
        "takes the dataset's own.",
    )
    teacher_epsilon: FractionText = Field(
        "8/255", description="Linf radius of its PGD in pixel space (Madry et al. 2018)."
    )
    teacher_step: FractionText = Field("2/255", description="Step of that PGD.")
    teacher_steps: int = Field(10, ge=1, le=1_000, description="Its iterations.")
    teacher_curvature: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight of the curvature of the loss in its training (GUARD: 100).",
    )

    @property
    def attacked_after(self) -> tuple[str, ...]:
        """The teacher alone is attacked."""
        return ("teacher_augmentation",) if self.teacher_training == "adversarial" else ()


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class it needs: those whose features are taken."""
    return ipc


def network(hyperparameters: BaseModel) -> str:
    """The network that sets are made with: the teacher."""
    assert isinstance(hyperparameters, RobustFeaturesHyperparameters)
    return hyperparameters.teacher_network


def experts(hyperparameters: BaseModel) -> ExpertTraining:
    """The teacher: one network, its last epoch alone."""
    assert isinstance(hyperparameters, RobustFeaturesHyperparameters)
    hp = hyperparameters
    adversarial = None
    if hp.teacher_training == "adversarial":
        adversarial = AdversarialTraining(
            epsilon=hp.teacher_epsilon, step=hp.teacher_step, steps=hp.teacher_steps
        )
    return ExpertTraining(
        network=hp.teacher_network,
        count=1,
        epochs=hp.teacher_epochs,
        keep="last",
        learning_rate=hp.teacher_lr,
        schedule="step",
        momentum=0.9,
        weight_decay=5e-4,
        batch=hp.teacher_batch,
        augmentation=hp.teacher_augmentation,
        adversarial=adversarial,
        curvature_weight=hp.teacher_curvature,
    )


def predict_cost(hyperparameters: BaseModel, problem: Problem) -> Cost:
    """What a run will cost: the teacher first, then the images."""
    assert isinstance(hyperparameters, RobustFeaturesHyperparameters)
    hp = hyperparameters
    images = problem.classes * problem.ipc
    iteration = cost.INPUT_GRADIENT * images if hp.objective != "none" else 0.0
    if hp.objective == "class_mean":
        iteration += sum(min(count, hp.batch_real) for count in problem.per_class)
    return Cost(
        network=hp.teacher_network,
        iterations=hp.iterations,
        iteration=iteration,
        preparation=cost.expert_training(problem, experts(hp)),
        peak_bytes=cost.dataset_bytes(problem)
        + cost.graph_bytes(hp.teacher_network, problem.shape[1], min(images, cost.SYNTHETIC_GROUP)),
    )


# A teacher that two CPU cores train in an hour; its attack is too short for a strong one.
_CPU: Mapping[str, Any] = {
    "teacher_network": "convnet-w32",
    "teacher_epochs": 12,
    "teacher_step": "5/255",
    "teacher_steps": 2,
}


def _preset(name: str, title: str, dataset: str, ipc: int, notes: str, **changes: Any) -> Preset:
    return Preset(
        name=f"robust-features-{name}",
        title=f"Robust features of a teacher, {title}",
        method="robust_features",
        dataset=dataset,
        ipc=ipc,
        hyperparameters=MappingProxyType(changes),
        source="this project, after Ilyas et al. 2019",
        notes=notes,
    )


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        *(
            _preset(
                f"cifar10-ipc{ipc}",
                f"CIFAR-10, {ipc} images per class",
                "cifar10",
                ipc,
                "An experiment, not a published setting: the teacher is trained in the job unless "
                "the job names one.",
                iterations=1_000,
                augmentation=OBJECTS,
            )
            for ipc in (10, 50)
        ),
        _preset(
            "quick-cifar10-ipc10",
            "CIFAR-10 on a CPU, 10 images per class",
            "cifar10",
            10,
            "Its teacher takes most of an hour of two cores, the images a minute.",
            augmentation=OBJECTS,
            **_CPU,
        ),
        _preset(
            "quick-digits-ipc10",
            "digits on a CPU, 10 images per class",
            "digits",
            10,
            "A trial of a minute, not a result.",
            iterations=50,
            augmentation=SIGNS,
            teacher_network="convnet-d2-w32",
            teacher_epochs=20,
            teacher_augmentation="crop_scale_rotate",
            teacher_epsilon="16/255",
            teacher_step="8/255",
            teacher_steps=3,
        ),
    )
}
