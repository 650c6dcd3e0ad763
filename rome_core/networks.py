"""The ConvNet family: what a NetworkSpec looks like in PyTorch.

Owns layers, initialisation and the embedding. It neither trains nor attacks, and touches no global
generator.
"""

import math

import torch
from torch import Tensor, nn

from rome_core.errors import CoreError
from rome_core.recipes.networks import NetworkSpec, parse


class ConvNet(nn.Module):
    """`depth` blocks of convolution, norm, activation and pooling, then one linear layer.

    Zhao et al. 2021; the state dict has the keys of the published checkpoints. Inputs are
    normalised images (n, channels, size, size) in any memory format.
    """

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.spec = spec
        self.channels, self.size, self.classes = channels, size, classes
        fan = channels
        # 28x28 images are padded to 32x32 by the first convolution, as the reference does.
        padding, side = (3, 32) if size == 28 else (1, size)
        for _ in range(spec.depth):
            layers.append(nn.Conv2d(fan, spec.width, kernel_size=3, padding=padding))
            layers += [*_norm(spec, side), _activation(spec)]
            if spec.pooling != "nopool":
                layers.append(nn.MaxPool2d(2) if spec.pooling == "max" else nn.AvgPool2d(2))
                side //= 2
            fan, padding = spec.width, 1
        if side < 1:
            raise CoreError(
                "network_too_deep",
                f"{spec.name} halves {size}x{size} images away.",
                "Take a smaller depth such as convnet-d2, or nopool.",
                field="network",
            )
        self.features = nn.Sequential(*layers)
        self.embedding_size = spec.width * side * side
        self.classifier = nn.Linear(self.embedding_size, classes)

    def embed(self, x: Tensor) -> Tensor:
        """The flattened output of the last pooling: (n, c, h, w) -> (n, embedding_size)."""
        embedding: Tensor = self.features(x).flatten(1)
        return embedding

    def embed_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both in one pass: (n, c, h, w) -> (n, embedding_size), (n, classes)."""
        embedding = self.embed(x)
        return embedding, self.classifier(embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (n, c, h, w) -> (n, classes)."""
        logits: Tensor = self.classifier(self.embed(x))
        return logits


def build(
    spec: NetworkSpec | str, *, channels: int, size: int, classes: int, generator: torch.Generator
) -> ConvNet:
    """Make a freshly initialised network on the CPU, in float32 and training mode.

    Weights and biases follow PyTorch's default distribution, uniform within 1/sqrt(fan-in), and
    come from `generator` alone. Raises ValueError for an unknown name and CoreError where the
    images are too small.
    """
    if isinstance(spec, str):
        spec = parse(spec)
    # Built without storage first: the constructors of layers would draw from the global generator.
    with torch.device("meta"):
        network = ConvNet(spec, channels=channels, size=size, classes=classes)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                assert layer.bias is not None
                layer.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(layer, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d):
                layer.reset_parameters()
    return network


def _norm(spec: NetworkSpec, side: int) -> list[nn.Module]:
    match spec.norm:
        case "batch":
            return [nn.BatchNorm2d(spec.width)]
        case "layer":
            return [nn.LayerNorm([spec.width, side, side])]
        case "instance":
            return [nn.GroupNorm(spec.width, spec.width)]
        case "group":
            return [nn.GroupNorm(4, spec.width)]
        case _:
            return []


def _activation(spec: NetworkSpec) -> nn.Module:
    match spec.activation:
        case "sigmoid":
            return nn.Sigmoid()
        case "leakyrelu":
            return nn.LeakyReLU(0.01, inplace=True)
        case "swish":
            return nn.SiLU()
        case _:
            return nn.ReLU(inplace=True)
