"""What all networks share: an embedding, and one linear layer that reads it."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from rome_core.errors import CoreError
from rome_core.recipes.networks import NetworkSpec, parse


class Network(nn.Module, ABC):
    """A network for normalised images (n, channels, size, size) in any memory format.

    A family sets `embedding_size` and its layers, whose names are those of the published code, so
    that anybody's state dicts load: `stem` is its first layer with weights, `head` the last.
    """

    stem: ClassVar[str] = "features.0"
    head: str = "classifier"
    embedding_size: int

    def __init__(self, spec: NetworkSpec, *, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.channels, self.size, self.classes = channels, size, classes

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """What the last linear layer reads: (n, c, h, w) -> (n, embedding_size)."""

    def embed_and_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both in one pass: (n, c, h, w) -> (n, embedding_size), (n, classes)."""
        embedding = self.embed(x)
        return embedding, getattr(self, self.head)(embedding)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (n, c, h, w) -> (n, classes)."""
        return self.embed_and_logits(x)[1]


def too_deep(spec: NetworkSpec, size: int) -> CoreError:
    """The error for images that a network leaves nothing of, which names one that fits."""
    depth = min(3, size.bit_length() - 1)
    fits = f"{parse(f'convnet-d{depth}').name} or mlp" if depth else "mlp"
    return CoreError(
        "network_too_deep",
        f"{spec.name} halves {size}x{size} images away.",
        f"Take a network that fits, such as {fits}.",
        field="network",
    )
