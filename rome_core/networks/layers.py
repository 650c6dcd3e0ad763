"""Layers that families share: norms, in a form for each way of running them, and activations."""

import torch
from torch import Tensor, nn

from rome_core.recipes.networks import NetworkSpec


class GroupNorm(nn.GroupNorm):
    """PyTorch's group normalisation of maps (n, c, h, w), in a form that is exact and fast.

    Eager it runs on contiguous maps: PyTorch's channels-last kernel loses small variances, and its
    other one does not. With `fusible`, a norm with a group a channel is spelt out as operations
    that a compiler fuses; see `make_fusible`.
    """

    fusible = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fusible and self.num_groups == self.num_channels:
            return _instance_norm(x, self.weight, self.bias, self.eps)
        return super().forward(x.contiguous())


def make_fusible(network: nn.Module) -> None:
    """Put the group norms of a network into the form that is to be traced and compiled."""
    for layer in network.modules():
        if isinstance(layer, GroupNorm):
            layer.fusible = True


def norm(spec: NetworkSpec, width: int, side: int) -> list[nn.Module]:
    """The norm of maps (n, width, side, side), or none."""
    match spec.norm:
        case "batch":
            return [nn.BatchNorm2d(width)]
        case "layer":
            return [nn.LayerNorm([width, side, side])]
        case "instance":
            return [GroupNorm(width, width)]
        case "group":
            return [GroupNorm(4, width)]
        case _:
            return []


def activation(spec: NetworkSpec) -> nn.Module:
    """In place where that is possible: what comes before it is not looked at again."""
    match spec.activation:
        case "sigmoid":
            return nn.Sigmoid()
        case "leakyrelu":
            return nn.LeakyReLU(0.01, inplace=True)
        case "swish":
            return nn.SiLU()
        case _:
            return nn.ReLU(inplace=True)


def _instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group normalisation with a group a channel.

    Centred twice: nearly constant channels, which clamped images have, drown in the rounding of the
    first mean, and the gradient of such an image was wrong by a tenth.
    """
    x = x - x.mean((2, 3), keepdim=True)
    x = x - x.mean((2, 3), keepdim=True)
    scale = torch.rsqrt(x.square().mean((2, 3), keepdim=True) + eps)
    return x * (scale * weight.view(1, -1, 1, 1)) + bias.view(1, -1, 1, 1)
