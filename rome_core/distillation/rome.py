"""ROME: match synthetic images with attacked real ones in the features of a robust pool.

Owns its loss. The loop is `pool_matching`'s; that real images are attacked before they are
embedded, and that the pool learns from attacked images alone, are defaults of its recipe.

Source: Zhou et al., "ROME is Forged in Adversity", ICML 2025, and the authors' code.
L_c = alpha D(mean e(synthetic), mean e(attacked real)) + (1 - alpha) w a l(synthetic).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from rome_core.distillation.idm import l2
from rome_core.distillation.pool_matching import PoolMatching
from rome_core.recipes.rome import RomeHyperparameters

MatchingLoss = Callable[[Tensor, Tensor], Tensor]
"""Mean embeddings of k classes, synthetic and real, both (k, d), to one loss a class, (k,)."""


def tv2(synthetic: Tensor, real: Tensor) -> Tensor:
    """Squared total variation: (half the L1 distance) squared. (k, d), (k, d) -> (k,)."""
    return (synthetic - real).abs().sum(dim=1).div(2).square()


# The formula of the code, and the paper's.
MATCHING: Mapping[str, MatchingLoss] = {"tv2": tv2, "l2": l2}


class Rome(PoolMatching[RomeHyperparameters]):
    name = "rome"
    matching_name = "robustness_loss"

    def matching(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return MATCHING[self.hyperparameters.rob_loss](synthetic, real[0])

    @property
    def weights(self) -> tuple[float, float]:
        hp = self.hyperparameters
        return hp.alpha, hp.ce_weight * (1 - hp.alpha)
