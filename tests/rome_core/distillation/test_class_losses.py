"""What is told of classes whose losses came group by group."""

from __future__ import annotations

import pytest
import torch

from rome_core.distillation.class_losses import means, told


def test_means_are_over_classes_whatever_the_groups() -> None:
    values = torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64)
    groups = [told(part, {"half": part / 2}) for part in torch.split(values, [1, 2])]
    assert means(groups) == pytest.approx({"loss": 3.0, "half": 1.5})


def test_what_is_told_has_no_graph() -> None:
    leaf = torch.ones(2, requires_grad=True)
    found = told(2 * leaf, {"part": leaf * leaf})
    assert list(found) == ["loss", "part"]
    assert not any(value.requires_grad for value in found.values())
