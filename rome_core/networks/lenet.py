"""LeNet."""

import torch.nn.functional as F
from torch import Tensor, nn

from rome_core.networks.layers import activation
from rome_core.networks.network import Network, too_deep
from rome_core.recipes.networks import NetworkSpec


class LeNet(Network):
    """Two 5x5 convolutions with maximum pooling, then three linear layers.

    LeCun et al. 1998, with rectified linear units. The embedding is the 84 activations that the
    last linear layer reads.
    """

    head = "fc_3"

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__(spec, channels=channels, size=size, classes=classes)
        # Grey images are padded, so that 28x28 ones lead to the maps of coloured 32x32 ones.
        padding = 2 if channels == 1 else 0
        side = ((size + 2 * padding - 4) // 2 - 4) // 2
        if side < 1:
            raise too_deep(spec, size)
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, kernel_size=5, padding=padding),
            activation(spec),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            activation(spec),
            nn.MaxPool2d(2),
        )
        self.fc_1 = nn.Linear(16 * side * side, 120)
        self.fc_2 = nn.Linear(120, 84)
        self.embedding_size = 84
        self.fc_3 = nn.Linear(84, classes)

    def embed(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc_1(self.features(x).flatten(1)))
        return F.relu(self.fc_2(x))
