"""The units networks work in, and the way there from pixels: normalised, or ZCA-whitened.

Owns both transforms and their inverses. Whoever holds images in such units, be it a dataset, a
synthetic set or an attack, holds the space with them; nothing else converts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from rome_core.foreign import is_whole
from rome_core.randomness import generator

ZCA_EPSILON = 0.1
"""Ridge of the published ZCA (Cazenavette et al. 2022): it floors small eigenvalues."""

ORTHONORMAL = 1e-2
"""How far V^T V r may be from r ~ N(0, 1). Rounding of 3072 float32 makes 2e-6 of it."""


class Space(Protocol):
    """Images (n, c, h, w) as pixels in [0,1] on one side, as networks take them on the other."""

    @property
    def name(self) -> str:
        """`normalised` or `zca`."""

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels to what networks take."""

    def to_pixels(self, x: Tensor) -> Tensor:
        """The way back; nothing is clipped."""

    def pull_back(self, gradient: Tensor) -> Tensor:
        """A gradient by what networks take, (..., c, h, w), to the gradient by pixels."""

    @property
    def identity(self) -> Any:
        """What tells it from every other space, as JSON."""


class _Placed:
    """Constants as tensors of the device and type of those they meet, each converted once."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, torch.device, torch.dtype], Tensor] = {}

    def __call__(self, name: str, like: Tensor, make: Callable[[], Tensor]) -> Tensor:
        key = name, like.device, like.dtype
        if key not in self._held:
            self._held[key] = make().to(like)
        return self._held[key]


@dataclass(frozen=True, eq=False)
class Normalised:
    """(pixels - mean) / std, per channel: mean and std (c,) float64."""

    mean: Tensor
    std: Tensor
    _placed: _Placed = field(default_factory=_Placed, init=False, repr=False)

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Normalised:
        """Of plain numbers, one a channel."""
        return cls(*(torch.tensor(list(values), dtype=torch.float64) for values in (mean, std)))

    @property
    def name(self) -> str:
        return "normalised"

    @property
    def identity(self) -> Any:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    def from_pixels(self, pixels: Tensor) -> Tensor:
        return (pixels - self._mean(pixels)) / self._std(pixels)

    def to_pixels(self, x: Tensor) -> Tensor:
        return x * self._std(x) + self._mean(x)

    def pull_back(self, gradient: Tensor) -> Tensor:
        return gradient / self._std(gradient)

    def _mean(self, like: Tensor) -> Tensor:
        return self._placed("mean", like, lambda: self.mean.view(-1, 1, 1))

    def _std(self, like: Tensor) -> Tensor:
        return self._placed("std", like, lambda: self.std.view(-1, 1, 1))


@dataclass(frozen=True)
class Sketch:
    """A whitening in a few numbers, for a file too small to hold it: some values of one image.

    Fits on the same images give the same numbers within 1e-3, whatever machine they ran on.
    """

    epsilon: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Sketch:
        """What a file tells. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(float(told["epsilon"]), tuple(float(value) for value in told["values"]))

    def fits(self, other: Sketch) -> bool:
        """Whether both are of fits on the same images with the same ridge."""
        if self.epsilon != other.epsilon or len(self.values) != len(other.values):
            return False
        return all(abs(a - b) <= 1e-3 for a, b in zip(self.values, other.values, strict=True))


