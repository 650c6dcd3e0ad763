"""The evaluation recipe: who is attacked, under which protocols, with what changed.

Owns the fields of `kind: evaluate` and `kind: transfer`. What is measured and how belongs to the
protocols: `rome_core.recipes.protocols`.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from rome_core.recipes import networks, protocols
from rome_core.recipes.attacks import STRICT, FractionText, Mode
from rome_core.recipes.augmentation import parse_strategy
from rome_core.recipes.problems import SpecError, repeated
from rome_core.recipes.protocols import Entry, Protocol


class AdversarialTraining(BaseModel):
    """Students learn from attacked images alone: by PGD in the Linf ball (Madry et al. 2018).

    Each batch, once augmented, is attacked against the student as it then is, and takes the clean
    batch's place; the labels stay true. Sizes are of the [0,1] range that the domain clamps to.
    """

    model_config = STRICT

    domain: Literal["reference", "pixel"] = Field(
        default="pixel", description="The space the attack moves in."
    )
    epsilon: FractionText = Field(default="8/255", description="Linf radius.")
    step: FractionText = Field(default="2/255", description="PGD's step size.")
    steps: int = Field(default=10, ge=1, le=1000, description="PGD's steps.")
    random_start: bool = Field(default=True, description="PGD starts inside the ball at random.")
    mode: Literal["untargeted"] = Field(default="untargeted", description="The attack's aim.")


Rate = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class Students(BaseModel):
    """Training on the set, as published (Zhao et al. 2021; ROME 2025): see `students.py`."""

    model_config = STRICT

    count: int = Field(default=5, ge=1, le=100, description="Students, each with its own seed.")
    network: str = Field(
        default="set",
        description="A name from the catalogue of networks. set takes the one the set was made "
        "with, narrow where that was, and for a set that no network made (a random subset, full "
        "data, a bare file) the field's for images of the size: convnet, or convnet-d4 from 64 "
        "pixels a side on. To compare sets of several networks, name one.",
    )
    epochs: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="E: the loop runs E+1 epochs and drops the rate after epoch index E//2+1.",
    )
    batch: int = Field(default=256, ge=1, le=65_536, description="Images a step.")
    learning_rate: Rate | Literal["set"] = Field(
        default="set",
        description="Of SGD: set takes the set's own, which is 0.01 unless its method learned one "
        "(MTT), as published; a number takes it for every set.",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, allow_inf_nan=False)
    weight_decay: float = Field(default=5e-4, ge=0, le=1, allow_inf_nan=False)
    augmentation: str | None = Field(
        default=None,
        max_length=128,
        description='DSA strategy, one operator a batch; null takes the set\'s own, "none" none.',
    )
    # Left out at its default, as the next one.
    labels: Literal["set", "hard"] = Field(
        default="set",
        exclude_if=lambda value: value == "set",
        description="What is learned: set takes soft labels where the set has them, hard never.",
    )
    # Left out where there is none, so that specs and reports of before it keep their bytes.
    adversarial: AdversarialTraining | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="Adversarial training; null trains on clean images.",
    )

    @field_validator("learning_rate", mode="wrap")
    @classmethod
    def _one_problem(cls, rate: Any, validated: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validated(rate)
        except ValidationError:  # one of each kind that it might have been
            raise ValueError("must be a number above 0 and at most 100, or set") from None

    @field_validator("augmentation")
    @classmethod
    def _known_strategy(cls, strategy: str | None) -> str | None:
        if strategy is not None:
            parse_strategy(strategy)
        return strategy

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str) -> str:
        if name != "set":
            networks.parse(name)
        return name


MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$"


class ModelRef(BaseModel):
    """A trained network: weights that an earlier job left, or a file beside the datasets."""

    model_config = STRICT

    artifact: str | None = Field(
        default=None, min_length=1, max_length=200, description="Id of an artifact with weights."
    )
    file: str | None = Field(
        default=None,
        max_length=128,
        pattern=MODEL_NAME,
        description="NAME of models/NAME.pth, .pt or .safetensors under the data root.",
    )
    network: str | None = Field(
        default=None,
        description="A name from the catalogue of networks; null reads it from the file, or from "
        "the shapes of its weights where they leave no doubt.",
    )
    # Left out where there is none, so that specs of before it keep their bytes.
    whitening: Literal["zca"] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        description="zca: its images were whitened by the dataset's ZCA; null reads it from the "
        "file, and takes normalised ones where it does not say.",
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$",
        description="What reports call it; null takes the file's or artifact's own.",
    )

    @field_validator("network")
    @classmethod
    def _known_network(cls, name: str | None) -> str | None:
        if name is not None:
            networks.parse(name)
        return name

    @model_validator(mode="after")
    def _one_source(self) -> "ModelRef":
        if (self.artifact is None) == (self.file is None):
            raise ValueError("give artifact or file, and not both")
        return self

    @property
    def label(self) -> str:
        return self.name or self.file or str(self.artifact)

    @property
    def source(self) -> tuple[str | None, ...]:
        """What makes it another model than others, whatever they are called."""
        return self.artifact, self.file, self.network, self.whitening


class _Asked(BaseModel):
    """What both kinds share: the protocol's attacks, what is changed in them, and the images."""

    model_config = STRICT

    attacks: list[str] | None = Field(
        default=None,
        min_length=1,
        description="Names of the protocol's attacks; null takes its default ones.",
    )
    modes: list[Mode] = Field(
        default=["targeted", "untargeted"],
        min_length=1,
        description="Aims of attacks that have them.",
    )
    overrides: dict[str, dict[str, Any]] = Field(
        default={},
        description="Settings changed, by attack and field, such as {pgd: {steps: 50}}. Results "
        "say so and are not comparable with the protocol's own.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="Test images to use, drawn by the seed; null for as many as the protocol says.",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Compiled passes, where they pay: equal within rounding, which flips the sign "
        "of a gradient here and there.",
    )

    @field_validator("attacks", "modes")
    @classmethod
    def _no_repeats(cls, names: list[str] | None) -> list[str] | None:
        return _unique(names)


