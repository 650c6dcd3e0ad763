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

from rome_core import passes
from rome_core.card import save_card
from rome_core.data import Dataset, load
from rome_core.distillation import engine
from rome_core.errors import CoreError, fields_under
from rome_core.files import write_json
from rome_core.progress import Progress
from rome_core.provenance import provenance
from rome_core.recipes import catalogue, spec_hash
from rome_core.recipes.networks import parse
from rome_core.runner.context import Context, Outcome, Output
from rome_core.runner.selection import selection
from rome_core.sprite import save_png
from rome_core.synthetic import SyntheticSet, save_pt, save_safetensors

BUILT_IN = {
    "rome": "rome_core.distillation.rome:Rome",
    "random": "rome_core.distillation.random_subset:RandomSubset",
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
    with fields_under("hyperparameters", recipe.hyperparameters.model_fields):
        plan = _plan(hyperparameters, dataset, context)
        torch.set_num_threads(plan.threads)
        method = implementation(spec["method"])(
            dataset,
            hyperparameters,
            ipc=spec["ipc"],
            seed=spec["seed"],
            device=context.device,
            plan=plan,
        )
    context.report(Progress("loading", 1, 1))
    distilled = engine.distil(
        method,
        checkpoints=context.checkpoints({"spec": spec_hash(spec), "data": dict(dataset.digests)}),
        report=context.report,
        should_stop=context.should_stop,
        evaluation=selection(method, dataset, hyperparameters, spec["seed"], context, plan),
    )
    synthetic = replace(distilled.synthetic, preset=spec["preset"])
    last = distilled.last and replace(distilled.last, preset=spec["preset"])
    told = provenance(
        spec, dataset, device=context.device, plan=plan.as_dict(), notes=distilled.resumed
    )
    return Outcome(
        _save(synthetic, last, spec, told, context),
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


def _plan(hyperparameters: object, dataset: Dataset, context: Context) -> passes.Plan:
    """How passes are run, from the hyperparameters `compile`, `network` and those of cost.

    Raises CoreError no_compiler where compiling is demanded and cannot be done.
    """

    def read(name: str) -> int:
        return int(getattr(hyperparameters, name, 0))

    image_side = read("batch_real") * dataset.classes * read("train_net_num")
    pool_side = read("batch_train") * read("fetch_net_num") * read("model_train_steps")
    return passes.plan(
        mode=MODES_OF_PLAN[getattr(hyperparameters, "compile", "off")],
        images=read("iterations") * (image_side + pool_side) * (read("pgd_steps") + 1),
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
