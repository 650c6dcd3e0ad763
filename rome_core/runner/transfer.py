"""Carries out `kind: transfer`.

Owns the way from files of weights to `transfer.json`, its figures and logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from rome_core import costs, metrics, networks, passes
from rome_core.data import Dataset, whitened
from rome_core.data import load as load_dataset
from rome_core.evaluation import beard, drawings
from rome_core.evaluation.evaluation import test_set
from rome_core.evaluation.statistics import wilson
from rome_core.evaluation.subjects import Subject, load_model
from rome_core.evaluation.transfer import Crafted, Transfer, Transferred
from rome_core.files import write_atomically, write_json
from rome_core.findings import Clamped, Evidence, Finding, findings, trust
from rome_core.progress import Progress
from rome_core.provenance import hardware, provenance
from rome_core.recipes import spec_hash
from rome_core.recipes.attacks import MODES
from rome_core.recipes.evaluate import ModelRef, TransferSpec, chosen, resolved
from rome_core.recipes.protocols import Protocol, crafting
from rome_core.recipes.report import SubjectReport, TransferReport
from rome_core.runner.context import Context, Outcome, Output
from rome_core.runner.distill import MODES_OF_PLAN

CACHED = "crafted"
"""Folder of crafted images, under the context's cache."""


def transfer(spec: Mapping[str, Any], context: Context) -> Outcome:
    """Craft images on every source, show them to every target, write the matrices."""
    asked = TransferSpec.model_validate(dict(spec))
    context.report(Progress("loading", 0, 1))
    dataset = load_dataset(asked.dataset, context.data_root)
    whiten = cache(partial(whitened, dataset, context.cache))
    sources = _models(asked.sources, dataset, whiten, context, "sources")
    targets = sources
    if asked.targets is not None:
        targets = _models(asked.targets, dataset, whiten, context, "targets")
    evaluating = resolved(asked.protocol, asked, "protocol")
    protocol = crafting(evaluating)
    entries = [entry for entry in chosen(protocol, asked) if entry.modes]
    test = test_set(
        dataset, asked.limit or protocol.images, asked.seed, dataset.space, context.device
    )
    each = sum(costs.expected(entry.settings, dataset.classes) for entry in entries)
    plan = passes.plan(
        mode=MODES_OF_PLAN[asked.compile],
        images=int(each * len(asked.modes) * len(sources) * len(test)),
        threads=context.threads,
        network=max(
            (s.network.spec for s in (*sources, *targets)),
            key=lambda spec: networks.operations(spec, dataset.shape[1]),
        ),
        size=dataset.shape[1],
        device=context.device,
    )
    torch.set_num_threads(plan.threads)
    parents = {s.source: f"sha256:{s.digest}" for s in (*sources, *targets)}
    work = Transfer(
        sources,
        targets,
        test,
        protocol,
        entries,
        asked.modes,
        seed=asked.seed,
        data=dict(dataset.digests),
        plan=plan,
        cache=Crafted(context.cache and context.cache / CACHED),
        device=context.device,
    )
    context.report(Progress("loading", 1, 1))
    identity = {"spec": spec_hash(spec), "data": dict(dataset.digests), "inputs": parents}
    done = work.run(
        checkpoints=context.checkpoints(identity),
        report=context.report,
        should_stop=context.should_stop,
    )
    report = _report(asked, dataset, sources, targets, done, evaluating)
    told = provenance(
        spec,
        dataset,
        device=context.device,
        plan=plan.as_dict(),
        parents=parents,
        notes=[*done.notes, f"{done.crafted} blocks of images crafted, {done.reused} reused"],
    )
    return Outcome(_save(report, done, told, context), _metrics(report), told)


def _models(
    models: Sequence[ModelRef],
    dataset: Dataset,
    whiten: Callable[[float], Dataset],
    context: Context,
    field: str,
) -> tuple[Subject, ...]:
    return tuple(
        load_model(
            model,
            dataset,
            context.inputs,
            context.data_root,
            context.device,
            f"{field}.{place}",
            whiten=whiten,
        )
        for place, model in enumerate(models)
    )