class EvaluateSpec(_Asked):
    """`kind: evaluate`: attack students trained on a synthetic set, or models there are.

    Exactly one of `artifact` and `models` is given.
    """

    kind: Literal["evaluate"] = "evaluate"
    artifact: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Id of the synthetic set's artifact, to train students on.",
    )
    models: list[ModelRef] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Trained networks, instead of a set.",
    )
    dataset: str | None = Field(
        default=None,
        description="Whose test images are attacked. Null takes what the set says; models, and a "
        "bare reference file, need it.",
    )
    factor: Literal[1, 2] | None = Field(
        default=None,
        description="Only for a bare reference file, which does not say: 2 if each image packs "
        "four. Null takes what the set says.",
    )
    students: Students = Students()
    protocols: list[str] = Field(
        default=["pixel@1"],
        min_length=1,
        description="Names from the catalogue of protocols; numbers of two are never comparable.",
    )
    probes: bool = Field(
        default=True,
        description="Look for signs that the numbers deceive, such as masked gradients.",
    )

    @field_validator("protocols")
    @classmethod
    def _no_protocol_twice(cls, names: list[str]) -> list[str]:
        _unique(names)
        return names

    @field_validator("models")
    @classmethod
    def _names_differ(cls, models: list[ModelRef] | None) -> list[ModelRef] | None:
        return _named_apart(models)

    @model_validator(mode="after")
    def _one_subject(self) -> "EvaluateSpec":
        if (self.artifact is None) == (self.models is None):
            raise ValueError("give artifact (a synthetic set) or models, and not both")
        if self.models is not None and self.dataset is None:
            raise ValueError("models do not say their dataset: give dataset")
        return self

    @property
    def artifacts(self) -> list[str]:
        """Every artifact the job reads."""
        own = [model.artifact for model in self.models or []]
        return list(dict.fromkeys(name for name in (self.artifact, *own) if name is not None))


class TransferSpec(_Asked):
    """`kind: transfer`: what one model's adversarial images do to the others.

    Rows of the matrix are crafting models (`sources`), columns evaluated ones (`targets`).
    """

    kind: Literal["transfer"] = "transfer"
    sources: list[ModelRef] = Field(
        min_length=1, max_length=100, description="Models that adversarial images are crafted on."
    )
    targets: list[ModelRef] | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        description="Models that see them; null: sources.",
    )
    dataset: str = Field(description="Whose test images are attacked.")
    protocol: str = Field(default="pixel@1", description="A name from the catalogue of protocols.")

    @field_validator("sources", "targets")
    @classmethod
    def _names_differ(cls, models: list[ModelRef] | None) -> list[ModelRef] | None:
        return _named_apart(models)

    @field_validator("targets")
    @classmethod
    def _no_source_by_the_name(
        cls, targets: list[ModelRef] | None, info: ValidationInfo
    ) -> list[ModelRef] | None:
        sources = {model.label: model.source for model in info.data.get("sources", [])}
        for model in targets or []:
            if sources.get(model.label, model.source) != model.source:
                raise repeated(
                    f"a source and a target are both called {model.label!r} and are different "
                    "models",
                    "Give one of them another name.",
                )
        return targets

    @property
    def artifacts(self) -> list[str]:
        """Every artifact the job reads."""
        every = [*self.sources, *(self.targets or [])]
        return list(dict.fromkeys(model.artifact for model in every if model.artifact is not None))


def _unique(names: list[Any] | None) -> list[Any] | None:
    if twice := [name for name in dict.fromkeys(names or []) if (names or []).count(name) > 1]:
        raise repeated(f"there twice: {', '.join(map(repr, twice))}", "Name each once.")
    return names


def _named_apart(models: list[ModelRef] | None) -> list[ModelRef] | None:
    labels = [model.label for model in models or []]
    if twice := [name for name in dict.fromkeys(labels) if labels.count(name) > 1]:
        raise repeated(
            f"two models are called {' and '.join(map(repr, twice))}",
            "Give one of them another name, or the same one once.",
        )
    return models


def resolved(protocol: str, asked: _Asked, field: str = "protocols") -> Protocol:
    """The protocol a spec names, with its overrides. Raises SpecError."""
    found = protocols.find(protocol)
    if found is None:
        raise SpecError([protocols.unknown_protocol(field, protocol)])
    return protocols.overridden(found, asked.overrides)


def chosen(protocol: Protocol, asked: _Asked) -> list[Entry]:
    """The protocol's attacks that a spec asks for, in the protocol's order.

    Of several protocols each runs those it has. An evaluation always has clean accuracy, and what
    the clamp alone leaves of it, beside its numbers.
    """
    beside = () if isinstance(asked, TransferSpec) else ("clean", "clamp")
    default = protocol.transfer if isinstance(asked, TransferSpec) else protocol.default
    names = {*beside, *(default if asked.attacks is None else asked.attacks)}
    return [entry for entry in protocol.entries if entry.name in names]
