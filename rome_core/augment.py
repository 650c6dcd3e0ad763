"""Differentiable augmentation and the 2x2 partition of a synthetic image.

Owns the operators of DSA (Zhao & Bilen 2021, "Dataset Condensation with Differentiable Siamese
Augmentation"), the drawing of their parameters and IDM's partition and expansion (Zhao et al.
2023). Drawing and applying are apart: parameters are data, so one draw serves several batches and
several draws batch in one call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from rome_core.recipes.augmentation import OPERATORS, STRATEGIES, parse_strategy

__all__ = [
    "OPERATORS",
    "STRATEGIES",
    "Augmentation",
    "apply",
    "concatenate",
    "draw",
    "expand",
    "mosaic",
    "parse_strategy",
    "shrink",
]

IDENTITY = -1
_NUMBER = {name: number for number, name in enumerate(OPERATORS)}


@dataclass(frozen=True, eq=False)
class Augmentation:
    """One row per image: its operator, and parameters, neutral for all other operators."""

    operator: Tensor  # (n,) int64: position in OPERATORS, or IDENTITY
    brightness: Tensor  # (n,) float64, added; neutral 0
    saturation: Tensor  # (n,) float64, factor of the distance to the channel mean; neutral 1
    contrast: Tensor  # (n,) float64, factor of the distance to the image mean; neutral 1
    shift: Tensor  # (n, 2) int64, rows and columns: out[i, j] = in[i + a, j + b]; neutral 0
    cutout: (
        Tensor  # (n, 2) int64, first row and column of the square, may be negative; neutral `size`
    )
    flip: Tensor  # (n,) bool; neutral False
    affine: Tensor  # (n, 2, 2) float64, output to input coordinates; neutral the unit matrix

    def __len__(self) -> int:
        return len(self.operator)

    def __getitem__(self, rows: slice | Tensor) -> "Augmentation":
        return Augmentation(*(getattr(self, f.name)[rows] for f in fields(self)))

    def repeat_interleave(self, times: int) -> "Augmentation":
        """Each row `times` times in place: rows of classes to rows of class-major images."""
        return Augmentation(
            *(getattr(self, f.name).repeat_interleave(times, dim=0) for f in fields(self))
        )


def draw(
    strategy: str, n: int, *, size: int, generator: torch.Generator, siamese: bool
) -> Augmentation:
    """Draw one operator for all `n` images and its parameters, per image or shared by all.

    A Siamese draw does not depend on `n`: drawn again from an equal generator for another batch it
    gives the same transformation. Parameters are float64, so runs in float32 and float64 share
    their draws. Raises ValueError for an unknown strategy.
    """
    operators = parse_strategy(strategy)
    rows = 1 if siamese else n
    drawn = _neutral(rows, size)
    if operators:
        name = operators[int(_integers(0, len(operators) - 1, (1,), generator))]
        drawn = _parameters(name, drawn, size, generator)
    return drawn.repeat_interleave(n) if siamese else drawn


def concatenate(parts: Sequence[Augmentation]) -> Augmentation:
    """Join draws in order, such as those of the classes of one batch."""
    return Augmentation(
        *(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Augmentation))
    )


def apply(x: Tensor, augmentation: Augmentation) -> Tensor:
    """Augment images of any units, (n, c, h, w) with h = w; differentiable, each image by itself.

    Every image meets its own operator alone, so a batch of several draws equals the draws one by
    one, bit for bit. Scale and rotate are linear about the centre, so the two conventions of
    PyTorch, `align_corners` of the paper's and of today's, are one map of square images. Raises
    ValueError where the numbers of images and rows differ.
    """
    if len(x) != len(augmentation):
        raise ValueError(f"{len(x)} images but {len(augmentation)} rows of augmentation")
    operator = augmentation.operator
    turns = (torch.nonzero(operator[1:] != operator[:-1]).flatten() + 1).tolist()
    names = tuple(OPERATORS)
    out = []
    for start, stop in pairwise([0, *turns, len(x)]):
        number = int(operator[start]) if stop > start else IDENTITY
        block, rows = x[start:stop], augmentation[start:stop]
        match names[number] if number != IDENTITY else "":
            case "color":
                block = _color(block, rows)
            case "crop":
                block = _crop(block, rows)
            case "cutout":
                block = _cutout(block, rows)
            case "flip":
                block = torch.where(_wide(rows.flip, block), block.flip(3), block)
            case "scale" | "rotate":
                block = _warp(block, rows)
        out.append(block)
    return torch.cat(out) if len(out) > 1 else out[0]


def expand(
    x: Tensor, labels: Tensor | None = None, factor: int = 2
) -> tuple[Tensor, Tensor | None]:
    """Decode mosaics: (n, c, h, w) -> (factor² n, c, h, w), and labels with them.

    Tiles are cut column by column (top-left, bottom-left, top-right, bottom-right), enlarged
    bilinearly and stacked in blocks: first every image's top-left, and so on. Zhao et al. 2023,
    IDM.
    """
    height, width = x.shape[2:]
    tall, wide = _tile(height, factor), _tile(width, factor)
    tiles = torch.cat(
        [
            x[:, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
            for column in range(factor)
            for row in range(factor)
        ]
    )  # (factor² n, c, h / factor, w / factor)
    whole = F.interpolate(tiles, size=(height, width), mode="bilinear", align_corners=False)
    return whole, None if labels is None else labels.repeat(factor**2)


def shrink(x: Tensor, factor: int = 2) -> Tensor:
    """Mean over factor x factor cells: (n, c, h, w) -> (n, c, h / factor, w / factor).

    For factor 2 this is bilinear resizing by one half without antialiasing.
    """
    _tile(x.shape[-2], factor)
    _tile(x.shape[-1], factor)
    return F.avg_pool2d(x, factor)


def mosaic(quadrants: Tensor) -> Tensor:
    """Lay tiles out in the order `expand` cuts them: (n, 4, c, h/2, w/2) -> (n, c, h, w)."""
    factor = math.isqrt(quadrants.shape[1])
    if factor**2 != quadrants.shape[1]:
        raise ValueError(f"{quadrants.shape[1]} tiles make no square")
    columns = [
        torch.cat([quadrants[:, column * factor + row] for row in range(factor)], dim=2)
        for column in range(factor)
    ]
    return torch.cat(columns, dim=3)


def _neutral(n: int, size: int) -> Augmentation:
    return Augmentation(
        operator=torch.full((n,), IDENTITY),
        brightness=torch.zeros(n, dtype=torch.float64),
        saturation=torch.ones(n, dtype=torch.float64),
        contrast=torch.ones(n, dtype=torch.float64),
        shift=torch.zeros(n, 2, dtype=torch.int64),
        cutout=torch.full((n, 2), size),
        flip=torch.zeros(n, dtype=torch.bool),
        affine=torch.eye(2, dtype=torch.float64).repeat(n, 1, 1),
    )


def _parameters(
    name: str, neutral: Augmentation, size: int, generator: torch.Generator
) -> Augmentation:
    """The neutral rows with the drawn parameters of one operator in place."""
    n = len(neutral)
    values = {f.name: getattr(neutral, f.name) for f in fields(neutral)}
    values["operator"] = torch.full((n,), _NUMBER[name])

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, dtype=torch.float64, generator=generator) * (high - low) + low

    match name:
        case "color":
            values["brightness"] = uniform(-0.5, 0.5)
            values["saturation"] = uniform(0.0, 2.0)
            values["contrast"] = uniform(0.5, 1.5)
        case "crop":
            reach = int(size * 0.125 + 0.5)
            values["shift"] = _integers(-reach, reach, (n, 2), generator)
        case "cutout":
            edge = _cutout_edge(size)
            # An even square may be centred on the far border: half of it is left then.
            values["cutout"] = _integers(0, size - edge % 2, (n, 2), generator) - edge // 2
        case "flip":
            values["flip"] = uniform(0.0, 1.0) < 0.5
        case "scale":
            values["affine"] = torch.diag_embed(
                torch.stack([uniform(1 / 1.2, 1.2), uniform(1 / 1.2, 1.2)], dim=1)
            )
        case "rotate":
            angle = uniform(-math.radians(15), math.radians(15))
            cos, sin = angle.cos(), angle.sin()
            values["affine"] = torch.stack([cos, -sin, sin, cos], dim=1).view(n, 2, 2)
    return Augmentation(**values)


def _color(x: Tensor, rows: Augmentation) -> Tensor:
    x = x + _wide(rows.brightness, x)
    mean = x.mean(dim=1, keepdim=True)  # (n, 1, h, w)
    x = (x - mean) * _wide(rows.saturation, x) + mean
    mean = x.flatten(1).mean(dim=1).view(-1, 1, 1, 1)
    return (x - mean) * _wide(rows.contrast, x) + mean


def _crop(x: Tensor, rows: Augmentation) -> Tensor:
    for axis in (0, 1):
        length = x.shape[2 + axis]
        source = torch.arange(length, device=x.device) + rows.shift[:, axis, None].to(x.device)
        inside = (source >= 0) & (source < length)  # (n, length)
        shape = (len(x), 1, length, 1) if axis == 0 else (len(x), 1, 1, length)
        index = source.clamp(0, length - 1).view(shape).expand(x.shape)
        x = x.gather(2 + axis, index).masked_fill(~inside.view(shape), 0)
    return x


def _cutout(x: Tensor, rows: Augmentation) -> Tensor:
    edge = _cutout_edge(x.shape[-1])
    place = torch.arange(x.shape[-1], device=x.device)
    first = rows.cutout.to(x.device)[:, :, None]  # (n, 2, 1)
    within = (place >= first) & (place < first + edge)  # (n, 2, size)
    return x.masked_fill((within[:, 0, :, None] & within[:, 1, None, :]).unsqueeze(1), 0)


def _warp(x: Tensor, rows: Augmentation) -> Tensor:
    size = x.shape[-1]
    line = torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device) * ((size - 1) / size)
    across, down = line.view(1, 1, size), line.view(1, size, 1)
    # Written out, not affine_grid: its matrix product may round differently for other batch sizes.
    m = rows.affine.to(x)[:, :, :, None, None]  # (n, 2, 2, 1, 1)
    grid = torch.stack(
        [m[:, 0, 0] * across + m[:, 0, 1] * down, m[:, 1, 0] * across + m[:, 1, 1] * down], dim=3
    )  # (n, size, size, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1), in the type of the images unless boolean."""
    values = values.to(x.device) if values.dtype == torch.bool else values.to(x)
    return values.view(-1, 1, 1, 1)


def _integers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform integers, both ends included."""
    return torch.randint(low, high + 1, shape, generator=generator)


def _cutout_edge(size: int) -> int:
    return int(size * 0.5 + 0.5)


def _tile(length: int, factor: int) -> int:
    if length % factor:
        raise ValueError(f"a side of {length} does not divide into {factor}")
    return length // factor
