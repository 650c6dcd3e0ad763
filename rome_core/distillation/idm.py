"""IDM: match class means of embeddings in a pool of networks that learn from real images.

Owns its loss. The loop is `pool_matching`'s.

Source: Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023, and the
authors' code. L_c = |mean e(synthetic) - mean e(real)|^2 + w a l(synthetic), with the network's
training accuracy a: a distance that grows with what the network's features are worth.
"""

from __future__ import annotations

from torch import Tensor

from rome_core.distillation.pool_matching import PoolMatching
from rome_core.recipes.idm import IdmHyperparameters


def l2(synthetic: Tensor, real: Tensor) -> Tensor:
    """Squared Euclidean distance. (k, d), (k, d) -> (k,)."""
    return (synthetic - real).square().sum(dim=1)


class Idm(PoolMatching[IdmHyperparameters]):
    name = "idm"

    def matching(self, synthetic: Tensor, real: Tensor) -> Tensor:
        return l2(synthetic, real[0])

    @property
    def weights(self) -> tuple[float, float]:
        return 1.0, self.hyperparameters.ce_weight
