"""What the methods that match a pool of semi-trained networks can be told: IDM, BACON and ROME.

Owns the fields they share, what a run of any of them costs, and the form of their tables of
published commands. A method redefines a field to give it another default, or to say what its own
source has. Free of torch; the methods themselves are in `rome_core.distillation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from rome_core.recipes.cost import (
    CURVATURE_BY_IMAGES,
    CURVATURE_BY_WEIGHTS,
    FORWARD,
    INPUT_GRADIENT,
    SYNTHETIC_GROUP,
    WEIGHT_GRADIENT,
    Cost,
    Problem,
    curvature_bytes,
    dataset_bytes,
    distilled_from,
    graph_bytes,
    judging,
)
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.hyperparameters import (
    DSA,
    Compiling,
    Curving,
    MethodHyperparameters,
    Perturbing,
    Selecting,
    Strategy,
    UncoupledNetworkName,
)
from rome_core.recipes.networks import parse
from rome_core.recipes.presets import per_class


class PoolHyperparameters(MethodHyperparameters, Perturbing, Curving, Selecting, Compiling):
    """Everything that decides what a run computes, beside the loss, dataset, ipc and seed.

    The defaults are the sound behaviour (one step an iteration, an accuracy meter that does not
    notice evaluations, the last iterate); the presets with a year are the released codes.
    """

    iterations: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Updates of the synthetic images. The code makes 20,001 (its loop includes "
        "both ends).",
    )
    network: UncoupledNetworkName = Field(
        "convnet",
        description="Name of the pool's architecture, without batch normalisation. "
        "Code: ConvNet (depth 3, width 128).",
    )
    augmentation: Strategy | None = Field(
        None,
        description="Differentiable Siamese augmentation: operators joined by underscores, one "
        'drawn per class and iteration; "none" for none (Zhao and Bilen 2021). null takes the '
        "dataset's own, which mirrors no digits; the code mirrors all.",
    )
    init: Literal["real", "noise"] = Field(
        "real", description="Start from real images or from Gaussian noise. Code: --init real."
    )
    factor: Literal[1, 2] = Field(
        2,
        description="2 packs four half-size images into each stored one (code: --aug; Kim et al. "
        "2022), 1 stores plain images.",
    )

    perf_weight: Literal["acc_percent", "acc_fraction", "none"] = Field(
        "acc_percent",
        description="Factor of the cross-entropy besides ce_weight: the network's training "
        "accuracy meter in percent (code), as a fraction, or 1.",
    )
    ce_weight: float = Field(
        0.5,
        ge=0,
        le=10_000,
        description="Weight of the cross-entropy of the synthetic images. With acc_fraction, a "
        "hundred times as much weighs the same.",
    )

    batch_real: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Real images per class and iteration, the whole class if it has fewer. "
        "Code: 256, or 5,000 at IPC 1.",
    )
    image_step: Literal["batched", "per_class"] = Field(
        "batched",
        description="per_class: one optimiser step a class with a shared momentum buffer (code). "
        "batched: one plain step an iteration at lr_img/(1-momentum), equal but for the tail.",
    )
    lr_img: float = Field(
        0.2,
        gt=0,
        le=1_000,
        description="Learning rate of the images, in the units networks take. Code: 0.2.",
    )
    momentum: float = Field(0.5, ge=0, lt=1, description="SGD momentum of the images. Code: 0.5.")

    net_begin: int = Field(
        3, ge=0, le=1_000, description="Networks in the pool before iteration 0. Code: 3."
    )
    net_num: int = Field(
        100, ge=1, le=1_000, description="Most networks in the pool; the oldest leaves. Code: 100."
    )
    net_generate_interval: int = Field(
        30,
        ge=1,
        le=1_000_000,
        description="Iterations between two fresh networks, the first at iteration 0. "
        "Code: 30, or 5 at IPC 1.",
    )
    train_net_num: int = Field(
        1, ge=1, le=100, description="Networks an iteration matches, one after another. Code: 1."
    )
    fetch_net_num: int = Field(
        2, ge=0, le=100, description="Networks an iteration trains. Code: 2."
    )
    model_train_steps: int = Field(
        10, ge=1, le=10_000, description="Training steps of each fetched network. Code: 10 or 50."
    )
    batch_train: int = Field(
        256, ge=1, le=100_000, description="Real images of one training step. Code: 256."
    )
    pool_training: Literal["clean", "adversarial", "both"] = Field(
        "clean",
        description="What the pool's networks learn from: images as they are (code), attacked "
        "images alone as in ROME, or both.",
    )
    lr_net: float = Field(
        0.01, gt=0, le=1_000, description="Learning rate of the pool's networks. Code: 0.01."
    )
    net_momentum: float = Field(0.9, ge=0, lt=1, description="Their momentum. Code: 0.9.")
    net_decay: float = Field(5e-4, ge=0, le=1, description="Their weight decay. Code: 5e-4.")

    meter: Literal["ema", "since_evaluation"] = Field(
        "ema",
        description="Training accuracy of a pool network: a moving average over its training "
        "steps, or the mean since the last evaluation, which forgets all at each one (code).",
    )
    meter_decay: float = Field(
        0.9, ge=0, lt=1, description="What the moving average keeps of itself a training step."
    )
    eval_interval: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Iterations between two evaluations, before the update. Code: 100, or 500 at "
        "IPC 50. Also when the since_evaluation meter forgets.",
    )

    @property
    def attacks_anything(self) -> bool:
        """Whether any step of the run, judging aside, attacks images."""
        return self.perturbed != "none" or self.pool_training != "clean"

    @model_validator(mode="after")
    def _consistent(self) -> PoolHyperparameters:
        if self.net_begin > self.net_num:
            raise ValueError("net_begin is above net_num: lower it, or raise net_num")
        smallest = min(self.net_begin + 1, self.net_num)
        for name in ("train_net_num", "fetch_net_num"):
            if getattr(self, name) > smallest:
                raise ValueError(
                    f"{name} is above the {smallest} networks of iteration 0: "
                    "lower it, or raise net_begin and net_num"
                )
        return self


def predict_cost(hyperparameters: BaseModel, problem: Problem) -> Cost:
    """What a run will cost: the three methods differ in nothing that counts."""
    hp = hyperparameters
    assert isinstance(hp, PoolHyperparameters)
    real = distilled_from(hp, problem, most=hp.batch_real)
    decoded = problem.classes * problem.ipc * hp.factor**2
    attack = INPUT_GRADIENT * hp.pgd_steps

    each_real = FORWARD + (attack if hp.perturbed in ("real", "both") else 0)
    each_synthetic = INPUT_GRADIENT + (attack if hp.perturbed in ("synthetic", "both") else 0)
    if hp.curvature_of_images:
        each_synthetic += CURVATURE_BY_IMAGES
    each_learnt = WEIGHT_GRADIENT + (CURVATURE_BY_WEIGHTS if hp.curvature_of_networks else 0)
    each_lesson = each_learnt * (2 if hp.pool_training == "both" else 1)
    if hp.pool_training != "clean":
        each_lesson += attack
    lessons = (
        hp.fetch_net_num * hp.model_train_steps * min(hp.batch_train, distilled_from(hp, problem))
    )

    network = parse(hp.network)
    weights = 9 * network.width**2 * network.depth  # of any family, within a factor of two or so
    one_class = decoded // problem.classes
    graph = (
        one_class if hp.image_step == "per_class" else min(decoded, max(SYNTHETIC_GROUP, one_class))
    )
    size = problem.shape[1]
    held = graph_bytes(hp.network, size, graph)
    if hp.curvature_of_images:
        held += curvature_bytes(hp.network, size, graph)
    if hp.curvature_of_networks:
        held = max(held, curvature_bytes(hp.network, size, hp.batch_train))
    return Cost(
        network=hp.network,
        iterations=hp.iterations,
        iteration=hp.train_net_num * (real * each_real + decoded * each_synthetic)
        + lessons * each_lesson,
        selection=judging(hp, problem, images=decoded, iterations=hp.iterations, attack=attack),
        peak_bytes=dataset_bytes(problem) + 4 * 2 * hp.net_num * weights + held,
    )


# The released codes share a loop: what differs from the defaults in all their commands.
RELEASED: dict[str, Any] = {
    "iterations": 20_001,
    "augmentation": DSA,  # of digits too
    "image_step": "per_class",
    "perf_weight": "acc_percent",
    "meter": "since_evaluation",
    "selection": "test",
}
# The same with what is an accident of the code mended: a fraction weighs a hundredth of a
# percentage, so ce_weight is a hundred times the released one.
SOUND: dict[str, Any] = {
    "iterations": 20_000,
    "augmentation": DSA,
    "image_step": "batched",
    "perf_weight": "acc_fraction",
    "meter": "ema",
    "selection": "none",
}


@dataclass(frozen=True)
class Row:
    """One row of a table of released commands."""

    dataset: str
    ipc: int
    batch_real: int
    net_generate_interval: int
    ce_weight: float
    model_train_steps: int
    eval_interval: int

    def settings(self) -> dict[str, Any]:
        return {
            "batch_real": self.batch_real,
            "net_generate_interval": self.net_generate_interval,
            "ce_weight": self.ce_weight,
            "model_train_steps": self.model_train_steps,
            "eval_interval": self.eval_interval,
        }

    def sound(self) -> dict[str, Any]:
        """The settings for an accuracy that is a fraction."""
        return {**self.settings(), "ce_weight": 100 * self.ce_weight}

    @property
    def where(self) -> str:
        """Such as `CIFAR-10, 10 images per class`."""
        return f"{DATASETS[self.dataset].title}, {per_class(self.ipc)}"
