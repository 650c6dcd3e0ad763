"""The words of an attack: domains, target rules, and each attack's complete settings. Torch-free.

A settings object says everything that changes an attack's numbers. Sizes are exact text in units of
the space the attack moves in, in [0, 1]: "8/255" stays 8/255.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Domain(StrEnum):
    """The space an attack moves in. Numbers from the two must never be compared."""

    REFERENCE = "reference"
    """Attack the normalised tensor, clamp it to [0, 1]: the published protocol, flaw included."""
    PIXEL = "pixel"
    """Attack pixels in [0, 1]; the model normalises. The sound protocol."""


TARGET_RULES: Final = {
    "mod10": "(label + 1) mod 10 whatever the number of classes: the published rule",
    "modC": "(label + 1) mod the number of classes",
    "untargeted": "away from the true label",
}


# No exponents, signs or spaces: a few characters stay a few digits, and one number has few texts.
_NUMBER: Final = r"[0-9]+(\.[0-9]+)?|[0-9]+/[1-9][0-9]*"


def parse_fraction(text: str | int | Fraction) -> Fraction:
    """Read an exact non-negative number: `8/255`, `0.5`, `2`. Raises ValueError."""
    if isinstance(text, str) and not re.fullmatch(_NUMBER, text):
        raise ValueError("not a number like 8/255, 0.03 or 1")
    number = Fraction(text)
    if number < 0:
        raise ValueError(f"{text!r} is negative")
    return number


def _part_of_one(text: str) -> str:
    if parse_fraction(text) > 1:
        raise ValueError('must lie between 0 and 1, such as "8/255"')
    return text


def _a_radius(text: str) -> str:
    if parse_fraction(text) > 10_000:
        raise ValueError('must be at most 10000, such as "1/2"')
    return text


EXACT_PATTERN: Final = f"^({_NUMBER})$"
"""Of exact sizes, and of nothing else, in JSON schemas."""

_SHOWN: Final = {"pattern": EXACT_PATTERN}

FractionText = Annotated[
    str, Field(max_length=32, json_schema_extra=_SHOWN), AfterValidator(_part_of_one)
]
"""A size in an attack's space, in [0, 1], as exact text: 8/255 stays 8/255."""

RadiusText = Annotated[
    str, Field(max_length=32, json_schema_extra=_SHOWN), AfterValidator(_a_radius)
]
"""A radius as exact text: of one value of an image under Linf, of a whole image under L2."""


@dataclass(frozen=True)
class Budget:
    """How far an Linf attack may go, in units of the space it moves in, and how it gets there."""

    epsilon: Fraction
    step: Fraction
    steps: int
    random_start: bool

    def __post_init__(self) -> None:
        if self.epsilon < 0 or self.step < 0:
            raise ValueError(f"epsilon {self.epsilon} and step {self.step} must not be negative")
        if self.steps < 0:
            raise ValueError(f"steps {self.steps} must not be negative")

    @classmethod
    def of(
        cls,
        epsilon: str | int | Fraction = "8/255",
        step: str | int | Fraction = "2/255",
        steps: int = 10,
        random_start: bool = True,
    ) -> "Budget":
        """Make a budget from exact texts; `2/225` is the step the published code uses."""
        return cls(parse_fraction(epsilon), parse_fraction(step), steps, random_start)


NormName = Literal["linf", "l2"]
Mode = Literal["targeted", "untargeted"]
MODES: Final[tuple[Mode, ...]] = ("targeted", "untargeted")

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class Settings(BaseModel):
    """What every attack's settings share: the name of the attack they are of."""

    model_config = STRICT

    attack: str


class CleanSettings(Settings):
    """No attack: the images as they are."""

    attack: Literal["clean"] = "clean"


class ClampSettings(Settings):
    """The clamp to [0, 1] in the attack's space, and nothing else."""

    attack: Literal["clamp"] = "clamp"


class FgsmSettings(Settings):
    """Goodfellow et al. 2015."""

    attack: Literal["fgsm"] = "fgsm"
    epsilon: FractionText = Field(default="8/255", description="Linf radius.")


