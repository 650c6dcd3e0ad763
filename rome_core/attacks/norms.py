"""Balls: projection, steepest step and uniform start, under Linf and L2.

Images may lie outside [0, 1], as normalised ones do: the clamp to [0, 1] comes last and wins over
the ball, as in the published protocol. Within [0, 1] both hold.
"""

import torch
from torch import Tensor

from rome_core.randomness import ImageDraws

TINY = 1e-12


def length(x: Tensor) -> Tensor:
    """L2 norm of each image, shaped to multiply it: (n, c, h, w) -> (n, 1, 1, 1)."""
    norms: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return norms.view(-1, 1, 1, 1)


def project(norm: str, moved: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Into the ball of `epsilon` around x, then into [0, 1]."""
    change = moved - x
    if norm == "linf":
        change = change.clamp(-epsilon, epsilon)
    else:
        change = change * (epsilon / length(change).clamp_min(TINY)).clamp_max(1)
    return (x + change).clamp(0, 1)


def steepest(norm: str, gradient: Tensor) -> Tensor:
    """The direction of length one, in the norm, in which the loss grows fastest."""
    if norm == "linf":
        return gradient.sign()
    # Scaled first: the squares of a confident image's gradient may be too small for a number.
    largest = gradient.abs().amax(dim=(1, 2, 3), keepdim=True)
    scaled = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)
    return scaled / length(scaled).clamp_min(TINY)


def noise(
    norm: str, x: Tensor, epsilon: float, draws: ImageDraws, name: str | int, rows: Tensor
) -> Tensor:
    """Uniform in the ball, for the images x of `rows`: the same whatever else is in the batch."""
    shape = tuple(x.shape[1:])
    if norm == "linf":
        return (draws.uniform(rows, shape, "start", name).to(x) * 2 - 1) * epsilon
    direction = draws.normal(rows, shape, "start", name).to(x)
    radius = draws.uniform(rows, (1, 1, 1), "start radius", name).to(x)
    size = x[0].numel()
    return direction / length(direction).clamp_min(TINY) * radius ** (1 / size) * epsilon


def surface(
    norm: str, x: Tensor, epsilon: float, draws: ImageDraws, rows: Tensor, *name: str | int
) -> Tensor:
    """A random step of length `epsilon` for the images x of `rows`, as APGD and FAB start with.

    Linf: uniform, scaled until its largest value is epsilon. L2: uniform on the sphere.
    """
    shape = tuple(x.shape[1:])
    if norm == "linf":
        step = draws.uniform(rows, shape, "start", *name).to(x) * 2 - 1
        longest = step.abs().amax(dim=(1, 2, 3), keepdim=True)
    else:
        step = draws.normal(rows, shape, "start", *name).to(x)
        longest = length(step)
    return step * (epsilon / longest.clamp_min(TINY))


def sizes(x: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor]:
    """How far each image was moved: (n,) in Linf and (n,) in L2."""
    change = (adversarial - x).flatten(1)
    return change.abs().amax(dim=1), torch.linalg.vector_norm(change, dim=1)
