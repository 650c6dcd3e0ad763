"""ROME written for clarity: what it adds to `naive_pool`."""

from __future__ import annotations

from torch import Tensor

from tests.rome_core.distillation.naive_pool import NaivePool, decode

__all__ = ["NaiveRome", "decode"]


class NaiveRome(NaivePool):
    def matching(self, synthetic: Tensor, real: Tensor) -> Tensor:
        difference = synthetic - real.mean(dim=0)
        if self.hp.rob_loss == "tv2":
            return (difference.abs().sum() / 2) ** 2
        return (difference**2).sum()

    def weights(self) -> tuple[float, float]:
        return self.hp.alpha, self.hp.ce_weight * (1 - self.hp.alpha)
