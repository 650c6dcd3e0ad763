"""The names of networks: what `convnet-d4-w64-batch` means and which parts there are. Torch-free.

Owns parsing, the canonical name and the catalogue; `rome_core.networks` builds what a name says.
The family and its published variants are those of Zhao et al. 2021, "Dataset Condensation with
Gradient Matching".
"""

from dataclasses import dataclass
from typing import Final

NORMS: Final = {
    "nonorm": "no normalisation",
    "batch": "batch normalisation with running statistics",
    "layer": "layer normalisation over channels and positions",
    "instance": "one group per channel, affine, no running statistics",
    "group": "group normalisation with four groups",
}
ACTIVATIONS: Final = {
    "sigmoid": "logistic sigmoid",
    "relu": "rectified linear unit",
    "leakyrelu": "rectified linear unit with slope 0.01 below zero",
    "swish": "x times its logistic sigmoid",
}
POOLINGS: Final = {
    "nopool": "no pooling: the resolution stays",
    "max": "2x2 maximum, stride 2",
    "avg": "2x2 mean, stride 2",
}
DEPTHS: Final = (1, 2, 3, 4)
WIDTHS: Final = (32, 64, 128, 256)
MAX_DEPTH: Final = 6
MAX_WIDTH: Final = 1024


@dataclass(frozen=True)
class NetworkSpec:
    """Blocks of 3x3 convolution, norm, activation and pooling, then one linear layer.

    The defaults are the reference network of the field, written `convnet`.
    """

    depth: int = 3
    width: int = 128
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= MAX_DEPTH:
            raise ValueError(f"depth d{self.depth} is not in d1 to d{MAX_DEPTH}")
        if not 1 <= self.width <= MAX_WIDTH:
            raise ValueError(f"width w{self.width} is not in w1 to w{MAX_WIDTH}")
        choices = (("norm", NORMS), ("activation", ACTIVATIONS), ("pooling", POOLINGS))
        for field, known in choices:
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} {getattr(self, field)!r} is not one of {', '.join(known)}"
                )
        if self.norm == "group" and self.width % 4:
            raise ValueError(f"norm group has four groups: width w{self.width} is no multiple of 4")

    @property
    def name(self) -> str:
        """The canonical name: `convnet` and what differs from it, in the order of the fields."""
        standard = NetworkSpec()
        parts = ["convnet"]
        if self.depth != standard.depth:
            parts.append(f"d{self.depth}")
        if self.width != standard.width:
            parts.append(f"w{self.width}")
        parts += [
            getattr(self, field)
            for field in ("norm", "activation", "pooling")
            if getattr(self, field) != getattr(standard, field)
        ]
        return "-".join(parts)


@dataclass(frozen=True)
class NetworkPart:
    """One word that may stand in a network's name."""

    name: str
    field: str
    description: str
    default: bool


def parse(name: str) -> NetworkSpec:
    """Read a network's name: `convnet`, then parts in any order and case, joined by hyphens.

    Raises ValueError that names the wrong part and the choices there are.
    """
    family, *parts = name.lower().split("-")
    if family != "convnet":
        raise ValueError(f"{name!r}: unknown network family {family!r}; the one there is: convnet")
    fields: dict[str, str | int] = {}
    for part in parts:
        field, value = _read(name, part)
        if field in fields:
            raise ValueError(f"{name!r}: {part!r} gives the {field} a second time")
        fields[field] = value
    try:
        return NetworkSpec(**fields)  # type: ignore[arg-type]  # _read pairs each field with its type
    except ValueError as problem:
        raise ValueError(f"{name!r}: {problem}") from None


def catalogue() -> tuple[NetworkPart, ...]:
    """Every published part of a name, in the order of the fields."""
    standard = NetworkSpec()
    parts = [
        NetworkPart(f"d{n}", "depth", f"{n} block{'s' * (n > 1)}", n == standard.depth)
        for n in DEPTHS
    ]
    parts += [
        NetworkPart(f"w{n}", "width", f"{n} filters a block", n == standard.width) for n in WIDTHS
    ]
    for field, words in (("norm", NORMS), ("activation", ACTIVATIONS), ("pooling", POOLINGS)):
        parts += [
            NetworkPart(word, field, description, word == getattr(standard, field))
            for word, description in words.items()
        ]
    return tuple(parts)


def _read(name: str, part: str) -> tuple[str, str | int]:
    if part[:1] in ("d", "w") and part[1:].isascii() and part[1:].isdigit():
        return ("depth" if part[0] == "d" else "width"), int(part[1:])
    for field, words in (("norm", NORMS), ("activation", ACTIVATIONS), ("pooling", POOLINGS)):
        if part in words:
            return field, part
    raise ValueError(
        f"{name!r}: unknown part {part!r}; choices are d1 to d{MAX_DEPTH}, w1 to w{MAX_WIDTH}, "
        + ", ".join((*NORMS, *ACTIVATIONS, *POOLINGS))
    )
