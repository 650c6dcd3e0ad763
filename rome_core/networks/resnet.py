"""ResNet18 for small images, also with mean pooling instead of strides."""

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

from rome_core.networks.layers import norm
from rome_core.networks.network import Network, too_deep
from rome_core.recipes.networks import NetworkSpec

STAGES: Final = (64, 128, 256, 512)
"""Filters of each stage. All but the first halve the side of the maps."""


class ResNet18(Network):
    """A 3x3 convolution, four stages of two residual blocks, then one linear layer.

    He et al. 2016, in the form of Zhao et al. 2021. The embedding is the mean of the last maps over
    all positions: 512 numbers. With pooling `ap`, 2x2 means take the place of strides, and the
    embedding is the last maps themselves, flattened: 512x4x4 numbers of a 32x32 image.
    """

    stem = "conv1"

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__(spec, channels=channels, size=size, classes=classes)
        self.conv1 = nn.Conv2d(channels, STAGES[0], kernel_size=3, padding=1, bias=False)
        (self.bn1,) = norm(spec, STAGES[0], size)
        side = size
        for place, (fan, width) in enumerate(
            zip((STAGES[0], *STAGES[:-1]), STAGES, strict=True), 1
        ):
            shrinks = place > 1
            side = _halved(spec, side) if shrinks else side
            blocks = _Block(spec, fan, width, side, shrinks), _Block(spec, width, width, side)
            self.add_module(f"layer{place}", nn.Sequential(*blocks))
        if side < 2:  # a norm over a map's only position leaves nothing of it
            raise too_deep(spec, size)
        self.embedding_size = STAGES[-1] * (side**2 if spec.pooling == "ap" else 1)
        self.classifier = nn.Linear(self.embedding_size, classes)

    def embed(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for place in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{place}")(x)
        return x.flatten(1) if self.spec.pooling == "ap" else x.mean((2, 3))


class _Block(nn.Module):
    """Two 3x3 convolutions with norms, added to what came in.

    (n, fan, h, w) -> (n, width, side, side), with half the side where it `shrinks`.
    """

    def __init__(
        self, spec: NetworkSpec, fan: int, width: int, side: int, shrinks: bool = False
    ) -> None:
        super().__init__()
        pooled = shrinks and spec.pooling == "ap"
        stride = 2 if shrinks and not pooled else 1
        self.conv1 = nn.Conv2d(fan, width, kernel_size=3, stride=stride, padding=1, bias=False)
        (self.bn1,) = norm(spec, width, side)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        (self.bn2,) = norm(spec, width, side)
        self.pooled = pooled
        self.shortcut = nn.Sequential()
        if shrinks:
            self.shortcut.append(nn.Conv2d(fan, width, kernel_size=1, stride=stride, bias=False))
            if pooled:
                self.shortcut.append(nn.AvgPool2d(2))
            self.shortcut.extend(norm(spec, width, side))

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        if self.pooled:
            inner = F.avg_pool2d(inner, 2)
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def _halved(spec: NetworkSpec, side: int) -> int:
    return side // 2 if spec.pooling == "ap" else (side + 1) // 2
