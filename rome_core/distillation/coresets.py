"""Coresets: real images chosen class by class, by herding, k-center, k-means or forgetting.

Owns what a class's images are compared by. The rules are `coreset_rules`, the networks come trained
(`experts`), and the set that comes of a choice is `subset`'s.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rome_core.data import Dataset
from rome_core.distillation import coreset_rules as rules
from rome_core.distillation.draws import Draws
from rome_core.distillation.experts import Experts
from rome_core.distillation.material import Material
from rome_core.distillation.subset import Subset
from rome_core.errors import CoreError
from rome_core.networks import Network
from rome_core.passes import Passes, Plan
from rome_core.recipes.coresets import (
    CoresetHyperparameters,
    ForgettingHyperparameters,
    HerdingHyperparameters,
    KCenterHyperparameters,
    KMeansHyperparameters,
)

H = TypeVar("H", bound=CoresetHyperparameters)


class Coreset(Subset, Generic[H]):
    """One choice by features; the engine calls `step` once a class.

    Args:
        dataset: training images as pixels in [0, 1], with the space networks take them in.
        ipc: stored images per class; with factor 2 each holds four chosen ones.
        seed: of every draw of the choice.
        device: where images are embedded. The choice itself is made on the CPU.
        plan: how images are embedded.
        experts: whose first network's embedding is taken, where `features` is trained.
        dtype: float64 serves proofs, not runs.
    """

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: H,
        *,
        ipc: int,
        seed: int,
        device: torch.device | str = "cpu",
        plan: Plan,
        experts: Experts | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(dataset, hyperparameters, ipc=ipc)
        self.hyperparameters = hyperparameters
        self.draws = Draws(seed)
        self._plan = plan
        self.material = Material(
            dataset, self.draws, ipc=ipc, factor=self.factor, device=device, dtype=dtype
        )
        self._network = self._embedder(experts)
        self._passes = None if self._network is None else Passes(self._network, plan)

    @property
    def circumstances(self) -> dict[str, Any]:
        """What the last digits of features depend on besides the spec."""
        return {"plan": self._plan.as_dict(), "device": str(self.material.device)}

    def features(self, label: int) -> Tensor:
        """Where a class's images lie, in the order of `members`: (n, d) on the CPU."""
        images = self.material.images(self.members[label])
        if self._network is None:
            return images.flatten(1).cpu()
        assert self._passes is not None, "made with the network"
        return self._passes.embed(self._network.state_dict(), images).cpu()

    def choose(self, label: int) -> Tensor:
        return self.members[label][self.rule(self.features(label), label)]

    @abstractmethod
    def rule(self, features: Tensor, label: int) -> Tensor:
        """Which of a class's images are chosen: (n, d) to positions among them, (each,)."""

    def _embedder(self, experts: Experts | None) -> Network | None:
        hp = self.hyperparameters
        if hp.features == "pixels":
            return None
        network = self.material.network(hp.network, self.draws.network(0))
        if hp.features == "trained":
            assert experts is not None, "the recipe asks for them"
            state = experts.state(0, experts.epochs[-1])
            network.load_state_dict(state)
        return network.requires_grad_(False).eval()


class Herding(Coreset[HerdingHyperparameters]):
    name = "herding"

    def rule(self, features: Tensor, label: int) -> Tensor:
        return rules.herding(features, self.each)


class KCenter(Coreset[KCenterHyperparameters]):
    name = "k_center"

    def rule(self, features: Tensor, label: int) -> Tensor:
        if self.hyperparameters.start == "random":
            drawn = torch.randint(len(features), (1,), generator=self.draws.coreset(label))
            first = int(drawn)
        else:
            first = rules.nearest_to_mean(features)
        return rules.k_center(features, self.each, first)


class KMeans(Coreset[KMeansHyperparameters]):
    name = "k_means"

    def rule(self, features: Tensor, label: int) -> Tensor:
        hp = self.hyperparameters
        made = [self.draws.coreset(label, restart) for restart in range(hp.restarts)]
        return rules.k_means(features, self.each, made, hp.limit)


class Forgetting(Subset):
    """The images most often unlearned in the training of some networks, which `experts` counted.

    Raises CoreError artifact_mismatch for a file without such counts.
    """

    name = "forgetting"

    def __init__(
        self,
        dataset: Dataset,
        hyperparameters: ForgettingHyperparameters,
        *,
        ipc: int,
        seed: int,
        device: torch.device | str = "cpu",
        plan: Plan | None = None,
        experts: Experts,
    ) -> None:
        super().__init__(dataset, hyperparameters, ipc=ipc)
        self.draws = Draws(seed)
        if experts.forgetting is None:
            raise CoreError(
                "artifact_mismatch",
                "The experts come without counts of how often each training image was forgotten.",
                "Train them anew, or leave experts out.",
                "experts",
            )
        # (n,) of each training image, over as many networks as were asked for.
        self.counts = experts.forgetting[: hyperparameters.net_count].sum(dim=0)

    def choose(self, label: int) -> Tensor:
        members = self.members[label]
        made = self.draws.coreset(label)
        return members[rules.most_forgotten(self.counts[members], self.each, made)]
