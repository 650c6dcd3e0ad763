"""The words of an attack: domains, budgets and target rules. Torch-free."""

import re
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Final

from pydantic import AfterValidator, Field


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


FractionText = Annotated[
    str,
    Field(max_length=32, json_schema_extra={"pattern": f"^({_NUMBER})$"}),
    AfterValidator(_part_of_one),
]
"""A size in an attack's space, in [0, 1], as exact text: 8/255 stays 8/255."""


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
