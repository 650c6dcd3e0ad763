"""Networks trained on the real data before a method begins: MTT's experts, teachers, feature nets.

Owns the fields of `kind: experts`, and what a method says it needs. Free of torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rome_core.recipes.augmentation import spoils_whitened
from rome_core.recipes.evaluate import AdversarialTraining
from rome_core.recipes.hyperparameters import NetworkName, Strategy
from rome_core.recipes.networks import parse

MAX_SEED = 2**63 - 1
DEFAULT_SEED = 0
"""Of experts that a job needs and names none of: one file then serves jobs of every seed, as one
buffer serves all published runs."""


def _all_weights(name: str) -> str:
    if parse(name).couples_images:
        raise ValueError(
            "the running statistics of batch normalisation are no weights that a method could "
            "match or restore: take instance, group or layer"
        )
    return name


class ExpertTraining(BaseModel):
    """How some networks are trained on the whole training set, and which epochs are kept.

    The defaults are the published expert buffers (Cazenavette et al., CVPR 2022): SGD at a constant
    rate without momentum or decay, one snapshot before the first epoch and one after each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    network: Annotated[NetworkName, AfterValidator(_all_weights)] = Field(
        "convnet", description="A name from the catalogue, without batch normalisation."
    )
    count: int = Field(100, ge=1, le=10_000, description="Networks, each with its own seed.")
    epochs: int = Field(50, ge=0, le=10_000, description="Passes over the training set.")
    keep: Literal["all", "last"] = Field(
        "all",
        description="all: the weights before the first epoch and after each. last: the final ones.",
    )
    learning_rate: float = Field(0.01, gt=0, le=100, description="Of SGD.")
    schedule: Literal["constant", "step"] = Field(
        "constant", description="step: a tenth of the rate from the middle of the epochs on."
    )
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0, le=1)
    batch: int = Field(256, ge=1, le=65_536, description="Images a step.")
    augmentation: Strategy | None = Field(
        None,
        description="DSA strategy, parameters per image; null takes the dataset's own, which "
        "mirrors no digits.",
    )
    adversarial: AdversarialTraining | None = Field(
        default=None, description="Learn from attacked images alone; null trains on clean ones."
    )
    curvature_weight: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="Weight of the curvature of the loss at the images, added to it (GUARD, Xue et "
        "al. 2025: 100).",
    )
    curvature_step: float = Field(
        3.0, gt=0, le=1e3, description="Over which gradients are compared. GUARD: 3."
    )

    @property
    def attack_steps(self) -> int:
        """Of each image, before it is trained on: an input gradient each."""
        return self.adversarial.steps if self.adversarial else 0

    @property
    def passes_an_image(self) -> int:
        """Forward and backward, whenever an image is trained on."""
        return self.attack_steps + 1

    def settled(self, own: str) -> Self:
        """The same with the dataset's own strategy where this names none."""
        return self if self.augmentation else self.model_copy(update={"augmentation": own})


class ExpertsSpec(ExpertTraining):
    """`kind: experts`: an artifact of trained networks, made once and read by many jobs."""

    kind: Literal["experts"] = "experts"
    dataset: str = Field(description="A name from the catalogue of datasets, npz: or folder:.")
    whitening: Literal["none", "zca"] = Field(
        "none", description="zca: on whitened images, for methods that whiten."
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Drawn and recorded when absent.")

    @model_validator(mode="after")
    def _reference_is_normalised(self) -> Self:
        attack = self.adversarial
        if self.whitening == "zca" and attack is not None and attack.domain == "reference":
            raise ValueError(
                "adversarial.domain reference holds normalised images, and whitened ones are none: "
                "take pixel"
            )
        return self

    @model_validator(mode="after")
    def _attacks_what_whitening_leaves(self) -> Self:
        if self.whitening == "zca" and self.adversarial is not None:
            spoilt = spoils_whitened(self.augmentation)
            if spoilt is not None:
                reason, remedy = spoilt
                raise ValueError(
                    f"augmentation, whitening=zca and adversarial together: {reason}: {remedy}"
                )
        return self
