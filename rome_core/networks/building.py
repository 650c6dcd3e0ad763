"""From a spec to a network: without storage, or freshly initialised."""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import nn

from rome_core.networks.alexnet import AlexNet
from rome_core.networks.convnet import ConvNet
from rome_core.networks.lenet import LeNet
from rome_core.networks.mlp import MLP
from rome_core.networks.network import Network
from rome_core.networks.resnet import ResNet18
from rome_core.networks.vgg import VGG
from rome_core.recipes.networks import NetworkSpec, parse

CLASSES: Final[Mapping[str, type[Network]]] = {
    "convnet": ConvNet,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": VGG,
    "resnet18": ResNet18,
}


def blank(spec: NetworkSpec, *, channels: int, size: int, classes: int) -> Network:
    """A network on the meta device: shapes without storage. Raises CoreError as `build` does."""
    with torch.device("meta"):
        return CLASSES[spec.family](spec, channels=channels, size=size, classes=classes)


def build(
    spec: NetworkSpec | str, *, channels: int, size: int, classes: int, generator: torch.Generator
) -> Network:
    """Make a freshly initialised network on the CPU, in float32 and training mode.

    Weights and biases follow PyTorch's default distribution, uniform within 1/sqrt(fan-in), and
    come from `generator` alone. Raises ValueError for an unknown name and CoreError
    network_too_deep where the images are too small.
    """
    if isinstance(spec, str):
        spec = parse(spec)
    # Built without storage first: the constructors of layers would draw from the global generator.
    network = blank(spec, channels=channels, size=size, classes=classes)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d):
                layer.reset_parameters()
    return network
