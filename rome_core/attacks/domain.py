"""The two domains an attack can move in, and the way between them, pixels and what networks take.

Owns what a domain means for images and gradients. How pixels become what networks take, normalised
or whitened, is the space's (`rome_core.space`).
"""

from dataclasses import dataclass

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
from rome_core.errors import CoreError
from rome_core.recipes.attacks import Domain
from rome_core.space import Normalised, Space

__all__ = ["Adapted", "Domain", "adapt", "check_domain"]


@dataclass(frozen=True, eq=False)
class Adapted:
    """A network seen from an attack's domain, where images are always clamped to [0, 1].

    `reference`: images are normalised tensors, and the clamp is the published protocol's flaw.
    `pixel`: images are pixels, and `model` normalises or whitens them before the network.
    """

    model: Model
    domain: Domain
    space: Space

    def to_input(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] to the attack's domain."""
        return pixels if self.domain is Domain.PIXEL else self.space.from_pixels(pixels)

    def to_pixels(self, x: Tensor) -> Tensor:
        """The way back; nothing is clipped."""
        return x if self.domain is Domain.PIXEL else self.space.to_pixels(x)

    def from_normalised(self, x: Tensor) -> Tensor:
        """What the network takes, such as augmented images, to the attack's domain, unclamped."""
        return x if self.domain is Domain.REFERENCE else self.space.to_pixels(x)

    def to_normalised(self, x: Tensor) -> Tensor:
        """The attack's domain to what the network takes."""
        return x if self.domain is Domain.REFERENCE else self.space.from_pixels(x)


@dataclass(frozen=True, eq=False)
class _Behind:
    """A network behind its space: pixels to logits."""

    network: Model
    space: Space

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(self.space.from_pixels(x))

    def input_gradient(self, x: Tensor, labels: Tensor) -> Tensor:
        inner = input_gradient(self.network, self.space.from_pixels(x), labels)
        return self.space.pull_back(inner)

    def loss_gradient(self, x: Tensor, loss: LogitLoss) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.space.from_pixels(x)
        logits, losses, inner = loss_gradient(self.network, seen, loss)
        return logits, losses, self.space.pull_back(inner)

    def jacobian(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        logits, inner = jacobian(self.network, self.space.from_pixels(x), classes)
        return logits, self.space.pull_back(inner)

    def explore(self, x: Tensor, work: Work) -> tuple[Tensor, ...]:
        def inner(forward: Forward, seen: Tensor, part: slice) -> tuple[Tensor, ...]:
            return work(lambda t: forward(self.space.from_pixels(t)), x[part], part)

        return explore(self.network, self.space.from_pixels(x), inner)


def check_domain(domain: Domain | str, space: Space, field: str) -> None:
    """Raises CoreError attack_unsuitable where `adapt` would refuse.

    Called before any work: hours of training must not end there.
    """
    if Domain(domain) is Domain.REFERENCE and not isinstance(space, Normalised):
        raise CoreError(
            "attack_unsuitable",
            "The reference domain is defined for normalised images, and networks here take images "
            f"whitened by {space.name.upper()}.",
            "Attack pixels: protocols such as pixel, domain pixel.",
            field,
        )


def adapt(network: Model, domain: Domain | str, space: Space) -> Adapted:
    """See a network, a callable from images of a space to logits, from a domain.

    Raises ValueError for an unknown domain, and for the reference domain in a space that is not
    normalised: the published protocol knows no other.
    """
    domain = Domain(domain)
    if domain is Domain.REFERENCE and not isinstance(space, Normalised):
        raise ValueError(
            f"the reference domain holds normalised images, and these are {space.name}"
        )
    model = network if domain is Domain.REFERENCE else _Behind(network, space)
    return Adapted(model, domain, space)
