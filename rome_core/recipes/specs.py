"""From a body to the canonical spec: everything filled in, checked and hashable.

Owns the fields of `kind: distill`, merging of presets and the spec's hash. A canonical spec is a
fixed point: `canonical(canonical(body)) == canonical(body)`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rome_core.recipes import catalogue
from rome_core.recipes.attacks import EXACT_PATTERN
from rome_core.recipes.datasets import DATASETS, OWN_FORMS, unknown_dataset
from rome_core.recipes.evaluate import (
    AdversarialTraining,
    EvaluateSpec,
    TransferSpec,
    resolved,
)
from rome_core.recipes.experts import ExpertsSpec, ExpertTraining
from rome_core.recipes.method import MethodRecipe
from rome_core.recipes.presets import Preset
from rome_core.recipes.problems import FieldProblem, SpecError, from_validation, unknown_name
from rome_core.recipes.protocols import PROTOCOLS

MAX_SEED = 2**63 - 1
KINDS = ("distill", "evaluate", "transfer", "experts")


class DistillSpec(BaseModel):
    """`kind: distill`: make a synthetic set of `ipc` images per class from a real dataset."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["distill"] = "distill"
    method: str = Field(description="A name from the catalogue of methods.")
    dataset: str = Field(
        description="A name from the catalogue of datasets, npz:NAME or folder:NAME."
    )
    ipc: int = Field(
        ge=1,
        le=1_000_000,
        description="Synthetic images per class; left out where the method takes every real image.",
    )
    preset: str | None = Field(
        default=None,
        description="Gives every field that is not given beside it; method must be the preset's.",
    )
    overrides: list[str] = Field(
        default=[],
        description="Computed: the fields that differ from the preset. A given value is replaced.",
    )
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="Drawn and recorded when absent.")
    hyperparameters: dict[str, Any] = Field(
        default={}, description="Of the method; its schema is in the catalogue."
    )
    experts: str | None = Field(
        default=None,
        description="Artifact with the trained networks that the method needs; null: they are "
        "trained first.",
    )


class WholeSpec(DistillSpec):
    """Of a method that takes every real image there is."""

    ipc: None = Field(default=None)  # type: ignore[assignment]  # a number elsewhere