@dataclass(frozen=True, eq=False)
class Zca:
    """(pixels - mean) W with W = U diag((s + epsilon)^-1/2) U^T, over all c*h*w values of an image.

    `mean` (d,) float32, and the eigenvectors U (d, d, one a column) and eigenvalues s (d,) of the
    training pixels' covariance, float32: W and its inverse both follow from them. It takes the
    place of normalisation (Cazenavette et al., CVPR 2022; Krizhevsky 2009).
    """

    mean: Tensor
    eigenvectors: Tensor
    eigenvalues: Tensor
    epsilon: float = ZCA_EPSILON
    _placed: _Placed = field(default_factory=_Placed, init=False, repr=False)

    @classmethod
    def fit(cls, pixels: Tensor, epsilon: float = ZCA_EPSILON) -> Zca:
        """Of training images (n, c, h, w) in [0,1], n at least 2; the covariance is unbiased."""
        flat = pixels.detach().cpu().flatten(1)
        n, d = flat.shape
        if n < 2:
            raise ValueError("whitening needs at least 2 images")
        mean = flat.double().mean(dim=0)
        # Summed over blocks: the float64 copy of a whole dataset would take gigabytes.
        scatter = torch.zeros(d, d, dtype=torch.float64)
        for block in torch.split(flat, 4096):
            centred = block.double() - mean
            scatter += centred.T @ centred
        eigenvalues, eigenvectors = torch.linalg.eigh(scatter / (n - 1))
        # A negative eigenvalue is the rounding of a zero; LAPACK's vectors lie column by column.
        return cls(
            mean.float(),
            eigenvectors.float().contiguous(),
            eigenvalues.clamp(min=0).float(),
            epsilon,
        )

    @classmethod
    def restored(cls, state: Mapping[str, Any], shape: Sequence[int]) -> Zca:
        """Of the tensors and number of `state`, for images (c, h, w).

        Raises ValueError, as the end of a sentence about it, where they are no whitening of such.
        """
        d = math.prod(shape)
        tensors = {}
        for name, wanted in (("mean", (d,)), ("eigenvectors", (d, d)), ("eigenvalues", (d,))):
            tensor = state.get(name)
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                raise ValueError(f"its {name} are no float tensor")
            if tuple(tensor.shape) != wanted:
                raise ValueError(f"its {name} have the shape {tuple(tensor.shape)}, not {wanted}")
            if not is_whole(tensor) or not bool(tensor.isfinite().all()):
                raise ValueError(f"its {name} hold values that are not finite, or not there")
            tensors[name] = tensor.detach().float().contiguous()
        epsilon = state.get("epsilon")
        if not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
            raise ValueError(f"its epsilon {epsilon} is not above 0")
        if float(tensors["eigenvalues"].min()) < 0:
            raise ValueError("an eigenvalue is below 0")
        # V^T V r against r, for one random r a dozen times: the product itself takes minutes.
        probe = torch.randn(d, 12, generator=generator(0, "orthonormal"))
        vectors = tensors["eigenvectors"]
        if float((vectors.T @ (vectors @ probe) - probe).abs().max()) > ORTHONORMAL:
            raise ValueError("its eigenvectors are not orthonormal")
        return cls(**tensors, epsilon=float(epsilon))

    @property
    def name(self) -> str:
        return "zca"

    @property
    def state(self) -> dict[str, Any]:
        """All of it, as plain data for a file."""
        return {
            "mean": self.mean,
            "eigenvectors": self.eigenvectors,
            "eigenvalues": self.eigenvalues,
            "epsilon": self.epsilon,
        }

    @cached_property
    def identity(self) -> Any:
        digest = hashlib.sha256()
        for tensor in (self.mean, self.eigenvectors, self.eigenvalues):
            digest.update(tensor.contiguous().numpy().tobytes())
        return {"zca": digest.hexdigest(), "epsilon": self.epsilon}

    @cached_property
    def sketch(self) -> Sketch:
        """What tells this whitening from another of such images."""
        image = torch.rand(len(self.mean), generator=generator(0, "sketch"), dtype=torch.float64)
        vectors, scale = self.eigenvectors.double(), self.eigenvalues.double() + self.epsilon
        whitened = vectors @ ((image - self.mean) @ vectors * scale.rsqrt())
        some = whitened[:: max(1, len(whitened) // 16)].tolist()
        return Sketch(self.epsilon, tuple(round(value, 6) for value in some))

    def from_pixels(self, pixels: Tensor) -> Tensor:
        flat = (pixels - self._centre(pixels)).flatten(1)
        return (flat @ self._whitening(flat)).view(pixels.shape)

    def to_pixels(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (flat @ self._colouring(flat)).view(x.shape) + self._centre(x)

    def pull_back(self, gradient: Tensor) -> Tensor:
        # W is symmetric: the transpose of the whitening is the whitening.
        flat = gradient.flatten(-3).flatten(0, -2)
        return (flat @ self._whitening(flat)).view(gradient.shape)

    def _whitening(self, like: Tensor) -> Tensor:
        return self._placed("whitening", like, lambda: self._power(-0.5))

    def _colouring(self, like: Tensor) -> Tensor:
        return self._placed("colouring", like, lambda: self._power(0.5))

    def _power(self, power: float) -> Tensor:
        """U diag((s + epsilon)^power) U^T, symmetric to the last bit: (d, d) float64."""
        vectors = self.eigenvectors.double()
        made = vectors * (self.eigenvalues.double() + self.epsilon).pow(power) @ vectors.T
        return (made + made.T) / 2

    def _centre(self, like: Tensor) -> Tensor:
        return self._placed("mean", like, lambda: self.mean).view(like.shape[-3:])
