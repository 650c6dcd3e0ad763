"""What a distillation will cost, said before it runs.

Owns the way from a canonical spec to numbers a person can decide by. The counts are the recipes'
(`recipes.cost`); seconds are not among them, for they belong to a machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rome_core.data import load
from rome_core.networks.footprint import footprint
from rome_core.recipes import FieldProblem, SpecError, catalogue
from rome_core.recipes.cost import Cost, Problem
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.networks import parse


@dataclass(frozen=True)
class Estimate:
    """Passes are forward passes of one image, each of `forward` operations.

    `artifact_bytes` is the size of one synthetic set's file, without its companions, of float32
    images: the most that `full` takes, whose images may be stored as pixels in a quarter of it.
    """

    forward: int
    cost: Cost
    artifact_bytes: int

    def as_dict(self) -> dict[str, Any]:
        passes = {
            "preparation": self.cost.preparation,
            "iteration": self.cost.iteration,
            "distillation": self.cost.iterations * self.cost.iteration,
            "selection": self.cost.selection,
            "total": self.cost.passes,
        }
        return {
            "network": self.cost.network,
            "forward_operations": self.forward,
            "iterations": self.cost.iterations,
            "passes": passes,
            "operations": self.cost.passes * self.forward,
            "peak_bytes": self.cost.peak_bytes,
            "artifact_bytes": self.artifact_bytes,
        }


def estimate(spec: Mapping[str, Any], data_root: Path) -> Estimate:
    """Of a canonical spec of `kind: distill`; a dataset of the user's own is read to be counted.

    Raises SpecError for a method whose recipe does not say, such as that of random subsets.
    """
    recipe = catalogue.method(spec["method"])
    assert recipe is not None, "the spec is canonical"
    if recipe.predict_cost is None:
        message = f"the recipe of {recipe.name!r} does not say what a run costs"
        remedy = "Run it and look at its pace; to draw real images costs next to nothing."
        raise SpecError([FieldProblem("method", message, remedy)])
    shape, per_class = _counted(spec["dataset"], data_root)
    ipc = spec["ipc"] or max(per_class)
    hyperparameters = recipe.hyperparameters.model_validate(spec["hyperparameters"])
    cost = recipe.predict_cost(hyperparameters, Problem(shape, per_class, ipc))
    channels, size, _ = shape
    classes = len(per_class)
    work = footprint(parse(cost.network), channels=channels, size=size, classes=classes)
    values = channels * size**2
    # A whole dataset need not have as many images of every class; its pixels may take a quarter.
    images = sum(per_class) if spec["ipc"] is None else classes * ipc
    stored = images * (4 * values + 8)
    if spec["hyperparameters"].get("whitening") == "zca":
        stored += 4 * values * (values + 2)  # the eigenvectors, their values and the mean
    return Estimate(work.operations, cost, stored)


def _counted(name: str, data_root: Path) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Shape of an image and training images of each class."""
    facts = DATASETS.get(name)
    if facts is not None:
        return facts.shape, facts.train_per_class
    dataset = load(name, data_root)
    counts = dataset.train_labels.bincount(minlength=dataset.classes)
    return dataset.shape, tuple(counts.tolist())
