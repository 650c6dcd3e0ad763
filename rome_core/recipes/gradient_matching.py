"""The methods `dc` and `dsa`: what can be set, the published table of loops, what a run costs.

Source: Zhao et al. 2021, "Dataset Condensation with Gradient Matching" (ICLR), Zhao and Bilen
2021, "Dataset Condensation with Differentiable Siamese Augmentation" (ICML), and the authors'
code. Free of torch; `rome_core.distillation.gradient_matching` does what is said here, and
`gradient_matching_presets` names settings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, Field

from rome_core.recipes.cost import (
    CURVATURE_BY_IMAGES,
    CURVATURE_BY_WEIGHTS,
    INPUT_GRADIENT,
    MATCHED_GRADIENT,
    WEIGHT_GRADIENT,
    Cost,
    Problem,
    dataset_bytes,
    distilled_from,
    graph_bytes,
    judging,
)
from rome_core.recipes.hyperparameters import (
    Compiling,
    Curving,
    MethodHyperparameters,
    Perturbing,
    Selecting,
    Strategy,
    UncoupledNetworkName,
)

LOOPS: Mapping[int, tuple[int, int]] = MappingProxyType(
    {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10), 100: (100, 2)}
)
"""Images per class to outer_loop and inner_loop: the code's table, and for 100 the setting that its
author reports for DSA (VICO-UoE/DatasetCondensation, issue 2)."""


def loops(ipc: int, outer: int | None = None, inner: int | None = None) -> tuple[int, int]:
    """Outer steps of an iteration and epochs between two of them; what is None is of the table.

    Between two rows of the table both numbers lie on the straight line, rounded, a half up; above
    the last row they are the last row's.
    """
    rows = sorted(LOOPS)
    place = bisect_right(rows, ipc) - 1
    low, high = rows[place], rows[min(place + 1, len(rows) - 1)]
    share = min(1.0, (ipc - low) / (high - low)) if high > low else 0.0
    tabled = [int(a + share * (b - a) + 0.5) for a, b in zip(LOOPS[low], LOOPS[high], strict=True)]
    return (
        tabled[0] if outer is None else outer,
        tabled[1] if inner is None else inner,
    )


class GradientMatchingHyperparameters(
    MethodHyperparameters, Perturbing, Curving, Selecting, Compiling
):
    """What decides what a run computes, beside dataset, ipc and seed.

    An iteration takes a fresh network through `outer_loop` steps of the images; each is a step of
    the engine, so that progress, checkpoints and `eval_interval` count outer steps.
    """

    iterations: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Networks, one after another, each freshly initialised. Paper: 1,000. The "
        "code's loop includes both ends and takes one more.",
    )
    outer_loop: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Steps of the images with each network; null takes it from the published table "
        "by ipc: 1, 10, 20, 30, 40, 50 as the images, linear between, and 100 for 100 or more.",
    )
    inner_loop: int | None = Field(
        None,
        ge=0,
        le=10_000,
        description="Epochs the network is trained on the synthetic set between two of them; null "
        "takes it from the published table: 1, 50, 25, 20, 15, 10 for 1, 10, 20, 30, 40, 50 images "
        "per class, linear between, and 2 for 100 or more.",
    )
    network: UncoupledNetworkName = Field(
        "convnet",
        description="Name of the architecture, without batch normalisation. Code: ConvNet (depth "
        "3, width 128).",
    )
    init: Literal["real", "noise"] = Field(
        "noise", description="Start from real images or from Gaussian noise."
    )
    augmentation: Strategy | None = Field(
        "none",
        description="DSA strategy that students of the set train with; DC itself augments nothing. "
        "null takes the dataset's own, which mirrors no digits. Code: none, and crop, scale and "
        "rotation for MNIST.",
    )
    distance: Literal["layerwise", "mse", "cos"] = Field(
        "layerwise",
        description="Of a class's two gradients. layerwise: one minus the cosine, summed over the "
        "rows of every weight; biases and the norms' numbers of a channel count nothing "
        "(published). cos: of all weights as one vector. mse: the squared Euclidean distance.",
    )
    batch_real: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Real images per class and outer step, the whole class if it has fewer. "
        "Code: 256.",
    )
    lr_img: float = Field(
        0.1,
        gt=0,
        le=1_000,
        description="Learning rate of the images, in the units networks take. Code: 0.1, and 0.01 "
        "with an mlp.",
    )
    momentum: float = Field(0.5, ge=0, lt=1, description="SGD momentum of the images. Code: 0.5.")
    lr_net: float = Field(
        0.01,
        gt=0,
        le=1_000,
        description="Learning rate of the network, by plain SGD. Code: 0.01.",
    )
    batch_train: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Synthetic images of one training step of the network. Code: 256.",
    )
    eval_interval: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Outer steps between two evaluations, before the update; an iteration makes "
        "outer_loop of them.",
    )

    @property
    def judged_steps(self) -> int | None:
        """Outer steps; how many an iteration has may follow from the images per class."""
        return None if self.outer_loop is None else self.iterations * self.outer_loop

    def selects_nothing(self, outer_loop: int) -> bool:
        """Whether iterates are to be judged and a run has none to judge."""
        return self.selection != "none" and self.eval_interval > self.iterations * outer_loop


class DcHyperparameters(GradientMatchingHyperparameters):
    """DC: images are matched as they are."""

    @property
    def attacked_after(self) -> tuple[str, ...]:
        """Nothing is augmented, so nothing is attacked after it: its strategy is the students'."""
        return ()