class PgdSettings(Settings):
    """Madry et al. 2018."""

    attack: Literal["pgd"] = "pgd"
    norm: NormName = Field(default="linf", description="Norm of the ball and of the step.")
    epsilon: RadiusText = Field(default="8/255", description="Radius of the ball.")
    step: RadiusText = Field(default="2/255", description="Length of a step in that norm.")
    steps: int = Field(default=10, ge=1, le=10_000)
    random_start: bool = Field(default=True, description="Start inside the ball at random.")
    restarts: int = Field(default=1, ge=1, le=1000, description="Starts, each for what is left.")
    loss: Literal["ce", "dlr", "margin"] = Field(default="ce", description="What is climbed.")
    early_stop: bool = Field(
        default=True, description="An image leaves as soon as the attack has reached its goal."
    )


class DeepFoolSettings(Settings):
    """Moosavi-Dezfooli et al. 2016."""

    attack: Literal["deepfool"] = "deepfool"
    steps: int = Field(default=50, ge=1, le=10_000)
    overshoot: float = Field(default=0.02, ge=0, le=10, allow_inf_nan=False)
    classes: int | None = Field(
        default=10, ge=2, description="Nearest classes that are looked at; null for all."
    )
    overshoot_on: Literal["total", "step"] = Field(
        default="total",
        description="The paper's total perturbation, or each step, as torchattacks does.",
    )
    epsilon: RadiusText | None = Field(
        default="1/2", description="L2 radius within which a perturbation counts; null for any."
    )


class CwSettings(Settings):
    """Carlini and Wagner 2017, L2."""

    attack: Literal["cw"] = "cw"
    c: float = Field(default=1.0, gt=0, le=1e10, allow_inf_nan=False, description="Start of c.")
    kappa: float = Field(default=0.0, ge=0, le=1000, allow_inf_nan=False, description="Confidence.")
    steps: int = Field(default=100, ge=1, le=100_000, description="Of Adam, for each c.")
    learning_rate: float = Field(default=0.01, gt=0, le=10, allow_inf_nan=False)
    binary_search_steps: int = Field(
        default=5, ge=1, le=50, description="Values of c tried for each image; 1 keeps c."
    )
    margin: Literal["sound", "published"] = Field(
        default="sound", description="published zeroes negative logits, as torchattacks does."
    )
    stop: Literal["image", "batch"] = Field(
        default="image",
        description="Whose cost ends the steps early when it no longer falls: each image's own, or "
        "the sum over a batch, as torchattacks does.",
    )
    epsilon: RadiusText | None = Field(
        default="1/2", description="L2 radius within which a perturbation counts; null for any."
    )


class ApgdSettings(Settings):
    """Auto-PGD, Croce and Hein 2020."""

    attack: Literal["apgd"] = "apgd"
    norm: NormName = "linf"
    epsilon: RadiusText = Field(default="8/255", description="Radius of the ball.")
    steps: int = Field(default=100, ge=1, le=10_000)
    restarts: int = Field(default=1, ge=1, le=1000)
    loss: Literal["ce", "dlr", "dlr-targeted", "margin"] = Field(
        default="ce", description="dlr-targeted tries `target_classes` classes one after another."
    )
    target_classes: int = Field(default=9, ge=1, le=10_000, description="For dlr-targeted.")
    rho: float = Field(default=0.75, gt=0, lt=1, allow_inf_nan=False)
    eot: int = Field(default=1, ge=1, le=1000, description="Gradients averaged a step.")

    def classes_needed(self) -> int:
        """Fewer classes than this, and the loss means nothing."""
        return {"dlr-targeted": 4, "dlr": 3}.get(self.loss, 2)


