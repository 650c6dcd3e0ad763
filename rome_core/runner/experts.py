"""Carries out `kind: experts`, and finds the trained networks that a distillation needs.

Owns where experts come from (an artifact, the cache, or training them now), whether a file of them
fits, and the files such a job leaves. How they are trained is `distillation.expert_training`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from rome_core import networks, passes
from rome_core.data import Dataset, load, whitened
from rome_core.distillation import engine
from rome_core.distillation.expert_training import TRAINED, ExpertsTraining, group_size
from rome_core.distillation.experts import FORMAT, Experts, Layout
from rome_core.errors import CoreError
from rome_core.files import link, trim, write_json
from rome_core.progress import Progress
from rome_core.provenance import file_digest, provenance
from rome_core.recipes.experts import DEFAULT_SEED, ExpertsSpec, ExpertTraining
from rome_core.recipes.networks import parse
from rome_core.recipes.report import Share
from rome_core.runner.context import Context, Outcome, Output

Mode = Literal["auto", "eager", "compiled"]
"""Of a plan, as in `passes.plan`."""

PHASE = "training experts"
NAME = "experts.safetensors"

CACHED = "experts"
"""Folder of trained networks, under the context's cache."""

CACHE_BYTES = 32 * 2**30
"""Of trained networks on a machine; the longest unused go first. The published hundred for CIFAR-10
take 6.5 GB."""


@dataclass(frozen=True, eq=False)
class Obtained:
    """Experts that fit, and what a run has to tell of them."""

    experts: Experts
    outputs: tuple[Output, ...] = ()  # the file, where this run made it
    parents: Mapping[str, str] = field(default_factory=dict)  # named artifact -> sha256:...
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Made:
    experts: Experts
    plan: passes.Plan | None  # None where they were read from the cache
    notes: tuple[str, ...]


def experts(spec: Mapping[str, Any], context: Context) -> Outcome:
    """Train networks and write experts.safetensors and provenance.json."""
    asked = ExpertsSpec.model_validate(dict(spec))
    training = ExpertTraining.model_validate(
        {name: value for name, value in spec.items() if name in ExpertTraining.model_fields}
    )
    context.report(Progress("loading", 0, 1))
    dataset = load(asked.dataset, context.data_root)
    if asked.whitening == "zca":
        dataset = _whitened(dataset, context)
    context.report(Progress("loading", 1, 1))
    training = training.settled(dataset.augmentation)
    made = _make(training, dataset, asked.seed, context)
    context.report(Progress("saving", 0, 1))
    told = provenance(
        spec,
        dataset,
        device=context.device,
        plan=made.plan.as_dict() if made.plan else {},
        notes=made.notes,
    )
    path = context.results / "provenance.json"
    write_json(path, told)
    context.report(Progress("saving", 1, 1))
    return Outcome(
        (_output(made.experts), Output(path.name, path, "provenance", "application/json")),
        _metrics(made.experts),
        told,
    )


def obtain(
    spec: Mapping[str, Any],
    training: ExpertTraining,
    dataset: Dataset,
    context: Context,
    *,
    mode: Mode = "auto",
) -> Obtained:
    """The experts that a distillation needs: those its spec names, else those of the seed 0.

    The latter come from the cache or are trained now, and are an output either way: what a job
    leaves must not depend on what a machine has seen before. `mode` is how they are trained then:
    the cache does not tell compiled experts from others, which differ by rounding. Raises CoreError
    artifact_mismatch for a file of others than the method needs, as `Experts.open` does for none.
    """
    training = training.settled(dataset.augmentation)
    named = spec.get("experts")
    if named is None:
        made = _make(training, dataset, DEFAULT_SEED, context, mode)
        seed = f"experts of seed {DEFAULT_SEED}, whatever the job's"
        return Obtained(made.experts, (_output(made.experts),), notes=(seed, *made.notes))
    path = context.inputs.get(named)
    if path is None:
        raise CoreError(
            "input_missing",
            f"The run was given no file for the artifact {named}.",
            "Name an artifact that exists.",
            "experts",
        )
    given = Experts.open(path)
    notes = _fit(given, training, dataset)
    return Obtained(given, parents={named: f"sha256:{file_digest(path)}"}, notes=notes)


def _whitened(dataset: Dataset, context: Context) -> Dataset:
    try:
        return whitened(dataset, context.cache)
    except CoreError as error:  # which knows the field of distillations
        raise CoreError(error.code, error.detail, error.remedy, "whitening") from error


