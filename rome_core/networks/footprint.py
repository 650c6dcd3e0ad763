"""What one image costs a network, found by a pass of shapes without values."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from rome_core.errors import CoreError
from rome_core.networks.building import blank
from rome_core.recipes.networks import NetworkSpec


@dataclass(frozen=True)
class Footprint:
    """Of one image forward: `operations` of floating point, numbers in the `largest` activation.

    Operations are those of convolutions and linear layers, all else is about 1 %.
    """

    operations: int
    largest: int


@cache
def footprint(
    spec: NetworkSpec, *, channels: int = 3, size: int = 32, classes: int = 10
) -> Footprint:
    """Raises CoreError network_too_deep where the images are too small."""
    network = blank(spec, channels=channels, size=size, classes=classes).eval()
    operations, largest = 0, channels * size**2

    def look(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal operations, largest
        largest = max(largest, output.numel())
        if isinstance(layer, nn.Conv2d | nn.Linear):
            operations += 2 * output.numel() * layer.weight[0].numel()

    for layer in network.modules():
        layer.register_forward_hook(look)
    network(torch.empty(1, channels, size, size, device="meta"))
    return Footprint(operations, largest)


def operations(spec: NetworkSpec, size: int) -> int:
    """Of one image of three channels forward.

    None where images are too small for the network: that is said where one is made.
    """
    try:
        return footprint(spec, size=size).operations
    except CoreError:
        return 0