def _report(
    asked: TransferSpec,
    dataset: Dataset,
    sources: Sequence[Subject],
    targets: Sequence[Subject],
    done: Transferred,
    evaluating: Protocol,
) -> TransferReport:
    names = [what.name for what in done.measures]
    rows, columns = [s.name for s in sources], [t.name for t in targets]
    clean = {name: _mean(right) for name, right in done.clean.items()}
    every = {subject.name: subject for subject in (*sources, *targets)}
    worst = [[_worst(done, s, t) for t in columns] for s in rows]
    found = _findings(done)
    return TransferReport(
        dataset=dataset.name,
        test_images=len(next(iter(done.clean.values()))),
        test_images_of=len(dataset.test_images),
        protocol=done.protocol.id,
        digest=evaluating.digest,
        domain=str(done.protocol.domain),
        overridden=list(done.protocol.overridden),
        settings={e.name: e.settings.model_dump(mode="json") for e in done.entries},
        flaws=[
            *(flaw.as_dict() for flaw in done.protocol.flaws),
            *({"attack": e.name, **flaw.as_dict()} for e in done.entries for flaw in e.flaws),
        ],
        findings=[finding.as_dict() for finding in found],
        trust=trust(found),
        sources=rows,
        targets=columns,
        models=[
            SubjectReport(
                name=subject.name,
                network=subject.network.spec.name,
                digest=f"sha256:{subject.digest}",
                assumed=list(subject.assumed),
                space=(subject.space or dataset.space).name,
            )
            for subject in every.values()
        ],
        clean=clean,
        clean_intervals={name: _interval(right) for name, right in done.clean.items()},
        accuracy={
            name: [[_mean(done.correct[name, s, t]) for t in columns] for s in rows]
            for name in names
        },
        accuracy_intervals={
            name: [[_interval(done.correct[name, s, t]) for t in columns] for s in rows]
            for name in names
        },
        target_hit={
            what.name: [[_mean(done.hit[what.name, s, t]) for t in columns] for s in rows]
            for what in done.measures
            if what.mode == "targeted"
        },
        i_rr={
            mode: [[_i_rr(done, clean[t], mode, s, t) for t in columns] for s in rows]
            for mode in MODES
            if any(what.mode == mode for what in done.measures)
        },
        worst_case=[[_mean(right) for right in row] for row in worst],
        worst_case_intervals=[[_interval(right) for right in row] for row in worst],
        on_self=[[s.digest == t.digest for t in targets] for s in sources],
        seed=asked.seed,
    )


def _mean(right: Tensor) -> float:
    return float(right.double().mean())


def _interval(right: Tensor) -> tuple[float, float]:
    """Over images, of one model."""
    bounds = wilson(int(right.sum()), len(right))
    return bounds.low, bounds.high


def _worst(done: Transferred, source: str, target: str) -> Tensor:
    """Right as they were and after every attack crafted on the source: (n,) bool."""
    attacked = [done.correct[what.name, source, target] for what in done.measures]
    return torch.stack([done.clean[target], *attacked]).all(dim=0)


def _findings(done: Transferred) -> list[Finding]:
    """What speaks against the matrices: of each target the clamp, and once what was changed."""
    found: dict[tuple[str, str], Finding] = {}
    for target, clean in done.clean.items():
        clamped = [
            Clamped(target, _mean(clean), _mean(right), len(right))
            for right in (done.clamped.get(target),)
            if right is not None
        ]
        evidence = Evidence(
            domain=str(done.protocol.domain),
            clamped=clamped,
            overridden=done.protocol.overridden,
        )
        for finding in findings(evidence):
            if finding.code == "clamp_sensitive":
                found[finding.code, target] = finding
            elif finding.code == "overridden":
                found[finding.code, ""] = finding
    order = ("clamp_sensitive", "overridden")  # the gravest first
    return sorted(found.values(), key=lambda finding: order.index(finding.code))


def _i_rr(done: Transferred, clean: float, mode: str, source: str, target: str) -> float | None:
    """In percent, pooled over the attacks of a mode (BEARD's I-RR)."""
    cells = [
        metrics.AttackCell(
            what.attack, 100 * float(done.correct[what.name, source, target].double().mean())
        )
        for what in done.measures
        if what.mode == mode
    ]
    group = metrics.Group(100 * clean, None, cells)
    return metrics.robustness_ratio(group, "rome", degenerate="sound").value


def _metrics(report: TransferReport) -> dict[str, Any]:
    """The matrices with their names; each belongs to the protocol that is named."""
    return {
        "protocol": f"{report.protocol} (changed)" if report.overridden else report.protocol,
        "test_images": report.test_images,
        "sources": report.sources,
        "targets": report.targets,
        "clean": report.clean,
        "clean_intervals": report.clean_intervals,
        "i_rr": report.i_rr,
        "worst_case": report.worst_case,
        "worst_case_intervals": report.worst_case_intervals,
        "trust": report.trust,
        "findings": list(dict.fromkeys(finding["code"] for finding in report.findings)),
        "on_self": report.on_self,
    }


def _save(
    report: TransferReport, done: Transferred, told: Mapping[str, Any], context: Context
) -> tuple[Output, ...]:
    seconds = {f"{what} on {source}": value for (what, source), value in done.seconds.items()}
    timings = {
        "format": "rome-timings",
        "format_version": 1,
        "hardware": hardware(context.device),
        "crafting_seconds": seconds,
        "clean_seconds": dict(done.clean_seconds),
        "blocks": {"crafted": done.crafted, "reused": done.reused},
    }
    outputs = []
    for name, kind, content in (
        ("transfer.json", "transfer", report.model_dump(mode="json")),
        ("timings.json", "timings", timings),
        ("provenance.json", "provenance", dict(told)),
    ):
        path = context.results / name
        write_json(path, content)
        outputs.append(Output(name, path, kind, "application/json"))
    for name, text in beard.transfer_logs(report, done).items():
        path = context.results / name
        write_atomically(path, text.encode())
        outputs.append(Output(name, path, "log", "text/plain"))
    for path in drawings.draw_transfer(report, context.results):
        media = "image/svg+xml" if path.suffix == ".svg" else "image/png"
        outputs.append(Output(path.name, path, "figure", media))
    context.report(Progress("saving", 1, 1))
    return tuple(outputs)
