"""The evaluation recipe: how students are trained on a synthetic set and what attacks them.

Owns the fields of `kind: evaluate` and the attacks there are. Every budget belongs to one attack
domain, because numbers from the two domains must never be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rome_core.recipes import networks
from rome_core.recipes.attacks import FractionText
from rome_core.recipes.augmentation import parse_strategy

DomainName = Literal["reference", "pixel"]
AttackName = Literal["clean", "clamp", "fgsm", "pgd"]
Mode = Literal["targeted", "untargeted"]

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class Students(BaseModel):
    """Training on the set, as published (Zhao et al. 2021; ROME 2025): see `students.py`."""

    model_config = STRICT

    count: int = Field(default=5, ge=1, le=100, description="Students, each with its own seed.")
    network: str = Field(default="convnet", description="A name from the catalogue of networks.")
    epochs: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="E: the loop runs E+1 epochs and drops the rate after epoch index E//2+1.",
    )
    batch: int = Field(default=256, ge=1, le=65_536, description="Images a step.")
    learning_rate: float = Field(
        default=0.01,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="Of SGD, whatever rate the set suggests, so that all sets are learned alike.",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, allow_inf_nan=False)
    weight_decay: float = Field(default=5e-4, ge=0, le=1, allow_inf_nan=False)
    augmentation: str | None = Field(
        default=None,
        max_length=128,
        description='DSA strategy, one operator a batch; null takes the set\'s own, "none" none.',
    )

    @field_validator("augmentation")
    @classmethod
    def _known_strategy(cls, strategy: str | None) -> str | None:
        if strategy is not None:
            parse_strategy(strategy)
        return strategy

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str) -> str:
        networks.parse(name)
        return name


TargetRule = Literal["mod10", "modC"]


class DomainBudget(BaseModel):
    """What an attacker may do in one domain. Fractions are of the [0,1] range it clamps to.

    The defaults are those of pixel space.
    """

    model_config = STRICT

    epsilon: FractionText = Field(default="8/255", description="Linf radius.")
    step: FractionText = Field(default="2/255", description="PGD's step size.")
    steps: int = Field(default=10, ge=1, le=1000, description="PGD's steps.")
    random_start: bool = Field(default=True, description="PGD starts inside the ball at random.")
    target_rule: TargetRule = Field(
        default="modC", description="Target of a targeted attack: (label + 1) mod 10, or mod C."
    )


class ReferenceBudget(DomainBudget):
    """The published evaluation, typo included: each field that is not given stays as published."""

    step: FractionText = Field(default="2/225", description="PGD's step size; a misprint.")
    random_start: bool = Field(default=False, description="PGD starts inside the ball at random.")
    target_rule: TargetRule = Field(
        default="mod10",
        description="Target of a targeted attack: (label + 1) mod 10, an error with fewer than ten "
        "classes, or mod C.",
    )


class Budgets(BaseModel):
    """One budget a domain, each with defaults of its own."""

    model_config = STRICT

    reference: ReferenceBudget = ReferenceBudget()
    pixel: DomainBudget = DomainBudget()


class EvaluateSpec(BaseModel):
    """`kind: evaluate`: train students on a synthetic set and measure them."""

    model_config = STRICT

    kind: Literal["evaluate"] = "evaluate"
    artifact: str = Field(
        min_length=1,
        max_length=200,
        description="Id of the synthetic set's artifact.",
    )
    dataset: str | None = Field(
        default=None,
        description="The set's dataset. Null takes what the set says; a bare reference file needs "
        "it.",
    )
    factor: Literal[1, 2] | None = Field(
        default=None,
        description="Only for a bare reference file, which does not say: 2 if each image packs "
        "four. Null takes what the set says.",
    )
    students: Students = Students()
    attacks: list[AttackName] = Field(
        default=["clean", "clamp", "fgsm", "pgd"], min_length=1, description="What to measure."
    )
    domains: list[DomainName] = Field(
        default=["reference", "pixel"],
        min_length=1,
        description="Attack domains; numbers of different domains are never comparable.",
    )
    modes: list[Mode] = Field(
        default=["targeted", "untargeted"], min_length=1, description="Aims of FGSM and PGD."
    )
    budgets: Budgets = Budgets()
    limit: int | None = Field(
        default=None, ge=1, description="Test images to use, drawn by the seed; null for all."
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1)

    @field_validator("attacks", "domains", "modes")
    @classmethod
    def _no_repeats(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("a name is given twice")
        return names


@dataclass(frozen=True)
class Attack:
    """One attack as a catalogue entry."""

    name: str
    title: str
    summary: str
    aimed: bool
    paper: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "modes": ["targeted", "untargeted"] if self.aimed else [],
            "domains": ["reference", "pixel"],
            "budget_schema": DomainBudget.model_json_schema(),
            "default_budgets": Budgets().model_dump(mode="json"),
            "paper": self.paper,
        }


ATTACKS: Mapping[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("clean", "No attack", "The test images as they are.", False, ""),
        Attack(
            "clamp",
            "The domain's clamp alone",
            "The images clamped to [0,1] in the attack's domain and nothing else: what an attack "
            "of zero strength does. In the reference domain it changes three pixels in four.",
            False,
            "",
        ),
        Attack(
            "fgsm",
            "Fast gradient sign method",
            "One step of size epsilon along the sign of the gradient.",
            True,
            "Goodfellow et al. 2015",
        ),
        Attack(
            "pgd",
            "Projected gradient descent, Linf",
            "Repeated signed steps, each projected back into the epsilon ball and clamped.",
            True,
            "Madry et al. 2018",
        ),
    )
}
