"""Carries out `kind: evaluate`.

Owns the way from a synthetic set's file, or files of weights, to the files of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from rome_core import passes, weights
from rome_core.data import Dataset, whitened
from rome_core.data import load as load_dataset
from rome_core.errors import CoreError, fields_under
from rome_core.evaluation import beard, drawings, reporting
from rome_core.evaluation.evaluation import Evaluated, Evaluation, work_of
from rome_core.evaluation.outcomes import write_parquet
from rome_core.evaluation.students import TrainingSet
from rome_core.evaluation.subjects import Subject, load_model
from rome_core.files import write_atomically, write_json
from rome_core.networks import operations
from rome_core.progress import Progress
from rome_core.provenance import file_digest, hardware, provenance
from rome_core.recipes import spec_hash
from rome_core.recipes.evaluate import EvaluateSpec
from rome_core.recipes.networks import parse
from rome_core.recipes.report import EvaluationReport, SetReport, Share, SubjectReport
from rome_core.runner.context import Context, Outcome, Output
from rome_core.runner.distill import MODES_OF_PLAN
from rome_core.space import Space
from rome_core.synthetic import SyntheticSet
from rome_core.synthetic import load as load_set


@dataclass(frozen=True, eq=False)
class _Asked:
    """What a spec's files hold."""

    dataset: Dataset
    space: Space
    subjects: TrainingSet | tuple[Subject, ...]
    synthetic: SyntheticSet | None
    parents: dict[str, str]  # artifact id or file name -> sha256:...
    largest: str  # the name of a network, for the plan


def evaluate(spec: Mapping[str, Any], context: Context) -> Outcome:
    """Train students on a set, or load models; attack them; write what came of it."""
    asked = EvaluateSpec.model_validate(dict(spec))
    context.report(Progress("loading", 0, 1))
    loaded = _load_models(asked, context) if asked.artifact is None else _load_set(asked, context)
    dataset = loaded.dataset
    count = asked.students.count if asked.models is None else len(asked.models)
    plan = passes.plan(
        mode=MODES_OF_PLAN[asked.compile],
        images=work_of(asked, count, dataset.classes, len(dataset.test_images)),
        threads=context.threads,
        network=parse(loaded.largest),
        size=dataset.shape[1],
        device=context.device,
    )
    torch.set_num_threads(plan.threads)
    evaluation = Evaluation(
        loaded.subjects,
        dataset,
        asked,
        space=loaded.space,
        plan=plan,
        device=context.device,
    )
    context.report(Progress("loading", 1, 1))
    identity = {"spec": spec_hash(spec), "data": dict(dataset.digests), "inputs": loaded.parents}
    with fields_under("students", type(asked.students).model_fields):
        done = evaluation.run(
            checkpoints=context.checkpoints(identity),
            report=context.report,
            should_stop=context.should_stop,
        )
    report = _report(asked, loaded, done)
    told = provenance(
        spec,
        dataset,
        device=context.device,
        plan=plan.as_dict(),
        parents=loaded.parents,
        notes=done.notes,
    )
    told |= _students(asked, loaded)
    return Outcome(_save(report, loaded, done, told, context), _metrics(report), told)


def _load_set(asked: EvaluateSpec, context: Context) -> _Asked:
    assert asked.artifact is not None
    path = context.inputs.get(asked.artifact)
    if path is None:
        raise CoreError(
            "input_missing",
            f"The run was given no file for the artifact {asked.artifact}.",
            "Name an artifact that exists.",
            "artifact",
        )
    synthetic = load_set(path, dataset=asked.dataset, factor=asked.factor)
    dataset = load_dataset(synthetic.dataset, context.data_root)
    if synthetic.images.shape[1:] != dataset.shape or synthetic.classes != dataset.classes:
        raise CoreError(
            "artifact_mismatch",
            f"The set has {synthetic.classes} classes of {tuple(synthetic.images.shape[1:])}, "
            f"{dataset.name} has {dataset.classes} of {dataset.shape}.",
            "Evaluate it on the dataset it was made from.",
            "dataset",
        )
    training = TrainingSet.of(
        synthetic,
        augmentation=asked.students.augmentation,
        labels=asked.students.labels,
        device=context.device,
    )
    return _Asked(
        dataset,
        synthetic.space,
        training,
        synthetic,
        {asked.artifact: f"sha256:{file_digest(path)}"},
        training.architecture(asked.students),
    )


def _load_models(asked: EvaluateSpec, context: Context) -> _Asked:
    assert asked.models is not None
    assert asked.dataset is not None
    dataset = load_dataset(asked.dataset, context.data_root)
    whiten = cache(partial(whitened, dataset, context.cache))
    subjects = tuple(
        load_model(
            model,
            dataset,
            context.inputs,
            context.data_root,
            context.device,
            f"models.{k}",
            whiten=whiten,
        )
        for k, model in enumerate(asked.models)
    )
    parents = {subject.source: f"sha256:{subject.digest}" for subject in subjects if subject.digest}
    specs = (subject.network.spec for subject in subjects)
    largest = max(specs, key=lambda spec: operations(spec, dataset.shape[1]))
    return _Asked(dataset, dataset.space, subjects, None, parents, largest.name)