class FabSettings(Settings):
    """Fast adaptive boundary attack, Croce and Hein 2020."""

    attack: Literal["fab"] = "fab"
    norm: NormName = "linf"
    epsilon: RadiusText = Field(default="8/255", description="A perturbation counts within it.")
    steps: int = Field(default=100, ge=1, le=10_000)
    restarts: int = Field(default=1, ge=1, le=1000)
    multi_target: bool = Field(
        default=True, description="FAB-T: one target class after another, the likeliest first."
    )
    target_classes: int = Field(default=9, ge=1, le=10_000, description="For multi_target.")
    alpha_max: float = Field(default=0.1, ge=0, le=1, allow_inf_nan=False)
    eta: float = Field(default=1.05, ge=1, le=10, allow_inf_nan=False)
    beta: float = Field(default=0.9, ge=0, le=1, allow_inf_nan=False)


class SquareSettings(Settings):
    """Square attack, Andriushchenko et al. 2020."""

    attack: Literal["square"] = "square"
    norm: NormName = "linf"
    epsilon: RadiusText = Field(default="8/255", description="Radius of the ball.")
    queries: int = Field(
        default=5000, ge=1, le=1_000_000, description="Forward passes an image and restart."
    )
    restarts: int = Field(default=1, ge=1, le=1000)
    p_init: float = Field(default=0.8, gt=0, le=1, allow_inf_nan=False)
    loss: Literal["margin", "ce"] = "margin"


class AutoAttackSettings(Settings):
    """AutoAttack, Croce and Hein 2020: an ensemble in cascade, each for what is left."""

    attack: Literal["autoattack"] = "autoattack"
    norm: NormName = "linf"
    epsilon: RadiusText = Field(default="8/255", description="Radius of the ball.")
    version: Literal["standard", "plus", "rand"] = "standard"
    steps: int = Field(default=100, ge=1, le=10_000, description="Of APGD and FAB.")
    queries: int = Field(default=5000, ge=1, le=1_000_000, description="Of Square.")


class SpsaSettings(Settings):
    """Uesato et al. 2018: gradients estimated from queries alone."""

    attack: Literal["spsa"] = "spsa"
    epsilon: FractionText = Field(default="8/255", description="Linf radius.")
    delta: float = Field(default=0.01, gt=0, le=1, allow_inf_nan=False)
    learning_rate: float = Field(default=0.01, gt=0, le=1, allow_inf_nan=False)
    steps: int = Field(default=40, ge=1, le=10_000)
    samples: int = Field(
        default=128,
        ge=2,
        le=65_536,
        multiple_of=2,
        description="Queries a step: pairs of +- delta.",
    )
    early_stop: bool = True


class MiFgsmSettings(Settings):
    """Momentum iterative FGSM, Dong et al. 2018."""

    attack: Literal["mi-fgsm"] = "mi-fgsm"
    epsilon: FractionText = Field(default="8/255", description="Linf radius.")
    step: FractionText = "2/255"
    steps: int = Field(default=10, ge=1, le=10_000)
    decay: float = Field(default=1.0, ge=0, le=10, allow_inf_nan=False)


class VmiFgsmSettings(Settings):
    """Variance-tuned momentum iterative FGSM, Wang and He 2021."""

    attack: Literal["vmi-fgsm"] = "vmi-fgsm"
    epsilon: FractionText = Field(default="8/255", description="Linf radius.")
    step: FractionText = "2/255"
    steps: int = Field(default=10, ge=1, le=10_000)
    decay: float = Field(default=1.0, ge=0, le=10, allow_inf_nan=False)
    samples: int = Field(default=5, ge=1, le=1000, description="Neighbours a step.")
    beta: float = Field(
        default=1.5, ge=0, le=100, allow_inf_nan=False, description="Their range, in epsilons."
    )


SETTINGS: Final[dict[str, type[Settings]]] = {
    kind.model_fields["attack"].default: kind
    for kind in (
        CleanSettings,
        ClampSettings,
        FgsmSettings,
        PgdSettings,
        DeepFoolSettings,
        CwSettings,
        ApgdSettings,
        FabSettings,
        SquareSettings,
        AutoAttackSettings,
        SpsaSettings,
        MiFgsmSettings,
        VmiFgsmSettings,
    )
}
"""Every attack there is, by name."""
