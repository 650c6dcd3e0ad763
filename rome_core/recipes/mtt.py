"""What MTT can be told: its hyperparameters, the experts it needs, and what a run will cost.

Free of torch, as every recipe; the method is `rome_core.distillation.mtt`, its settings by name are
`mtt_presets`.

Sources: "paper" is Cazenavette et al., "Dataset Distillation by Matching Training Trajectories",
CVPR 2022, "code" the authors' release (github.com/GeorgeCazenavette/mtt-distillation at 50dccea).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from rome_core.recipes import cost
from rome_core.recipes.attacks import FractionText
from rome_core.recipes.cost import Cost, Problem
from rome_core.recipes.evaluate import AdversarialTraining
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.hyperparameters import (
    Curving,
    MethodHyperparameters,
    Selecting,
    Strategy,
    UncoupledNetworkName,
)

TESLA_STEP = 10.7
"""Forward passes an image and step of TESLA's gradient, measured as those in `cost` are."""

GROUP = 256
"""Images of one differentiated step of the student where there is no smaller chunk."""

GRAPHS = 4
"""What a gradient that is differentiated again keeps, in graphs of a gradient that is not. On one
core at width 32 and 32 pixels, 167 MB were kept of 100 images."""


class MttHyperparameters(MethodHyperparameters, Curving, Selecting):
    """Everything that decides what an MTT run computes, beside dataset, ipc and seed.

    The defaults are the code's but for the step size, which is kept positive. Accuracies of a set
    are those of students that learn at its own step size.
    """

    iterations: int = Field(
        5_000,
        ge=1,
        le=1_000_000,
        description="Updates of the synthetic images. The code makes one more, whose images nobody "
        "judges.",
    )
    network: UncoupledNetworkName = Field(
        "convnet",
        description="Name of the experts' and the student's architecture, without batch "
        "normalisation. Code: ConvNet (depth 3, width 128).",
    )
    augmentation: Strategy | None = Field(
        None,
        description="DSA strategy of experts and student, one operator a batch and parameters per "
        'image; "none" for none (Zhao and Bilen 2021). null takes the dataset\'s own, which '
        "mirrors no digits.",
    )
    init: Literal["real", "noise"] = Field(
        "real", description="Start from real images or from Gaussian noise. Paper: real."
    )
    soft_labels: Literal["none", "teacher"] = Field(
        "none",
        description="teacher: labels are what the expert, at the weights to be reached, says of "
        "the images (TESLA, Cui et al. 2023); the set carries those of the last iteration's "
        "expert. none: the classes.",
    )

    syn_steps: int = Field(
        20, ge=1, le=1_000, description="N, steps of the student an iteration. Code: 10 to 80."
    )
    expert_epochs: int = Field(
        3,
        ge=1,
        le=10_000,
        description="M, epochs of the expert that the student's steps are to match. Code: 2 or 3.",
    )
    min_start_epoch: int = Field(
        0,
        ge=0,
        le=10_000,
        exclude_if=lambda value: value == 0,
        description="First epoch of an expert to start from. Paper: 0; later methods skip the "
        "easiest (DATM, Guo et al. 2024).",
    )
    max_start_epoch: int = Field(
        25,
        ge=1,
        le=10_000,
        description="One above the last epoch of an expert to start from. Code: 2 to 40.",
    )
    batch_syn: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Synthetic images of one step of the student, in turns until all were seen; "
        "null takes all of them.",
    )
    gradient: Literal["adjoint", "tesla"] = Field(
        "adjoint",
        description="adjoint: exact, as by backpropagation through all steps, in the memory of "
        "one. tesla: TESLA's approximation, which holds the weights of every step for constant. On "
        "a small network at step size 0.01 the cosine between the two was 1 at N=1, 0.998 at 5 and "
        "0.963 at 20, and 0.79 at 20 with step size 0.05; it saves a tenth of the time.",
    )
    lr_img: float = Field(
        1_000.0,
        gt=0,
        le=1e7,
        description="Learning rate of the images, in the units networks take. Code: 100 to 10,000.",
    )
    momentum: float = Field(
        0.5, ge=0, lt=1, description="SGD momentum of images and step size. Code: 0.5."
    )
    lr_teacher: float = Field(
        0.01, gt=0, le=100, description="The student's step size to begin with. Code: 0.01, 0.001."
    )
    lr_lr: float = Field(
        1e-5,
        ge=0,
        le=1e3,
        description="Learning rate of the student's step size; 0 leaves it as it is. Code: 1e-7 to "
        "1e-4.",
    )
    step_size_parameter: Literal["positive", "raw"] = Field(
        "positive",
        description="raw: the step size moves by SGD (code), and a run ends where it is no longer "
        "positive. positive: likewise, but what would take the share s off it multiplies it by "
        "exp(-s), and a run ends where a ten-thousandth of lr_teacher is left.",
    )
    max_move: float | None = Field(
        None,
        gt=0,
        le=1e6,
        exclude_if=lambda value: value is None,
        description="Most that one gradient may move the images by itself, as a root mean square "
        "over all values in the units networks take; a longer gradient is scaled down, that by the "
        "step size with it. null: no bound (code), and now and then a gradient explodes.",
    )
    skip_above: float | None = Field(
        None,
        gt=0,
        le=1e12,
        exclude_if=lambda value: value is None,
        description="Nothing moves in an iteration whose loss is above this; null for none. At a "
        "loss of 1 the student ends as far from the expert as it began. Code: none; DATM: 1.",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        exclude_if=lambda value: value == 0,
        description="The set is a moving average of the images, which keeps this much of itself an "
        "iteration and nothing of the start; 0 takes the images themselves. FTD (Du et al. 2023): "
        "0.999 to 0.9999.",
    )

    buffer_experts: int = Field(100, ge=1, le=10_000, description="Experts. Code: 100.")
    buffer_epochs: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Epochs of their training. null: those ever read, max_start_epoch - 1 + "
        "expert_epochs. Code: 50.",
    )
    buffer_lr: float = Field(
        0.01, gt=0, le=100, description="Their learning rate, of plain SGD. Code: 0.01."
    )
    buffer_batch: int = Field(
        256, ge=1, le=65_536, description="Real images of one of their steps. Code: 256."
    )
    expert_training: Literal["clean", "adversarial"] = Field(
        "clean",
        description="What experts learn from. adversarial: images attacked by PGD in pixel space, "
        "so that the set leads students along robust trajectories, as MAT (2025) does. Paper: "
        "clean.",
    )
    attack_domain: Literal["pixel"] = Field(
        "pixel",
        description="Where attacks live, the experts' and those of selection_score=robust: in "
        "[0,1], with normalisation inside the model.",
    )
    target_rule: Literal["untargeted"] = Field(
        "untargeted", description="Where they aim: away from the true label."
    )
    pgd_epsilon: FractionText = Field("8/255", description="Their Linf radius, of [0,1].")
    pgd_step: FractionText = Field("2/255", description="Step of one PGD iteration, same units.")
    pgd_steps: int = Field(10, ge=1, le=1_000, description="PGD iterations.")
    selection: Literal["none", "holdout", "test"] = Field(
        "none",
        description="Which iterate is returned: the last, the best on held-out training images "
        "(which the experts have seen: fair between iterates, too high as an accuracy), or the "
        "best on the test set (code).",
    )
    eval_interval: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Iterations between two evaluations, before the update. Code: 100.",
    )

    @property
    def last_epoch(self) -> int:
        """Of an expert, the last whose weights are ever read."""
        return self.max_start_epoch - 1 + self.expert_epochs

    @property
    def attacked_after(self) -> tuple[str, ...]:
        """Experts are attacked after the one augmentation there is."""
        return ("augmentation",) if self.expert_training == "adversarial" else ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_start_epoch >= self.max_start_epoch:
            raise ValueError(
                "min_start_epoch leaves no epoch to start from: take one below max_start_epoch"
            )
        if self.buffer_epochs is not None and self.buffer_epochs < self.last_epoch:
            raise ValueError(
                f"buffer_epochs is below {self.last_epoch}, the last epoch that is read "
                "(max_start_epoch - 1 + expert_epochs): raise it, or leave it null"
            )
        return self


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class the start needs."""
    assert isinstance(hyperparameters, MttHyperparameters)
    return ipc


def experts(hyperparameters: BaseModel) -> ExpertTraining:
    """The experts whose trajectories are matched."""
    assert isinstance(hyperparameters, MttHyperparameters)
    hp = hyperparameters
    attack = None
    if hp.expert_training == "adversarial":
        attack = AdversarialTraining(
            domain=hp.attack_domain,
            epsilon=hp.pgd_epsilon,
            step=hp.pgd_step,
            steps=hp.pgd_steps,
            mode=hp.target_rule,
        )
    return ExpertTraining(
        network=hp.network,
        count=hp.buffer_experts,
        epochs=hp.last_epoch if hp.buffer_epochs is None else hp.buffer_epochs,
        learning_rate=hp.buffer_lr,
        batch=hp.buffer_batch,
        augmentation=hp.augmentation,
        adversarial=attack,
        curvature_weight=hp.curvature_of_networks,
        curvature_step=hp.curvature_step,
    )


def predict_cost(hyperparameters: BaseModel, problem: Problem) -> Cost:
    """What a run will cost: the experts first, then the student's steps and back."""
    assert isinstance(hyperparameters, MttHyperparameters)
    hp = hyperparameters
    images = problem.classes * problem.ipc
    batch = min(images, hp.batch_syn or images)
    a_step = cost.ADJOINT_STEP if hp.gradient == "adjoint" else TESLA_STEP
    one = hp.syn_steps * batch * a_step
    if hp.curvature_of_images:
        one += images * cost.CURVATURE_BY_IMAGES
    if hp.soft_labels == "teacher":
        one += images * cost.FORWARD
    return Cost(
        network=hp.network,
        iterations=hp.iterations,
        iteration=one,
        preparation=cost.expert_training(problem, experts(hp)),
        selection=cost.judging(
            hp,
            problem,
            images=images,
            iterations=hp.iterations,
            attack=cost.INPUT_GRADIENT * hp.pgd_steps,
        ),
        peak_bytes=cost.dataset_bytes(problem)
        + GRAPHS * cost.graph_bytes(hp.network, problem.shape[1], min(batch, GROUP)),
    )