class DsaHyperparameters(GradientMatchingHyperparameters):
    """DSA: real and synthetic images of a class are augmented alike before they are matched."""

    init: Literal["real", "noise"] = Field(
        "real",
        description="Start from real images or from Gaussian noise. Code: --init real.",
    )
    augmentation: Strategy | None = Field(
        None,
        description="Differentiable Siamese augmentation: operators joined by underscores, one "
        "drawn per class and outer step. Networks, and students, are trained with the same "
        "operators, parameters per image. null takes the dataset's own, which mirrors no digits.",
    )


def images_per_class(hyperparameters: BaseModel, ipc: int) -> int:
    """How many real images of each class the method needs: as many as it makes.

    A start from noise needs as many: a set larger than its dataset distils nothing.
    """
    assert isinstance(hyperparameters, GradientMatchingHyperparameters)
    return ipc


def predict_cost(hyperparameters: BaseModel, problem: Problem) -> Cost:
    """What a run will cost. An iteration of it is a step of the engine: one outer step."""
    hp = hyperparameters
    assert isinstance(hp, GradientMatchingHyperparameters)
    outer, inner = loops(problem.ipc, hp.outer_loop, hp.inner_loop)
    real = distilled_from(hp, problem, most=hp.batch_real)
    made = problem.classes * problem.ipc
    attack = INPUT_GRADIENT * hp.pgd_steps

    each_real = WEIGHT_GRADIENT + (attack if hp.perturbed in ("real", "both") else 0)
    each_made = MATCHED_GRADIENT + (attack if hp.perturbed in ("synthetic", "both") else 0)
    if hp.curvature_of_images:
        each_made += CURVATURE_BY_IMAGES
    each_learnt = WEIGHT_GRADIENT + (CURVATURE_BY_WEIGHTS if hp.curvature_of_networks else 0)
    # The network is not trained after the last of an iteration's outer steps.
    learnt = made * inner * (outer - 1) / outer

    # A graph kept for a second gradient holds some four times what one for a first one does.
    held = graph_bytes(hp.network, problem.shape[1], max(4 * problem.ipc, min(hp.batch_real, 64)))
    return Cost(
        network=hp.network,
        iterations=hp.iterations * outer,
        iteration=real * each_real + made * each_made + learnt * each_learnt,
        selection=judging(
            hp,
            problem,
            images=made,
            iterations=hp.iterations * outer,
            attack=attack,
        ),
        peak_bytes=dataset_bytes(problem) + held,
    )
