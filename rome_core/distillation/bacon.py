"""BACON: IDM with a Gaussian likelihood and a total variation in the place of the distance.

Owns its loss. The loop is `pool_matching`'s.

Source: Zhou et al., "BACON: Bayesian Optimal Condensation Framework for Dataset Distillation",
arXiv 2406.01112, 2024, and the authors' code. Of the code's three terms the prior named after CLIP
is left out: it is the mean of a softmax, so the same number for every image, with gradient zero.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rome_core.data import Dataset
from rome_core.distillation.pool_matching import PoolMatching
from rome_core.errors import CoreError
from rome_core.recipes.bacon import BaconHyperparameters


def negative_log_likelihood(difference: Tensor, std: Tensor) -> Tensor:
    """Of `difference` under a Gaussian of mean 0 and scale exp(std) (sic), (k, d) -> (k,).

    sum over d of log(2 pi) / 2 + std + (difference / exp(std))^2 / 2. The code takes the logarithm
    of the density, whose gradient is not finite once it underflows, from 13 scales on.
    """
    scaled = difference * torch.exp(-std)
    return (0.5 * math.log(2 * math.pi) + std + 0.5 * scaled.square()).sum(dim=1)


def total_variation(difference: Tensor) -> Tensor:
    """Half the L1 norm, (k, d) -> (k,)."""
    return difference.abs().sum(dim=1).div(2)


class Bacon(PoolMatching[BaconHyperparameters]):
    """Raises CoreError class_too_small as well where a class has no spread: one image only."""

    name = "bacon"

    def __init__(
        self, dataset: Dataset, hyperparameters: BaconHyperparameters, **more: Any
    ) -> None:
        super().__init__(dataset, hyperparameters, **more)
        for label, members in enumerate(self.material.members):
            if len(members) < 2:
                raise CoreError(
                    "class_too_small",
                    f"Class {label} has one image to distil from, and BACON weighs features by "
                    "their spread, which takes two.",
                    "Take a dataset with more images of it, or another method such as idm.",
                    field="dataset",
                )

    def summarise(self, embeddings: Tensor) -> Tensor:
        """Mean and unbiased standard deviation: (n, d) -> (2, d)."""
        return torch.stack([embeddings.mean(dim=0), embeddings.std(dim=0)])

    def matching(self, synthetic: Tensor, real: Tensor) -> Tensor:
        mean, std = real
        difference = synthetic - mean
        likelihood = negative_log_likelihood(difference, std)
        return likelihood + self.hyperparameters.tv_weight * total_variation(difference)

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, self.hyperparameters.ce_weight
