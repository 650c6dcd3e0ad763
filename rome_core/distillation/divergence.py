"""Where a run ends because what it learns has run away."""

from __future__ import annotations

import torch
from torch import Tensor

from rome_core.errors import CoreError


def check_finite(
    *values: Tensor | float,
    after: str,
    remedy: str,
    what: str = "The synthetic images",
    field: str = "hyperparameters.lr_img",
) -> None:
    """Raises CoreError diverged where not all values are finite; `after` says since when."""
    if not all(bool(torch.isfinite(torch.as_tensor(value)).all()) for value in values):
        raise CoreError("diverged", f"{what} are no longer finite after {after}.", remedy, field)
