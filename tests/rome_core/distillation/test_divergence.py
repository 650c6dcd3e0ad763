"""A run whose images have run away ends with a reason and a remedy."""

from __future__ import annotations

import math

import pytest
import torch

from rome_core.distillation.divergence import check_finite
from rome_core.errors import CoreError


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["images", "rate"])
def test_what_is_not_finite_is_named(wrong: float, where: str) -> None:
    images, rate = torch.zeros(2, 3), 1.0
    check_finite(images, rate, after="iteration 3", remedy="Lower it.")
    if where == "images":
        images[1, 2] = wrong
    else:
        rate = wrong
    with pytest.raises(CoreError, match="after iteration 3") as caught:
        check_finite(images, rate, after="iteration 3", remedy="Lower it.", field="lr")
    assert (caught.value.code, caught.value.field) == ("diverged", "lr")
    assert caught.value.remedy == "Lower it."