def canonical(body: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """The canonical spec of a body: preset merged, every default and the seed filled in.

    `seed` is used where the body gives none. Raises SpecError with every problem found.
    """
    kind = body.get("kind", "distill")
    if kind not in KINDS:
        raise SpecError([unknown_name("kind", "kind of job", kind, KINDS)])
    filled = {"kind": kind, "seed": seed, **body}
    if kind == "evaluate":
        return _evaluate(filled)
    if kind == "transfer":
        return _transfer(filled)
    if kind == "experts":
        return _experts(filled)
    return _distill(filled)


def spec_hash(canonical: Mapping[str, Any]) -> str:
    """sha256 (hex) over the sorted compact JSON of a canonical spec."""
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def schema(kind: str) -> dict[str, Any]:
    """The JSON schema of a body of this kind, with each method's hyperparameters as a choice."""
    if kind == "evaluate":
        return EvaluateSpec.model_json_schema()
    if kind == "transfer":
        return TransferSpec.model_json_schema()
    if kind == "experts":
        described = ExpertsSpec.model_json_schema()
        described["properties"]["dataset"]["examples"] = [*DATASETS, *OWN_FORMS]
        return described
    if kind != "distill":
        raise SpecError([unknown_name("kind", "kind of job", kind, KINDS)])
    described = DistillSpec.model_json_schema()
    described["required"] = []  # A preset gives method, dataset and ipc.
    fields = described["properties"]
    fields["method"]["enum"] = [recipe.name for recipe in catalogue.methods()]
    fields["dataset"]["examples"] = [*DATASETS, *OWN_FORMS]
    fields["preset"]["examples"] = [preset.name for preset in catalogue.presets()]
    fields["hyperparameters"]["anyOf"] = [
        recipe.hyperparameters.model_json_schema() for recipe in catalogue.methods()
    ]
    return described


def is_exact(field: str) -> bool:
    """Whether a field, by its path, is a size in exact text: `overrides.pgd.epsilon`, not `.steps`.

    A shell's 0.5 is meant as that text where it is.
    """
    models: list[type[BaseModel]]
    match field.split("."):
        case ["overrides", attack, name]:
            entries = [entry for protocol in PROTOCOLS.values() for entry in protocol.entries]
            models = [type(entry.settings) for entry in entries if entry.name == attack]
        case ["students", "adversarial", name] | ["adversarial", name]:
            models = [AdversarialTraining]
        case ["hyperparameters", name]:
            models = [recipe.hyperparameters for recipe in catalogue.methods()]
        case _:
            return False
    described = [model.model_json_schema()["properties"].get(name, {}) for model in models]
    kinds = [kind for one in described for kind in (one, *one.get("anyOf", []))]
    return any(kind.get("pattern") == EXACT_PATTERN for kind in kinds)


def resource_class(canonical: Mapping[str, Any]) -> str:
    """The lane that may run this spec. One so far: every job runs on CPU."""
    return "cpu"


def _evaluate(body: Mapping[str, Any]) -> dict[str, Any]:
    _check_subject(body)
    try:
        spec = EvaluateSpec.model_validate(body)
    except ValidationError as error:
        raise SpecError(from_validation(error, EvaluateSpec)) from error
    problems, ids = _attack_problems(spec, spec.protocols, "protocols")
    if spec.dataset is not None:
        problems += [found for found in [unknown_dataset(spec.dataset)] if found is not None]
    if len(set(ids)) != len(ids):
        problems.append(FieldProblem("protocols", "one is given twice", "Name each once."))
    if problems:
        raise SpecError(problems)
    return {**spec.model_dump(mode="json"), "protocols": ids}


def _check_subject(body: Mapping[str, Any]) -> None:
    """Students of a set, or models of a dataset: said of a field, where the model's say of none."""
    given = [name for name in ("artifact", "models") if body.get(name) is not None]
    if len(given) == 2:
        problem = FieldProblem(
            "models", "there is an artifact to train students on as well", "Leave one of them out."
        )
    elif not given:
        problem = FieldProblem(
            "artifact",
            "nothing is said of who is attacked",
            "Give artifact, a synthetic set to train students on, or models, trained networks.",
        )
    elif given == ["models"] and body.get("dataset") is None:
        problem = FieldProblem(
            "dataset", "models do not say their dataset", "Name the one whose images are attacked."
        )
    else:
        return
    raise SpecError([problem])


def _transfer(body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        spec = TransferSpec.model_validate(body)
    except ValidationError as error:
        raise SpecError(from_validation(error, TransferSpec)) from error
    problems, ids = _attack_problems(spec, [spec.protocol], "protocol")
    problems += [found for found in [unknown_dataset(spec.dataset)] if found is not None]
    if problems:
        raise SpecError(problems)
    return {**spec.model_dump(mode="json"), "protocol": ids[0]}


def _experts(body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        spec = ExpertsSpec.model_validate(body)
    except ValidationError as error:
        raise SpecError(from_validation(error, ExpertsSpec)) from error
    unknown = unknown_dataset(spec.dataset)
    if unknown is not None:
        raise SpecError([unknown])
    return spec.model_dump(mode="json")


def _attack_problems(
    spec: EvaluateSpec | TransferSpec, names: Sequence[str], field: str
) -> tuple[list[FieldProblem], list[str]]:
    """What is wrong with protocols, attacks and overrides; and the protocols with their versions.

    An attack or an override must belong to one of the protocols at least.
    """
    problems: list[FieldProblem] = []
    found = []
    for name in names:
        try:
            found.append(resolved(name, spec, field))
        except SpecError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if not problems:
        known = list(dict.fromkeys(name for protocol in found for name in protocol.names()))
        problems += [
            unknown_name("attacks", "attack of the protocol", name, known)
            for name in spec.attacks or []
            if name not in known
        ]
        problems += [
            unknown_name(f"overrides.{name}", "attack of the protocol", name, known)
            for name in spec.overrides
            if name not in known
        ]
    return problems, [protocol.id for protocol in found]


def _distill(body: dict[str, Any]) -> dict[str, Any]:
    preset = _preset(body.get("preset"))
    problems: list[FieldProblem] = []
    if preset is not None:
        for name in ("method", "dataset", "ipc"):
            body.setdefault(name, getattr(preset, name))
        if body["method"] != preset.method:
            problems.append(
                FieldProblem(
                    "method",
                    f"the preset {preset.name!r} is of the method {preset.method!r}",
                    f"Leave method out, or take a preset of {body['method']!r}.",
                )
            )
    asked = body.get("method")
    recipe = catalogue.method(asked) if isinstance(asked, str) else None
    model: type[DistillSpec] = DistillSpec
    if recipe is not None and not recipe.takes_ipc:
        model = WholeSpec
        if body.pop("ipc", None) is not None:
            message = f"{recipe.name} takes every real image, whatever their number"
            problems.append(FieldProblem("ipc", message, "Leave ipc out."))
    try:
        spec = model.model_validate(body)
    except ValidationError as error:
        raise SpecError([*problems, *from_validation(error, DistillSpec)]) from error
    if recipe is None:
        names = [known.name for known in catalogue.methods()]
        problems.append(unknown_name("method", "method", spec.method, names))
    unknown = unknown_dataset(spec.dataset)
    if unknown is not None:
        problems.append(unknown)
    if recipe is None or problems:
        raise SpecError(problems)
    hyperparameters = _hyperparameters(recipe, preset, spec.hyperparameters)
    _check_ipc(spec, recipe, hyperparameters)
    _check_experts(spec, recipe, hyperparameters)
    values = hyperparameters.model_dump(mode="json")
    named = {} if spec.experts is None else {"experts": spec.experts}
    return {
        "kind": "distill",
        "method": spec.method,
        "dataset": spec.dataset,
        "ipc": spec.ipc,
        "preset": spec.preset,
        "overrides": _overrides(spec, recipe, preset, values),
        "seed": spec.seed,
        "hyperparameters": values,
        **named,
    }


def _preset(name: object) -> Preset | None:
    if name is None:
        return None
    preset = catalogue.preset(name) if isinstance(name, str) else None
    if preset is None:
        known = [entry.name for entry in catalogue.presets()]
        raise SpecError([unknown_name("preset", "preset", name, known)])
    return preset


def _hyperparameters(
    recipe: MethodRecipe, preset: Preset | None, given: Mapping[str, Any]
) -> BaseModel:
    merged = {**(preset.hyperparameters if preset else {}), **given}
    try:
        return recipe.hyperparameters.model_validate(merged)
    except ValidationError as error:
        problems = from_validation(error, recipe.hyperparameters, "hyperparameters")
        raise SpecError(problems) from error


def _check_ipc(spec: DistillSpec, recipe: MethodRecipe, hyperparameters: BaseModel) -> None:
    facts = DATASETS.get(spec.dataset)
    if facts is None or not recipe.takes_ipc:
        return  # A user's own images are counted when they are read.
    needed = recipe.images_per_class(hyperparameters, spec.ipc)
    if needed > facts.smallest_class:
        largest = max(
            (
                ipc
                for ipc in range(1, facts.smallest_class + 1)
                if recipe.images_per_class(hyperparameters, ipc) <= facts.smallest_class
            ),
            default=0,
        )
        raise SpecError(
            [
                FieldProblem(
                    "ipc",
                    f"{spec.ipc} images per class need {needed:,} real ones, and the smallest "
                    f"class of {spec.dataset} has {facts.smallest_class:,}",
                    f"Ask for at most {largest:,}.",
                )
            ]
        )


def _check_experts(spec: DistillSpec, recipe: MethodRecipe, hyperparameters: BaseModel) -> None:
    try:
        needed = recipe.experts(hyperparameters)
    except ValidationError as error:
        problems = from_validation(error, ExpertTraining, "hyperparameters")
        raise SpecError(problems) from error
    if spec.experts is not None and needed is None:
        raise SpecError(
            [
                FieldProblem(
                    "experts",
                    f"{spec.method} with these hyperparameters needs no trained networks",
                    "Leave experts out.",
                )
            ]
        )


def _overrides(
    spec: DistillSpec, recipe: MethodRecipe, preset: Preset | None, values: Mapping[str, Any]
) -> list[str]:
    """The paths of the fields in which the spec differs from its preset."""
    if preset is None:
        return []
    own = recipe.hyperparameters.model_validate(dict(preset.hyperparameters)).model_dump(
        mode="json"
    )
    changed = [name for name in ("dataset", "ipc") if getattr(spec, name) != getattr(preset, name)]
    return changed + [
        f"hyperparameters.{name}"
        for name in sorted({*own, *values})  # a field at its default may be left out of either
        if values.get(name) != own.get(name)
    ]