def _students(asked: EvaluateSpec, loaded: _Asked) -> dict[str, Any]:
    """For the provenance: what the set decided where the spec leaves it to the set."""
    if not isinstance(loaded.subjects, TrainingSet):
        return {}
    learned = {
        "network": loaded.subjects.architecture(asked.students),
        "learning_rate": loaded.subjects.rate(asked.students),
        "labels": loaded.subjects.kind_of_labels,
        "space": loaded.space.name,
    }
    return {"students": learned}


def _report(asked: EvaluateSpec, loaded: _Asked, done: Evaluated) -> EvaluationReport:
    synthetic = loaded.synthetic
    about = None
    if synthetic is not None:
        assert isinstance(loaded.subjects, TrainingSet)
        assert asked.artifact is not None
        about = SetReport(
            artifact=asked.artifact,
            digest=loaded.parents[asked.artifact],
            method=synthetic.method,
            ipc=synthetic.ipc,
            factor=synthetic.factor,
            training_images=len(loaded.subjects.images),
            augmentation=loaded.subjects.augmentation,
            learning_rate=loaded.subjects.rate(asked.students),
            network=loaded.subjects.architecture(asked.students),
            labels=loaded.subjects.kind_of_labels,
            students=asked.students,
            train_accuracy=Share.of(list(done.train_accuracy)),
        )
    return EvaluationReport(
        dataset=loaded.dataset.name,
        data=dict(loaded.dataset.digests),
        test_images_of=done.test_images_of,
        subjects=[
            SubjectReport(
                name=subject.name,
                network=subject.network.spec.name,
                digest=subject.digest and f"sha256:{subject.digest}",
                assumed=list(subject.assumed),
                space=(subject.space or loaded.space).name,
            )
            for subject in done.subjects
        ],
        set=about,
        protocols=reporting.protocol_reports(done, seed=asked.seed, students=synthetic is not None),
        seed=asked.seed,
    )


def _metrics(report: EvaluationReport) -> dict[str, Any]:
    """The means by name; a name begins with the protocol it belongs to.

    Of several models each has its own accuracy and interval beside the mean, under `each`.
    """
    told: dict[str, Any] = {}
    models = [subject.name for subject in report.subjects]
    for protocol in report.protocols:
        label = _label(protocol.id, protocol.overridden)
        shares = {"clean": protocol.clean} if protocol.clean else {}
        shares |= {n: m.accuracy for n, m in protocol.measures.items() if m.accuracy is not None}
        shares |= {f"worst/{ball}": share for ball, share in protocol.worst_case.items()}
        for name, share in shares.items():
            told[f"{label}/{name}"] = {
                "mean": share.mean,
                "std": share.std,
                "n": share.n,
                "interval": share.interval,
            }
            if share.intervals is not None and share.n > 1:
                own = zip(models, share.values, share.intervals, strict=True)
                told[f"{label}/{name}"]["each"] = {
                    model: [value, *bounds] for model, value, bounds in own
                }
        for mode, metrics in protocol.metrics.items():
            told[f"{label}/metrics/{mode}"] = dict(metrics.values)
        told[f"{label}/trust"] = protocol.trust
        told[f"{label}/findings"] = [finding["code"] for finding in protocol.findings]
    return told


def _label(protocol: str, overridden: Sequence[str]) -> str:
    """`pixel`, or `pixel (changed)`: numbers under other settings are not the protocol's own."""
    name = protocol.partition("@")[0]
    return f"{name} (changed)" if overridden else name


def _save(
    report: EvaluationReport,
    loaded: _Asked,
    done: Evaluated,
    told: Mapping[str, Any],
    context: Context,
) -> tuple[Output, ...]:
    writers: list[tuple[str, str, str, dict[str, Any], Callable[[Path], None]]] = []
    for number, subject in enumerate(done.subjects if loaded.synthetic else ()):
        network = subject.network
        described = {"network": network.spec.name, "classes": network.classes, "number": number}

        def save(path: Path, subject: Subject = subject) -> None:
            weights.save(subject.network, path, loaded.space)

        writers.append(
            (
                f"student-{number}.safetensors",
                "student-weights",
                "application/x-safetensors",
                described,
                save,
            )
        )
    timings = reporting.timing_report(done, hardware(context.device)).model_dump(mode="json")
    for name, kind, content in (
        ("evaluation.json", "evaluation", report.model_dump(mode="json")),
        ("timings.json", "timings", timings),
        ("provenance.json", "provenance", dict(told)),
    ):
        writers.append((name, kind, "application/json", {}, _json(content)))
    tables = list(reporting.outcome_tables(done))
    if tables:
        writers.append(
            (
                "outcomes.parquet",
                "outcomes",
                "application/vnd.apache.parquet",
                {},
                lambda path: write_parquet(tables, path),
            )
        )
    for name, text in beard.logs(report, done).items():
        writers.append((name, "log", "text/plain", {}, _text(text)))
    outputs = []
    total = len(writers)
    for number, (name, kind, media_type, described, write) in enumerate(writers):
        context.report(Progress("saving", number, total))
        path = context.results / name
        write(path)
        outputs.append(Output(name, path, kind, media_type, described))
    for path in drawings.draw(report, done, context.results):
        media = "image/svg+xml" if path.suffix == ".svg" else "image/png"
        outputs.append(Output(path.name, path, "figure", media))
    context.report(Progress("saving", total, total))
    return tuple(outputs)


def _json(content: Mapping[str, Any]) -> Callable[[Path], None]:
    return lambda path: write_json(path, content)


def _text(content: str) -> Callable[[Path], None]:
    return lambda path: write_atomically(path, content.encode())
