"""AlexNet for small images."""

from torch import Tensor, nn

from rome_core.networks.layers import activation
from rome_core.networks.network import Network, too_deep
from rome_core.recipes.networks import NetworkSpec


class AlexNet(Network):
    """Five convolutions, three of them followed by maximum pooling, then one linear layer.

    Krizhevsky et al. 2012, in the form of Zhao et al. 2021. The embedding is the flattened output
    of the last pooling.
    """

    head = "fc"

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__(spec, channels=channels, size=size, classes=classes)
        # Grey images are padded further, so that 28x28 ones become maps of 32x32.
        padding = 4 if channels == 1 else 2
        side = (size + 2 * padding - 4) // 2 // 2 // 2
        if side < 1:
            raise too_deep(spec, size)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, kernel_size=5, padding=padding),
            activation(spec),
            nn.MaxPool2d(2),
            nn.Conv2d(128, 192, kernel_size=5, padding=2),
            activation(spec),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 256, kernel_size=3, padding=1),
            activation(spec),
            nn.Conv2d(256, 192, kernel_size=3, padding=1),
            activation(spec),
            nn.Conv2d(192, 192, kernel_size=3, padding=1),
            activation(spec),
            nn.MaxPool2d(2),
        )
        self.embedding_size = 192 * side * side
        self.fc = nn.Linear(self.embedding_size, classes)

    def embed(self, x: Tensor) -> Tensor:
        embedding: Tensor = self.features(x).flatten(1)
        return embedding
