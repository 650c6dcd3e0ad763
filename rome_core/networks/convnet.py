"""The ConvNet family, the reference of the field."""

from torch import Tensor, nn

from rome_core.networks.layers import activation, norm
from rome_core.networks.network import Network, too_deep
from rome_core.recipes.networks import NetworkSpec


class ConvNet(Network):
    """`depth` blocks of convolution, norm, activation and pooling, then one linear layer.

    Zhao et al. 2021. The embedding is the flattened output of the last pooling.
    """

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__(spec, channels=channels, size=size, classes=classes)
        layers: list[nn.Module] = []
        fan = channels
        # 28x28 images are padded to 32x32 by the first convolution, as the reference does.
        padding, side = (3, 32) if size == 28 else (1, size)
        for _ in range(spec.depth):
            layers.append(nn.Conv2d(fan, spec.width, kernel_size=3, padding=padding))
            layers += [*norm(spec, spec.width, side), activation(spec)]
            if spec.pooling != "nopool":
                layers.append(nn.MaxPool2d(2) if spec.pooling == "max" else nn.AvgPool2d(2))
                side //= 2
            fan, padding = spec.width, 1
        if side < 1:
            raise too_deep(spec, size)
        self.features = nn.Sequential(*layers)
        self.embedding_size = spec.width * side * side
        self.classifier = nn.Linear(self.embedding_size, classes)

    def embed(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.features(x).flatten(1)
        return embedding
