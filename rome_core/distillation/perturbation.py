"""Adversarial perturbation of the images a method matches or trains on.

Owns the way from a method's `Perturbing` fields to attacked images. What is attacked, and with
which draws, is the method's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from rome_core import attacks
from rome_core.attacks.gradient import Model
from rome_core.attacks.pgd import start_noise
from rome_core.distillation.material import Material
from rome_core.recipes.hyperparameters import Perturbing


class Perturbation:
    """PGD on images as networks take them, in the attack's own space."""

    def __init__(self, settings: Perturbing, material: Material) -> None:
        self._settings, self._material = settings, material
        self.budget = attacks.Budget.of(settings.pgd_epsilon, settings.pgd_step, settings.pgd_steps)
        # A rule that does not fit the classes is told before anything runs.
        attacks.targets(settings.target_rule, torch.zeros(1, dtype=torch.int64), material.classes)

    def __call__(self, model: Model, x: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Attacked images in the units of `x`, (n, c, h, w); `noise` is PGD's start."""
        adapted = attacks.adapt(model, self._settings.attack_domain, self._material.dataset.space)
        labels = labels.to(x.device)
        attacked = attacks.perturb(
            adapted.model,
            adapted.from_normalised(x),
            labels,
            self.budget,
            targets=attacks.targets(self._settings.target_rule, labels, self._material.classes),
            noise=noise.to(x),
        )
        return adapted.to_normalised(attacked)

    def attacks(self, side: Literal["real", "synthetic"]) -> bool:
        """Whether images of that side are attacked before they are matched."""
        return self._settings.perturbed in (side, "both")

    def noise(self, counts: Sequence[int], made: Sequence[torch.Generator]) -> Tensor:
        """Random starts of several groups of images, each from its own draw."""
        return torch.cat(
            [
                start_noise(
                    torch.empty(count, *self._material.shape, dtype=self._material.dtype),
                    self.budget,
                    generator,
                )
                for count, generator in zip(counts, made, strict=True)
            ]
        )
