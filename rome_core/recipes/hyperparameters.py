"""What several methods can be told: their hyperparameters are put together from these parts.

Owns fields that mean the same wherever they stand. A method redefines a field only to give it
another default or bound, or to say what its own source has. Free of torch.

The parts that came after ROME are left out of a spec at their defaults (`exclude_if`), so that
specs of before them keep their bytes and hashes.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rome_core.recipes.attacks import FractionText
from rome_core.recipes.augmentation import OBJECTS, parse_strategy, spoils_whitened
from rome_core.recipes.networks import parse as parse_network

DSA = OBJECTS  # what its authors train with where a mirror changes nothing


def _strategy(name: str) -> str:
    parse_strategy(name)
    return name


def _network(name: str) -> str:
    return parse_network(name).name


def _uncoupled(name: str) -> str:
    if parse_network(name).couples_images:
        raise ValueError(
            "batch normalisation couples the images of a batch, and matching needs features of "
            "single images: take instance, group or layer"
        )
    return name


NetworkName = Annotated[str, Field(max_length=64), AfterValidator(_network)]
UncoupledNetworkName = Annotated[NetworkName, AfterValidator(_uncoupled)]
Strategy = Annotated[str, Field(max_length=128), AfterValidator(_strategy)]


class MethodHyperparameters(BaseModel):
    """What every built-in method has; a plug-in's model need not derive from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    whitening: Literal["none", "zca"] = Field(
        "none",
        exclude_if=lambda value: value == "none",
        description="zca: whiten images by the training set's ZCA with ridge 0.1 in the place of "
        "normalisation (Cazenavette et al. 2022). The set carries it, and is only good with it.",
    )

    @model_validator(mode="after")
    def _reference_is_normalised(self) -> Self:
        if self.whitening == "zca" and getattr(self, "attack_domain", None) == "reference":
            raise ValueError(
                "attack_domain=reference clamps normalised images, and whitening=zca takes the "
                "place of normalisation: use attack_domain=pixel"
            )
        return self

    @property
    def attacked_after(self) -> tuple[str, ...]:
        """Fields of the strategies whose augmented images are attacked in pixels."""
        return ("augmentation",) if getattr(self, "perturbed", "none") != "none" else ()

    @model_validator(mode="after")
    def _attacks_what_whitening_leaves(self) -> Self:
        if self.whitening == "zca":
            for name in self.attacked_after:
                spoilt = spoils_whitened(getattr(self, name, "none"))
                if spoilt is not None:
                    reason, remedy = spoilt
                    raise ValueError(f"{name} and whitening=zca: {reason}: {remedy}")
        return self


class Perturbing(BaseModel):
    """Whose images are attacked by PGD before they are matched, and how.

    `none` is the default of every method but ROME: no published version of another attacks any.
    """

    perturbed: Literal["none", "real", "synthetic", "both"] = Field(
        "none", description="Whose images are attacked before they are matched."
    )
    attack_domain: Literal["pixel", "reference"] = Field(
        "pixel",
        description="pixel: attack and clamp in [0,1] with normalisation inside the model. "
        "reference: attack normalised tensors and clamp those to [0,1], the released code's flaw.",
    )
    pgd_epsilon: FractionText = Field(
        "8/255", description="Linf radius in the units of the attack domain."
    )
    pgd_step: FractionText = Field("2/255", description="Step of one PGD iteration, same units.")
    pgd_steps: int = Field(10, ge=1, le=1_000, description="PGD iterations.")
    target_rule: Literal["modC", "mod10", "untargeted"] = Field(
        "untargeted",
        description="Target of the attack for label y: (y+1) mod classes, (y+1) mod 10 whatever "
        "the dataset, or none (away from y).",
    )


class CurvingImages(BaseModel):
    """Curvature regularisation: GUARD (Xue et al. 2025), after CURE (Moosavi-Dezfooli et al. 2019).

    With z = step * g / |g| for the gradient g of the loss by an image x, weight * |g(x+z) - g(x)|
    is added to the loss.
    """

    curvature_of_images: float = Field(
        0.0,
        ge=0,
        le=1e6,
        exclude_if=lambda value: value == 0,
        description="Weight of the curvature of the loss at the synthetic images, added to the "
        "matching loss.",
    )
    curvature_step: float = Field(
        3.0,
        gt=0,
        le=1e3,
        exclude_if=lambda value: value == 3.0,
        description="L2 length of the step over which gradients are compared, in the units "
        "networks take. GUARD: 3.",
    )


class Curving(CurvingImages):
    """The same for methods that train networks."""

    curvature_of_networks: float = Field(
        0.0,
        ge=0,
        le=1e6,
        exclude_if=lambda value: value == 0,
        description="Weight of the curvature of the loss at the images that the method's networks "
        "are trained on, added to their training loss. GUARD: 100.",
    )


class Selecting(BaseModel):
    """Which iterate is returned, and how iterates are judged."""

    selection: Literal["none", "holdout", "test"] = Field(
        "none",
        description="Which iterate is returned: the last, the best on held-out training images, or "
        "the best on the test set, as published results are.",
    )
    selection_score: Literal["clean", "robust"] = Field(
        "clean",
        description="What best means: mean accuracy of fresh students on images as they are, or "
        "under PGD as in the perturbation's fields.",
    )
    holdout: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="Fraction of each class kept out of the distillation for selection=holdout.",
    )
    eval_interval: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="Iterations between two evaluations, before the update.",
    )
    num_eval: int = Field(5, ge=1, le=100, description="Students trained for one such evaluation.")
    eval_epochs: int = Field(1_000, ge=1, le=100_000, description="Epochs of one such student.")

    @property
    def kept_out(self) -> float | None:
        """Fraction of each class that only judges iterates, None for nothing."""
        return self.holdout if self.selection == "holdout" else None

    @property
    def judged_steps(self) -> int | None:
        """Steps of a run, which `eval_interval` counts; None where the model alone can't say."""
        return getattr(self, "iterations", None)

    @model_validator(mode="after")
    def _something_is_judged(self) -> Self:
        steps = self.judged_steps
        if self.selection != "none" and steps is not None and self.eval_interval > steps:
            raise ValueError(
                f"eval_interval is above the {steps:,} steps of a run, so nothing would ever be "
                "selected: lower it, or set selection=none"
            )
        return self

    @model_validator(mode="after")
    def _robust_on_the_test_set_is_published(self) -> Self:
        robust = self.selection == "test" and self.selection_score == "robust"
        if robust and getattr(self, "attack_domain", "pixel") != "reference":
            raise ValueError(
                "selection=test looks at the test set: of robust accuracy only the reference "
                "domain allows it, to reproduce published numbers; use selection=holdout"
            )
        return self


class Compiling(BaseModel):
    """How first-order passes are run."""

    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compile the first-order passes: where a compiler is found and it pays, always "
        "(an error without a compiler), or never.",
    )
