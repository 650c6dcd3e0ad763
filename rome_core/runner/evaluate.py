"""Carries out `kind: evaluate`.

Owns the way from a synthetic set's file to `evaluation.json`, its students and provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from rome_core import passes
from rome_core.data import load as load_dataset
from rome_core.errors import CoreError, fields_under
from rome_core.evaluation.evaluation import Evaluated, Evaluation
from rome_core.files import write_atomically, write_json
from rome_core.progress import Progress
from rome_core.provenance import file_digest, provenance
from rome_core.recipes import spec_hash
from rome_core.recipes.evaluate import EvaluateSpec
from rome_core.recipes.networks import parse
from rome_core.recipes.report import Accuracies, EvaluationReport
from rome_core.runner.context import Context, Outcome, Output
from rome_core.synthetic import load as load_set


def evaluate(spec: Mapping[str, Any], context: Context) -> Outcome:
    """Train students on a set, measure them, write evaluation.json, weights and provenance."""
    asked = EvaluateSpec.model_validate(dict(spec))
    context.report(Progress("loading", 0, 1))
    path = context.inputs.get(asked.artifact)
    if path is None:
        raise CoreError(
            "input_missing",
            f"The run was given no file for the artifact {asked.artifact}.",
            "Name an artifact that exists.",
            "artifact",
        )
    synthetic = load_set(path, dataset=asked.dataset, factor=asked.factor)
    digest = file_digest(path)
    dataset = load_dataset(synthetic.dataset, context.data_root)
    plan = passes.plan(
        images=_work(asked, len(dataset.test_images)),
        threads=context.threads,
        network=parse(asked.students.network),
        size=dataset.shape[1],
        device=context.device,
    )
    torch.set_num_threads(plan.threads)
    evaluation = Evaluation(synthetic, dataset, asked, plan=plan, device=context.device)
    context.report(Progress("loading", 1, 1))
    with fields_under("students", type(asked.students).model_fields):
        done = evaluation.run(
            checkpoints=context.checkpoints(
                {"spec": spec_hash(spec), "data": dict(dataset.digests), "set": digest}
            ),
            report=context.report,
            should_stop=context.should_stop,
        )
    budgets = {"reference": asked.budgets.reference, "pixel": asked.budgets.pixel}
    reports = [done.domain(domain, budgets[domain]) for domain in asked.domains]
    report = EvaluationReport(
        artifact=asked.artifact,
        set_digest=f"sha256:{digest}",
        method=synthetic.method,
        dataset=synthetic.dataset,
        ipc=synthetic.ipc,
        factor=synthetic.factor,
        training_images=evaluation.training_images,
        test_images=done.test_images,
        test_images_of=done.test_images_of,
        students=asked.students,
        augmentation=evaluation.augmentation,
        train_accuracy=Accuracies.of(list(done.train_accuracy), 0),
        clean=done.clean(),
        domains=[domain for domain in reports if domain.measures],
        seed=asked.seed,
    )
    told = provenance(
        spec,
        dataset,
        device=context.device,
        plan=plan.as_dict(),
        parents={asked.artifact: f"sha256:{digest}"},
        notes=done.notes,
    )
    return Outcome(_save(report, done, told, context), _metrics(report), told)


def _work(spec: EvaluateSpec, test_images: int) -> int:
    """Roughly how many images pass through networks under attack."""
    budgets = {"reference": spec.budgets.reference, "pixel": spec.budgets.pixel}
    steps = sum(budgets[domain].steps for domain in spec.domains) * ("pgd" in spec.attacks)
    images = min(spec.limit or test_images, test_images)
    return images * spec.students.count * len(spec.modes) * steps


def _metrics(report: EvaluationReport) -> dict[str, Any]:
    """The means by name; a name begins with the attack domain it belongs to."""
    named = {"clean": report.clean} if report.clean else {}
    for domain in report.domains:
        named |= domain.measures
        if domain.worst_case is not None:
            named[f"{domain.domain}/worst"] = domain.worst_case
    return {
        name: {"mean": score.mean, "std": score.std, "n": score.n} for name, score in named.items()
    }


def _save(
    report: EvaluationReport, done: Evaluated, told: Mapping[str, Any], context: Context
) -> tuple[Output, ...]:
    total = len(done.networks) + 2
    outputs = []
    for number, network in enumerate(done.networks):
        context.report(Progress("saving", number, total))
        name = f"student-{number}.safetensors"
        weights = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
        path = context.results / name
        # One metadata key: the library writes several in no fixed order.
        write_atomically(
            path, safetensors.torch.save(weights, metadata={"network": network.spec.name})
        )
        described = {"network": network.spec.name, "classes": network.classes, "number": number}
        outputs.append(
            Output(name, path, "student-weights", "application/x-safetensors", described)
        )
    for name, kind, content in (
        ("evaluation.json", "evaluation", report.model_dump(mode="json")),
        ("provenance.json", "provenance", dict(told)),
    ):
        path = context.results / name
        write_json(path, content)
        outputs.append(Output(name, path, kind, "application/json"))
    context.report(Progress("saving", total, total))
    return tuple(outputs)
