"""The two spaces an attack can move in, and the way between them, pixels and normalised tensors.

Owns every conversion between spaces: upstream of an attack there are normalised tensors or pixels
in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rome_core.attacks.gradient import (
    Forward,
    LogitLoss,
    Model,
    Work,
    explore,
    input_gradient,
    jacobian,
    loss_gradient,
)
from rome_core.recipes.attacks import Domain

__all__ = ["Adapted", "Domain", "adapt"]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A network seen from an attack's space, where images are always clamped to [0, 1].

    `reference`: the space is that of normalised tensors, and the clamp is the published protocol's
    flaw. `pixel`: the space is that of pixels, and `model` normalises before the network.
    """

    model: Model
    domain: Domain
    mean: Tensor  # (c, 1, 1)
    std: Tensor  # (c, 1, 1)

    def to_input(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] to the attack's space."""
        return pixels if self.domain is Domain.PIXEL else _normalise(pixels, self.mean, self.std)

    def from_normalised(self, x: Tensor) -> Tensor:
        """Normalised tensors, such as augmented images, to the attack's space, unclamped."""
        if self.domain is Domain.REFERENCE:
            return x
        return x * self.std.to(x) + self.mean.to(x)

    def to_normalised(self, x: Tensor) -> Tensor:
        """The attack's space to what the network consumes."""
        return x if self.domain is Domain.REFERENCE else _normalise(x, self.mean, self.std)


@dataclass(frozen=True, eq=False)
class _Normalising:
    """A network behind its normalisation."""

    network: Model
    mean: Tensor
    std: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(_normalise(x, self.mean, self.std))

    def input_gradient(self, x: Tensor, labels: Tensor) -> Tensor:
        inner = input_gradient(self.network, _normalise(x, self.mean, self.std), labels)
        return inner / self.std.to(x)

    def loss_gradient(self, x: Tensor, loss: LogitLoss) -> tuple[Tensor, Tensor, Tensor]:
        normalised = _normalise(x, self.mean, self.std)
        logits, losses, inner = loss_gradient(self.network, normalised, loss)
        return logits, losses, inner / self.std.to(x)

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        logits, inner = jacobian(self.network, _normalise(x, self.mean, self.std), classes)
        return logits, inner / self.std.to(x)

    def explore(self, x: Tensor, work: Work) -> tuple[Tensor, ...]:
        def inner(forward: Forward, normalised: Tensor, part: slice) -> tuple[Tensor, ...]:
            return work(lambda t: forward(_normalise(t, self.mean, self.std)), x[part], part)

        return explore(self.network, _normalise(x, self.mean, self.std), inner)


def adapt(
    network: Model,
    domain: Domain | str,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
) -> Adapted:
    """See a network, a callable from normalised images to logits, from the space of a domain.

    `mean` and `std` are the dataset's statistics, one number a channel, of pixels in [0, 1]. Raises
    ValueError for an unknown domain.
    """
    domain = Domain(domain)
    centre, spread = (torch.as_tensor(s, dtype=torch.float64).view(-1, 1, 1) for s in (mean, std))
    model = network if domain is Domain.REFERENCE else _Normalising(network, centre, spread)
    return Adapted(model, domain, centre, spread)


def _normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (pixels - mean.to(pixels)) / std.to(pixels)
