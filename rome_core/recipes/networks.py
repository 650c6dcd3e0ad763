"""The names of networks: what `convnet-d4-w64-batch` means and which parts there are. Torch-free.

Owns the families, parsing, the canonical name and the catalogue; `rome_core.networks` builds what a
name says. The families and their published variants are those of Zhao et al. 2021, "Dataset
Condensation with Gradient Matching", and of what was compared with it since.
"""

from collections.abc import Mapping
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
SHRINKINGS: Final = {
    "stride": "convolutions of stride 2 between stages",
    "ap": "2x2 means instead of strides, and none over all positions at the end",
}
DEPTHS: Final = (1, 2, 3, 4)
WIDTHS: Final = (32, 64, 128, 256)
MAX_DEPTH: Final = 6
MAX_WIDTH: Final = 1024
FIELDS: Final = ("depth", "width", "norm", "activation", "pooling")
NUMBERS: Final = {"d": "depth", "w": "width"}
"""Fields that a name gives as a letter and a number."""


@dataclass(frozen=True)
class Family:
    """One kind of network: its standard one, and what of it a name may change.

    `parts` has the published words of every field that may be chosen, with what they mean. The
    other fields are the standard network's; depth and width, where chosen, take any number.
    """

    summary: str
    depth: int
    width: int
    norm: str
    activation: str
    pooling: str
    parts: Mapping[str, Mapping[str, str]]


_INSTANCE_OR_BATCH = {"norm": {name: NORMS[name] for name in ("batch", "instance")}}

FAMILIES: Final[Mapping[str, Family]] = {
    "convnet": Family(
        "The field's reference: depth 3, width 128.",
        depth=3,
        width=128,
        norm="instance",
        activation="relu",
        pooling="avg",
        parts={
            "depth": {f"d{n}": f"{n} block{'s' * (n > 1)}" for n in DEPTHS},
            "width": {f"w{n}": f"{n} filters a block" for n in WIDTHS},
            "norm": NORMS,
            "activation": ACTIVATIONS,
            "pooling": POOLINGS,
        },
    ),
    "mlp": Family(
        "Multi-layer perceptron: two hidden layers of 128 units.",
        depth=2,
        width=128,
        norm="nonorm",
        activation="relu",
        pooling="nopool",
        parts={
            "depth": {"d2": "2 hidden layers"},
            "width": {"w128": "128 units a hidden layer"},
        },
    ),
    "lenet": Family(
        "LeNet-5 (LeCun et al. 1998) with rectified linear units and maximum pooling.",
        depth=2,
        width=16,
        norm="nonorm",
        activation="relu",
        pooling="max",
        parts={},
    ),
    "alexnet": Family(
        "AlexNet (Krizhevsky et al. 2012) for small images: five convolutions, one linear layer.",
        depth=5,
        width=256,
        norm="nonorm",
        activation="relu",
        pooling="max",
        parts={},
    ),
    "vgg11": Family(
        "VGG11 (Simonyan and Zisserman 2015), instance norm after each of eight convolutions.",
        depth=8,
        width=512,
        norm="instance",
        activation="relu",
        pooling="max",
        parts=_INSTANCE_OR_BATCH,
    ),
    "resnet18": Family(
        "ResNet18 (He et al. 2016) for small images: eight residual blocks with instance norm.",
        depth=8,
        width=512,
        norm="instance",
        activation="relu",
        pooling="stride",
        parts={**_INSTANCE_OR_BATCH, "pooling": SHRINKINGS},
    ),
}


@dataclass(frozen=True)
class NetworkSpec:
    """A network of one family. The defaults are the reference network of the field, `convnet`.

    A ConvNet is blocks of 3x3 convolution, norm, activation and pooling, then one linear layer.
    Depth counts blocks of a ConvNet or ResNet, hidden layers of an MLP and convolutions of the
    others; width is the filters or units of the widest of them; pooling is how maps get smaller.
    """

    depth: int = 3
    width: int = 128
    norm: str = "instance"
    activation: str = "relu"
    pooling: str = "avg"
    family: str = "convnet"

    def __post_init__(self) -> None:
        family = _family(self.family)
        limits = {"depth": MAX_DEPTH, "width": MAX_WIDTH}
        for field in FIELDS:
            value, known = getattr(self, field), family.parts.get(field)
            if known is None:
                standard = getattr(family, field)
                if value != standard:
                    raise ValueError(f"{field} of {self.family} is {standard!r}, not {value!r}")
            elif field in limits:
                most, letter = limits[field], field[0]
                if not 1 <= value <= most:
                    raise ValueError(
                        f"{field} {letter}{value} is not in {letter}1 to {letter}{most}"
                    )
            elif value not in known:
                raise ValueError(f"{field} {value!r} is not one of {', '.join(known)}")
        if self.norm == "group" and self.width % 4:
            raise ValueError(f"norm group has four groups: width w{self.width} is no multiple of 4")

    @property
    def name(self) -> str:
        """The canonical name: the family and what differs from its standard, in field order."""
        family = FAMILIES[self.family]
        different = [f for f in family.parts if getattr(self, f) != getattr(family, f)]
        return "-".join((self.family, *(_word(field, getattr(self, field)) for field in different)))

    @property
    def couples_images(self) -> bool:
        """Whether an image's output in training depends on the others of its batch."""
        return self.norm == "batch"


@dataclass(frozen=True)
class NetworkPart:
    """One word that may stand in a network's name."""

    name: str
    field: str
    description: str
    default: bool


def parse(name: str) -> NetworkSpec:
    """Read a network's name: its family, then parts in any order and case, joined by hyphens.

    Raises ValueError that names the wrong part and the choices there are.
    """
    kind, *parts = name.lower().split("-")
    try:
        family = _family(kind)
        fields: dict[str, str | int] = {"family": kind}
        for part in parts:
            field, value = _read(kind, part)
            if field in fields:
                raise ValueError(f"{part!r} gives the {field} a second time")
            fields[field] = value
        standard = {field: getattr(family, field) for field in FIELDS}
        return NetworkSpec(**{**standard, **fields})  # each of its type
    except ValueError as problem:
        raise ValueError(f"{name!r}: {problem}") from None


def reference(size: int) -> str:
    """The field's network for images of `size` pixels a side: a fourth block from 64 on."""
    return "convnet-d4" if size >= 64 else "convnet"


def catalogue(family: str = "convnet") -> tuple[NetworkPart, ...]:
    """Every published part of a family's names, in the order of the fields."""
    known = _family(family)
    return tuple(
        NetworkPart(word, field, description, word == _word(field, getattr(known, field)))
        for field, words in known.parts.items()
        for word, description in words.items()
    )


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise ValueError(f"unknown network family {name!r}; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _word(field: str, value: str | int) -> str:
    return f"{field[0]}{value}" if field in NUMBERS.values() else str(value)


def _read(kind: str, part: str) -> tuple[str, str | int]:
    known = FAMILIES[kind].parts
    field, number = NUMBERS.get(part[:1], ""), part[1:]
    if field in known and number.isascii() and number.isdigit():
        return field, int(number)
    for field, words in known.items():
        if field not in NUMBERS.values() and part in words:
            return field, part
    if not known:
        raise ValueError(f"unknown part {part!r}: {kind} is the whole name")
    limits = {"depth": f"d1 to d{MAX_DEPTH}", "width": f"w1 to w{MAX_WIDTH}"}
    choices = [limits[field] if field in limits else ", ".join(known[field]) for field in known]
    raise ValueError(f"unknown part {part!r}; choices of {kind} are {', '.join(choices)}")
