"""VGG for small images."""

from typing import Final

from torch import Tensor, nn

from rome_core.networks.layers import activation, norm
from rome_core.networks.network import Network, too_deep
from rome_core.recipes.networks import NetworkSpec

VGG11_STAGES: Final = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Filters of the convolutions before each pooling."""


class VGG(Network):
    """Stages of 3x3 convolutions with norms, each ended by maximum pooling, then a linear layer.

    Simonyan and Zisserman 2015, configuration A, in the form of Zhao et al. 2021. The embedding is
    the flattened output of the last pooling: 512 numbers of a 32x32 image.
    """

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__(spec, channels=channels, size=size, classes=classes)
        layers: list[nn.Module] = []
        fan = channels
        # As in a ConvNet, 28x28 images are padded to 32x32.
        padding, side = (3, 32) if size == 28 else (1, size)
        for stage in VGG11_STAGES:
            for width in stage:
                layers.append(nn.Conv2d(fan, width, kernel_size=3, padding=padding))
                layers += [*norm(spec, width, side), activation(spec)]
                fan, padding = width, 1
            layers.append(nn.MaxPool2d(2))
            side //= 2
        if side < 1:
            raise too_deep(spec, size)
        self.features = nn.Sequential(*layers)
        self.embedding_size = fan * side * side
        self.classifier = nn.Linear(self.embedding_size, classes)

    def embed(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.features(x).flatten(1)
        return embedding
