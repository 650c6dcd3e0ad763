"""Carries out `kind: distill`.

Owns the way from dataset to the files of a synthetic set, and the judging of iterates where a
method selects among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from rome_core import passes
from rome_core.card import save_card
from rome_core.data import Dataset, load, whitened
from rome_core.distillation import engine
from rome_core.errors import CoreError, fields_under
from rome_core.files import write_json
from rome_core.progress import Progress
from rome_core.provenance import provenance
from rome_core.recipes import catalogue, spec_hash
from rome_core.recipes.cost import Problem
from rome_core.recipes.method import MethodRecipe
from rome_core.recipes.networks import parse
from rome_core.runner.context import Context, Outcome, Output
from rome_core.runner.experts import obtain
from rome_core.runner.selection import selection
from rome_core.sprite import save_png
from rome_core.synthetic import SyntheticSet, save_pt, save_safetensors

BUILT_IN = {
    "rome": "rome_core.distillation.rome:Rome",
    "idm": "rome_core.distillation.idm:Idm",
    "bacon": "rome_core.distillation.bacon:Bacon",
    "mtt": "rome_core.distillation.mtt:Mtt",
    "bptt": "rome_core.distillation.bptt:Bptt",
    "dm": "rome_core.distillation.dm:Dm",
    "dc": "rome_core.distillation.gradient_matching:Dc",
    "dsa": "rome_core.distillation.gradient_matching:Dsa",
    "random": "rome_core.distillation.random_subset:RandomSubset",
    "herding": "rome_core.distillation.coresets:Herding",
    "k_center": "rome_core.distillation.coresets:KCenter",
    "k_means": "rome_core.distillation.coresets:KMeans",
    "forgetting": "rome_core.distillation.coresets:Forgetting",
    "full": "rome_core.distillation.full:Full",
    "robust_features": "rome_core.distillation.robust_features:RobustFeatures",
}


def distill(spec: Mapping[str, Any], context: Context) -> Outcome:
    """Distil and write synthetic.pt, .safetensors, preview.png, card.md and provenance.json.

    Where a selection chose an earlier iterate, the last one is written too: synthetic-last.pt.
    """
    context.report(Progress("loading", 0, 1))
    dataset = load(spec["dataset"], context.data_root)
    recipe = catalogue.method(spec["method"])
    assert recipe is not None, "the spec is canonical"
    hyperparameters = recipe.hyperparameters.model_validate(spec["hyperparameters"])
    if getattr(hyperparameters, "whitening", "none") == "zca":
        dataset = whitened(dataset, context.cache)
    context.report(Progress("loading", 1, 1))
    training = recipe.experts(hyperparameters)
    with fields_under("hyperparameters", recipe.hyperparameters.model_fields):
        experts = None
        if training is not None:
            mode = MODES_OF_PLAN[getattr(hyperparameters, "compile", "auto")]
            experts = obtain(spec, training, dataset, context, mode=mode)
        needed = {} if experts is None else {"experts": experts.experts}
        plan = _plan(recipe, hyperparameters, dataset, spec["ipc"], context)
        torch.set_num_threads(plan.threads)
        method = implementation(spec["method"])(
            dataset,
            hyperparameters,
            ipc=spec["ipc"],
            seed=spec["seed"],
            device=context.device,
            plan=plan,
            **needed,
        )
    identity = {"spec": spec_hash(spec), "data": dict(dataset.digests)}
    if experts is not None:
        identity["experts"] = experts.experts.digest
    distilled = engine.distil(
        method,
        checkpoints=context.checkpoints(identity),
        report=context.report,
        should_stop=context.should_stop,
        evaluation=selection(method, dataset, hyperparameters, spec["seed"], context, plan),
    )
    named = distilled.synthetic.network or recipe.network(hyperparameters)
    made: dict[str, Any] = {"preset": spec["preset"], "network": named}
    synthetic = replace(distilled.synthetic, **made)
    last = distilled.last and replace(distilled.last, **made)
    told = provenance(
        spec,
        dataset,
        device=context.device,
        plan=plan.as_dict(),
        parents=experts.parents if experts else {},
        notes=[*(experts.notes if experts else ()), *distilled.resumed],
    )
    return Outcome(
        (*_save(synthetic, last, spec, told, context), *(experts.outputs if experts else ())),
        {
            "iterations": method.iterations,
            "selected_iteration": distilled.step,
            "images": len(synthetic.images),
            "scores": {str(step): score for step, score in distilled.scores.items()},
        },
        told,
    )


def implementation(name: str) -> Callable[..., engine.Method]:
    """The class of a method: built in, or of the plug-in that registered it."""
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        made: Callable[..., engine.Method] = getattr(import_module(module), attribute)
        return made
    for point in entry_points(group="rome.methods", name=name):
        plugged: Callable[..., engine.Method] = point.load()
        return plugged
    raise CoreError(
        "method_not_installed",
        f"The method {name!r} has a recipe but no implementation here.",
        "Install its plug-in where runs are carried out.",
        "method",
    )


MODES_OF_PLAN: dict[str, Any] = {"auto": "auto", "on": "compiled", "off": "eager"}


def _plan(
    recipe: MethodRecipe, hyperparameters: BaseModel, dataset: Dataset, ipc: int, context: Context
) -> passes.Plan:
    """How passes are run, from what the recipe says they will cost and which network it names.

    Raises CoreError no_compiler where compiling is demanded and cannot be done.
    """
    images = 0  # forward and backward, which are two passes
    if recipe.predict_cost is not None:
        per_class = tuple(dataset.train_labels.bincount(minlength=dataset.classes).tolist())
        cost = recipe.predict_cost(hyperparameters, Problem(dataset.shape, per_class, ipc))
        images = int(cost.iterations * cost.iteration / 2)
    return passes.plan(
        mode=MODES_OF_PLAN[getattr(hyperparameters, "compile", "off")],
        images=images,
        threads=context.threads,
        network=parse(getattr(hyperparameters, "network", "convnet")),
        size=dataset.shape[1],
        device=context.device,
    )


def _save(
    synthetic: SyntheticSet,
    last: SyntheticSet | None,
    spec: Mapping[str, Any],
    told: Mapping[str, Any],
    context: Context,
) -> tuple[Output, ...]:
    """Write every file of a synthetic set, and the last iterate if it is another."""
    writers: list[tuple[str, str, str, Callable[[Path], None]]] = [
        (
            "synthetic.pt",
            "synthetic-set",
            "application/x-pytorch",
            lambda path: save_pt(synthetic, path),
        ),
        (
            "synthetic.safetensors",
            "synthetic-set",
            "application/x-safetensors",
            lambda path: save_safetensors(synthetic, path),
        ),
        ("preview.png", "preview", "image/png", lambda path: save_png(synthetic, path)),
        ("card.md", "card", "text/markdown", lambda path: save_card(synthetic, spec, path)),
        (
            "provenance.json",
            "provenance",
            "application/json",
            lambda path: write_json(path, told),
        ),
    ]
    if last is not None:
        writers.append(
            (
                "synthetic-last.pt",
                "synthetic-set",
                "application/x-pytorch",
                lambda path: save_pt(last, path),
            )
        )
    outputs = []
    for done, (name, kind, media_type, write) in enumerate(writers):
        context.report(Progress("saving", done, len(writers)))
        path = context.results / name
        write(path)
        metadata = synthetic.metadata() if kind == "synthetic-set" else {}
        outputs.append(Output(name, path, kind, media_type, metadata))
    context.report(Progress("saving", len(writers), len(writers)))
    return tuple(outputs)
