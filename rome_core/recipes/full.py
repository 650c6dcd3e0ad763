"""The method `full`: the whole training set as a set, the ceiling of every distilled one.

Owns its hyperparameters. Free of torch. It has no presets, for there is nothing to choose; its
students have a recipe of their own, which `docs/methods.md` gives.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from rome_core.recipes.cost import Cost, Problem, dataset_bytes
from rome_core.recipes.hyperparameters import MethodHyperparameters, Strategy


class FullHyperparameters(MethodHyperparameters):
    """Of the whole training set."""

    augmentation: Strategy | None = Field(
        default=None,
        description="DSA strategy that students train with; null takes the dataset's own, which "
        "mirrors no digits.",
    )


def predict_cost(hyperparameters: BaseModel, problem: Problem) -> Cost:
    """No passes; the dataset, the set, and what a file of it holds at the most."""
    return Cost(
        network="convnet", iterations=1, iteration=0.0, peak_bytes=3 * dataset_bytes(problem)
    )
