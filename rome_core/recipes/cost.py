"""What a distillation will cost, before it runs. Torch-free.

Owns the units: everything is counted in forward passes of one image through one network, F, so
that methods compare whatever the network; a network's F is `networks.operations`. Measured shares
(CIFAR-10's reference network, torch's counter of operations): weight gradients 2.93 F, an input
gradient of a frozen network 2 F, a gradient by weights kept in a graph and taken back to the pixels
7.79 F, one unrolled step of training 8.7 F, its exact adjoint 11.7 F, a curvature and its gradient
by the images 10 F, by the weights 11.86 F.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.hyperparameters import Selecting
from rome_core.recipes.networks import parse

FORWARD = 1.0
INPUT_GRADIENT = 2.0
WEIGHT_GRADIENT = 2.93
MATCHED_GRADIENT = 7.79
ADJOINT_STEP = 11.7
CURVATURE_BY_IMAGES = 10.0
CURVATURE_BY_WEIGHTS = 11.86

SYNTHETIC_GROUP = 512
"""Synthetic images of one differentiated pass: bounds memory, and changes no value beyond
rounding."""

CURVATURE_GROUP = 64
"""Images whose curvature is differentiated at once: bounds memory, and changes no value beyond
rounding."""

CURVATURE_GRAPHS = 5
"""What a curvature that is differentiated keeps, in `graph_bytes`; at width 32 and 32 pixels 4 to 6
were measured."""


@dataclass(frozen=True)
class Problem:
    """What a method is to be run on: (c, h, w), images of each class, and the set's size."""

    shape: tuple[int, int, int]
    per_class: tuple[int, ...]
    ipc: int

    @property
    def classes(self) -> int:
        return len(self.per_class)

    @property
    def images(self) -> int:
        return sum(self.per_class)


@dataclass(frozen=True)
class Cost:
    """Passes are in F, bytes of float32 tensors; estimates within a factor of two or so.

    `network` is whose F they are of. `preparation` is before the first iteration (experts, feature
    networks), `selection` what judging iterates adds over the whole run.
    """

    network: str
    iterations: int
    iteration: float
    preparation: float = 0.0
    selection: float = 0.0
    peak_bytes: int = 0  # of images, weights and activations held at once, dataset included

    @property
    def passes(self) -> float:
        return self.preparation + self.iterations * self.iteration + self.selection


def dataset_bytes(problem: Problem) -> int:
    """Of a training set held as float32."""
    channels, height, width = problem.shape
    return 4 * problem.images * channels * height * width


def distilled_from(settings: Selecting, problem: Problem, *, most: float = math.inf) -> float:
    """Real images of all classes, at most `most` of each, without those that judge iterates."""
    kept = 1 - (settings.kept_out or 0.0)
    return sum(min(kept * count, most) for count in problem.per_class)


def students(*, images: int, epochs: int, count: int) -> float:
    """Passes of training some students on a set of `images` decoded images, E+1 epochs."""
    return WEIGHT_GRADIENT * images * (epochs + 1) * count


def expert_training(problem: Problem, training: ExpertTraining) -> float:
    """Passes of training networks on the whole training set."""
    each = WEIGHT_GRADIENT + INPUT_GRADIENT * training.attack_steps
    if training.curvature_weight:
        each += CURVATURE_BY_WEIGHTS
    return problem.images * training.epochs * training.count * each


def judging(
    settings: Selecting, problem: Problem, *, images: int, iterations: int, attack: float
) -> float:
    """Passes of judging all iterates, sets of `images` decoded images; `attack` are an image's.

    A test set is taken to be a fifth of the training set.
    """
    if settings.selection == "none":
        return 0.0
    judged = problem.images * (settings.kept_out or 0.2)
    each = FORWARD + (attack if settings.selection_score == "robust" else 0)
    count = settings.num_eval
    trained = students(images=images, epochs=settings.eval_epochs, count=count)
    return (iterations // settings.eval_interval) * (trained + count * judged * each)


def graph_bytes(network: str, size: int, images: int) -> int:
    """Of the activations that a backward pass keeps for some images of `size` pixels a side.

    Three maps a block at a ConvNet's resolution of that block; other families count as eight maps
    of 64 channels at full resolution.
    """
    spec = parse(network)
    if spec.family == "convnet":
        halvings = 0 if spec.pooling == "nopool" else 1
        maps = sum(3 * spec.width / 4 ** (block * halvings) for block in range(spec.depth))
    else:
        maps = 8 * 64
    return int(4 * images * maps * size**2)


def curvature_bytes(network: str, size: int, images: int) -> int:
    """Of differentiating the curvature at some images, group by group."""
    return CURVATURE_GRAPHS * graph_bytes(network, size, min(images, CURVATURE_GROUP))
