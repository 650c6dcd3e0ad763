"""The figures of a report: which there are, what they are called, and what goes into each.

Owns the way from reports to pictures; how they look is `figures`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from rome_core.evaluation import figures
from rome_core.evaluation.evaluation import Evaluated, Part, Sample
from rome_core.evaluation.statistics import wilson
from rome_core.recipes.datasets import DATASETS
from rome_core.recipes.report import EvaluationReport, ProtocolReport, Share, TransferReport

Drawing = tuple[str, Callable[[], Figure]]


def draw(report: EvaluationReport, done: Evaluated, folder: Path) -> Iterator[Path]:
    """Write every figure of an evaluation as SVG and PNG, and say where."""
    for name, make in drawings(report, done):
        yield from figures.save(make(), folder / name)


def drawings(report: EvaluationReport, done: Evaluated) -> list[Drawing]:
    """The figures by name, made when called."""
    made: list[Drawing] = []
    subject = _subject(report)
    for protocol, part in zip(report.protocols, done.parts, strict=True):
        own = part.protocol.name
        bars = _bars(protocol, subject)
        if bars is not None:
            made.append((f"attacks-{own}", partial(figures.attack_bars, bars)))
        if protocol.curve is not None:
            curves = _epsilons(protocol, report.subjects[0].name, subject)
            made.append((f"epsilon-{own}", partial(figures.epsilon_curves, curves)))
        for name, points in protocol.query_curves.items():
            queries = figures.QueryCurves(
                _title(protocol),
                subject,
                name,
                [
                    figures.Curve(
                        name,
                        [max(1, query) for query, _ in points[1:]] or [1],
                        [figures.Score(left) for _, left in points[1:]]
                        or [figures.Score(points[0][1])],
                    )
                ],
            )
            stem = f"queries-{own}-{name.replace('/', '-')}"
            made.append((stem, partial(figures.query_curves, queries)))
        sample = done.samples.get(part.protocol.id)
        if sample is not None:
            grid = _grid(protocol, part, sample, report)
            made.append((f"samples-{own}", partial(figures.sample_grid, grid)))
    return made


def draw_transfer(report: TransferReport, folder: Path) -> Iterator[Path]:
    """The heat map of I-RR for each mode, and of accuracy for each attack."""
    changed = " (changed)" if report.overridden else ""
    dataset = DATASETS.get(report.dataset)
    subject = dataset.title if dataset else report.dataset
    named = [(f"heatmap-i-rr-{mode}", f"I-RR, {mode}", m) for mode, m in report.i_rr.items()]
    named += [
        (f"heatmap-{name.replace('/', '-')}", f"accuracy under {name}", list(map(list, matrix)))
        for name, matrix in report.accuracy.items()
    ]
    for stem, quantity, matrix in named:
        scale = 100 if quantity.startswith("I-RR") else 1
        values = torch.tensor(
            [[float("nan") if v is None else v / scale for v in row] for row in matrix]
        )
        figure = figures.transfer_heat_map(
            figures.TransferMatrix(
                report.protocol + changed, subject, report.sources, report.targets, values, quantity
            )
        )
        yield from figures.save(figure, folder / stem)


def _title(protocol: ProtocolReport) -> str:
    return f"{protocol.id} (changed)" if protocol.overridden else protocol.id


def _subject(report: EvaluationReport) -> str:
    facts = DATASETS.get(report.dataset)
    dataset = facts.title if facts else report.dataset
    if report.set is None:
        names = [subject.name for subject in report.subjects]
        return f"{', '.join(names) if len(names) < 4 else f'{len(names)} models'} on {dataset}"
    n = len(report.subjects)
    return (
        f"{report.set.method}, {dataset}, {report.set.ipc} "
        f"image{'s' * (report.set.ipc > 1)} per class, {n} student{'s' * (n > 1)}"
    )


def _score(share: Share) -> figures.Score:
    if share.interval is None:
        return figures.Score(share.mean)
    # A percentile interval of a skewed few may leave its own mean out by rounding.
    low, high = share.interval
    return figures.Score(share.mean, min(low, share.mean), max(high, share.mean))


def _bars(protocol: ProtocolReport, subject: str) -> figures.AttackBars | None:
    by_mode: dict[str, dict[str, figures.Score]] = {}
    for measure in protocol.measures.values():
        if measure.accuracy is not None:
            mode = measure.mode or "no attack"
            by_mode.setdefault(mode, {})[measure.attack] = _score(measure.accuracy)
    aimless = by_mode.pop("no attack", {})
    if not by_mode:
        return None
    for own in by_mode.values():
        own.update({name: score for name, score in aimless.items() if name not in own})
    return figures.AttackBars(
        _title(protocol),
        subject,
        {
            mode: dict(sorted(own.items(), key=lambda bar: bar[0] != "clamp"))
            for mode, own in by_mode.items()
        },
        clean=None if protocol.clean is None else _score(protocol.clean),
        worst={mode: _score(share) for mode, share in protocol.worst_by_mode.items()},
    )


def _epsilons(protocol: ProtocolReport, first: str, subject: str) -> figures.EpsilonCurves:
    assert protocol.curve is not None
    images = protocol.curve_images
    scores = []
    for _, accuracy in protocol.curve:
        interval = wilson(round(accuracy * images), images)
        scores.append(figures.Score(accuracy, interval.low, interval.high))
    curve = figures.Curve(first, [Fraction(text) for text, _ in protocol.curve], scores)
    return figures.EpsilonCurves(_title(protocol), subject, "PGD-10", [curve])


def _grid(
    protocol: ProtocolReport, part: Part, sample: Sample, report: EvaluationReport
) -> figures.SampleGrid:
    facts = DATASETS.get(report.dataset)

    def name(number: int) -> str:
        return facts.class_names[number] if facts else str(number)

    columns = (
        sample.clean,
        sample.adversarial,
        *([name(int(number)) for number in numbers] for numbers in sample.classes()),
    )
    rows = [figures.Sample(*row) for row in zip(*columns, strict=True)]
    first = report.subjects[0].name
    return figures.SampleGrid(_title(protocol), first, sample.measure.name, rows)
