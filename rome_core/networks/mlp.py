"""The multi-layer perceptron."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from rome_core.networks.network import Network
from rome_core.recipes.networks import NetworkSpec


class MLP(Network):
    """`depth` hidden layers of `width` units, then one linear layer.

    Layers are `fc_1`, `fc_2` and so on. The embedding is the activations of the last hidden one.
    """

    stem = "fc_1"

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__(spec, channels=channels, size=size, classes=classes)
        self.embedding_size = spec.width
        widths = (channels * size**2, *[spec.width] * spec.depth, classes)
        for place, (fan, width) in enumerate(pairwise(widths), start=1):
            self.add_module(f"fc_{place}", nn.Linear(fan, width))
        self.head = f"fc_{spec.depth + 1}"

    def embed(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for place in range(1, self.spec.depth + 1):
            x = F.relu(self.get_submodule(f"fc_{place}")(x))
        return x