def _make(
    training: ExpertTraining, dataset: Dataset, seed: int, context: Context, mode: Mode = "auto"
) -> _Made:
    """The experts of a recipe and a seed, in the results: from the cache, else trained now."""
    identity = {
        "format": FORMAT,
        "trained": TRAINED,
        "training": training.model_dump(mode="json"),
        "seed": seed,
        "dataset": dataset.name,
        "data": dict(dataset.digests),
        "split": dataset.split,
        "space": dataset.space.name,
    }
    path = context.results / NAME
    cached = context.cache and context.cache / CACHED / f"{_digest(identity)}.safetensors"
    found = cached and _from_cache(cached, path, training, seed)
    if found:
        return _Made(found, None, ("the experts were read from the cache",))
    plan = passes.plan(
        mode=mode,
        images=training.count
        * training.epochs
        * len(dataset.train_images)
        * training.passes_an_image,
        threads=context.threads,
        network=parse(training.network),
        size=dataset.shape[1],
        device=context.device,
    )
    checkpoints = context.checkpoints({"experts": identity}, under="experts")
    group = group_size(training, dataset, context.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    try:
        task = ExpertsTraining(
            dataset,
            training,
            seed=seed,
            checkpoints=checkpoints,
            plan=plan,
            group=group,
            stacked=group > 1,
            device=context.device,
        )
        notes = engine.carry_out(
            task,
            phase=PHASE,
            checkpoints=checkpoints,
            report=context.report,
            should_stop=context.should_stop,
        )
    finally:
        torch.set_num_threads(threads)  # what comes after must not depend on the cache
    task.save(path)
    if cached:
        with suppress(OSError):  # a full disk keeps nothing and hurts nobody
            link(path, cached)
            trim(cached.parent, CACHE_BYTES)
    return _Made(Experts.open(path), plan, notes)


def _from_cache(cached: Path, path: Path, training: ExpertTraining, seed: int) -> Experts | None:
    """Put what lies in the cache at `path`, if it is a whole file of these experts."""
    try:
        link(cached, path)
        os.utime(cached)
        found = Experts.open(path)
    except (CoreError, OSError):  # damaged, or removed meanwhile
        return None
    return found if found.training == training and found.seed == seed else None


def _fit(given: Experts, training: ExpertTraining, dataset: Dataset) -> tuple[str, ...]:
    """Check that a file serves a method that would train its own; notes on how it differs."""
    about, told = given.about, given.training
    retrain = "Train them anew, or leave experts out."
    if given.dataset != dataset.name:
        raise _mismatch(
            f"were trained on {given.dataset}, not on {dataset.name}",
            f"Distil {given.dataset}, or name experts of {dataset.name}.",
        )
    if dict(about.data) != dict(dataset.digests) or about.train_images != len(dataset.train_images):
        raise _mismatch(f"were trained on other files of {dataset.name} than lie here", retrain)
    if given.space != dataset.space.name:
        wanted = "zca" if given.space == "zca" else "none"
        raise _mismatch(
            f"take {given.space} images, and this run's are {dataset.space.name}",
            f"Set whitening={wanted}, or name experts with the run's.",
        )
    if told.network != training.network:
        raise _mismatch(
            f"are networks {told.network}, not {training.network}",
            f"Distil with {told.network}, or name experts of {training.network}.",
        )
    channels, size, _ = dataset.shape
    shape = {"channels": channels, "size": size, "classes": dataset.classes}
    needed = Layout.of(networks.blank(parse(training.network), **shape))
    own = {"channels": given.channels, "size": given.size, "classes": given.classes}
    if own != shape or given.layout != needed:
        raise _mismatch(f"have other weights than {training.network} for {dataset.name}", retrain)
    if told.epochs < training.epochs:
        raise _mismatch(
            f"were trained for {told.epochs} epochs, and {training.epochs} are needed", retrain
        )
    if training.keep == "all" and told.keep != "all":
        raise _mismatch("are kept of the last epoch alone, and every one is needed", retrain)
    if told.count < training.count:
        raise _mismatch(
            f"are {told.count}, and {training.count} are needed",
            f"Have the method take {told.count}, train more, or leave experts out.",
        )
    if (told.adversarial is None) != (training.adversarial is None):
        kinds = ("attacked", "clean") if told.adversarial else ("clean", "attacked")
        raise _mismatch("learned from {} images, not from {} ones".format(*kinds), retrain)
    if (told.curvature_weight > 0) != (training.curvature_weight > 0):
        words = ("with", "without") if told.curvature_weight else ("without", "with")
        raise _mismatch("were trained {} curvature, not {} it".format(*words), retrain)
    return tuple(_differences(told, training))


def _differences(told: ExpertTraining, training: ExpertTraining) -> list[str]:
    """What a reader of the spec would take the experts for, and they are not."""
    given, asked = told.model_dump(mode="json"), training.model_dump(mode="json")
    more = {"count", "keep"} | ({"epochs"} if training.keep == "all" else set())
    return [
        f"the experts were trained with {name}={json.dumps(given[name])}, and the "
        f"hyperparameters say {json.dumps(asked[name])}"
        for name in given
        if name not in more and given[name] != asked[name]
    ]


def _mismatch(difference: str, remedy: str) -> CoreError:
    return CoreError("artifact_mismatch", f"The experts {difference}.", remedy, "experts")


def _output(made: Experts) -> Output:
    told = made.training
    return Output(
        NAME,
        made.path,
        "experts",
        "application/x-safetensors",
        {
            "dataset": made.dataset,
            "space": made.space,
            "network": told.network,
            "classes": made.classes,
            "count": told.count,
            "epochs": told.epochs,
            "keep": told.keep,
            "adversarial": told.adversarial is not None,
            "seed": made.seed,
        },
    )


def _metrics(made: Experts) -> dict[str, Any]:
    told = {"test_accuracy": list(made.accuracy)}
    if made.training.epochs:
        told["train_accuracy"] = made.train_accuracy[:, -1].tolist()
    shares = {name: Share.of(values) for name, values in told.items()}
    return {
        "experts": made.count,
        "epochs": made.training.epochs,
        **{name: share.model_dump(include={"mean", "std", "n"}) for name, share in shares.items()},
    }


def _digest(identity: Mapping[str, Any]) -> str:
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
