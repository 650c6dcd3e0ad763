"""A method that needs experts and little else: class means, moved by an expert's first weights."""

from __future__ import annotations

from typing import Any, Literal

import torch

from rome_core.data import Dataset
from rome_core.distillation.experts import Experts
from rome_core.recipes.evaluate import AdversarialTraining
from rome_core.recipes.experts import ExpertTraining
from rome_core.recipes.hyperparameters import MethodHyperparameters, NetworkName
from rome_core.recipes.method import MethodRecipe
from rome_core.synthetic import SyntheticSet


class AveragesHyperparameters(MethodHyperparameters):
    iterations: int = 4
    network: NetworkName = "convnet-d1-w4"
    epochs: int = 2
    keep: Literal["all", "last"] = "all"
    count: int = 2
    learning_rate: float = 0.01
    robust: bool = False
    curvature_weight: float = 0.0
    needs_experts: bool = True


def needed(hyperparameters: AveragesHyperparameters) -> ExpertTraining | None:
    hp = hyperparameters
    if not hp.needs_experts:
        return None
    return ExpertTraining(
        network=hp.network,
        count=hp.count,
        epochs=hp.epochs,
        keep=hp.keep,
        batch=8,
        learning_rate=hp.learning_rate,
        adversarial=AdversarialTraining(steps=1) if hp.robust else None,
        curvature_weight=hp.curvature_weight,
    )


RECIPE = MethodRecipe(
    name="averages",
    title="Averages",
    summary="For tests.",
    hyperparameters=AveragesHyperparameters,
    presets={},
    paper="",
    experts=needed,  # type: ignore[arg-type]  # as every recipe's: of its own model
)


class Averages:
    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: AveragesHyperparameters,
        *,
        ipc: int,
        seed: int,
        experts: Experts | None = None,
        **how: Any,
    ) -> None:
        self.dataset, self.ipc, self.experts = dataset, ipc, experts
        self.iterations = hyperparameters.iterations
        x = dataset.normalise(dataset.train_images)
        means = [x[dataset.train_labels == label].mean(0) for label in range(dataset.classes)]
        self.images = torch.stack(means).repeat_interleave(ipc, dim=0)

    def step(self) -> dict[str, float]:
        assert self.experts is not None
        weights = self.experts.flat(self.experts.count - 1, self.experts.epochs[-1])
        self.images += weights[: len(self.images)].view(-1, 1, 1, 1)
        return {"loss": 0.0}

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = state["images"].clone()

    def synthetic_set(self) -> SyntheticSet:
        labels = torch.arange(self.dataset.classes).repeat_interleave(self.ipc)
        return SyntheticSet.of(
            self.images.clone(),
            labels,
            self.dataset,
            factor=1,
            ipc=self.ipc,
            augmentation="none",
            method="averages",
        )
