"""From measurements to a report: what the numbers of an evaluation are.

Owns aggregation. Must not attack, and must not write files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from rome_core import metrics
from rome_core.evaluation.evaluation import Evaluated, Measurement, Part
from rome_core.evaluation.evidence import evidence_of
from rome_core.evaluation.outcomes import Outcomes
from rome_core.evaluation.statistics import Resamples
from rome_core.findings import findings, trust
from rome_core.recipes.attacks import (
    MODES,
    Mode,
)
from rome_core.recipes.protocols import Entry
from rome_core.recipes.report import (
    Costs,
    MeasureReport,
    Metrics,
    Perturbation,
    ProtocolReport,
    Share,
    Timing,
    TimingReport,
)

QUERY_POINTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
CLEAN_COST = 1.0
"""Passes an image that is merely classified."""

FOR_FINDINGS = ("spread", "stage")
"""Columns that findings are made of, and that the table of outcomes does without."""


def protocol_reports(done: Evaluated, *, seed: int, students: bool) -> list[ProtocolReport]:
    """One a protocol, in the order they were asked for.

    `students` says that the subjects are students of one set, a sample of those that might have
    been trained, so that their mean has an interval; each of some models has its own.
    """
    return [_Reporter(done, part, seed, students).report() for part in done.parts]


def outcome_tables(done: Evaluated) -> Iterator[Outcomes]:
    """Every image of every measure, for the table beside the report."""
    for part in done.parts:
        for what in part.measures:
            for number, one in enumerate(done.measurements[part.protocol.id, what.name]):
                yield Outcomes(
                    subject=number,
                    protocol=part.protocol.id,
                    attack=what.attack,
                    mode=what.mode or "",
                    image=part.test.numbers.cpu(),
                    label=part.test.labels.cpu(),
                    **{
                        name: column
                        for name, column in one.faced.state_dict().items()
                        if name not in FOR_FINDINGS
                    },
                )


def timing_report(done: Evaluated, hardware: Mapping[str, Any]) -> TimingReport:
    """Seconds, and the published metrics made of them: of this machine and run alone."""
    seconds: dict[str, dict[str, Timing]] = {}
    told: dict[str, dict[str, dict[str, float | None]]] = {}
    for part in done.parts:
        name = part.protocol.id
        seconds[name] = {
            what.name: Timing(seconds=[one.seconds for one in done.measurements[name, what.name]])
            for what in part.measures
        }
        told[name] = {}
        for mode in MODES if (name, "clean") in done.measurements else ():
            # Clean images are classified once, so both published rules for their time agree.
            clean = done.measurements[name, "clean"]
            cells = [
                metrics.AttackCell(entry.name, _percent(got), fmean(m.seconds for m in got))
                for entry in part.entries
                if (got := done.measurements.get((name, f"{entry.name}/{mode}"))) is not None
            ]
            if cells:
                group = metrics.Group(_percent(clean), fmean(m.seconds for m in clean), cells)
                scores = metrics.named(metrics.measure(group, degenerate="sound"))
                told[name][mode] = {key: score.value for key, score in scores.items()}
    return TimingReport(hardware=dict(hardware), seconds=seconds, metrics=told)


class _Reporter:
    """One protocol's report in the making."""

    def __init__(self, done: Evaluated, part: Part, seed: int, students: bool) -> None:
        self._done, self._part, self._students = done, part, students
        self._protocol = part.protocol
        self._labels = part.test.labels.cpu()
        self._resamples = Resamples(len(part.test), seed=seed)
        self._of = {
            what.name: done.measurements[part.protocol.id, what.name] for what in part.measures
        }

    def report(self) -> ProtocolReport:
        protocol, part = self._protocol, self._part
        clean = self._of.get("clean")
        evidence = evidence_of(self._done, self._part)
        found = findings(evidence)
        worst, over = self._worst()
        return ProtocolReport(
            id=protocol.id,
            digest=protocol.digest,
            domain=str(protocol.domain),
            target_rule=protocol.target_rule,
            overridden=list(protocol.overridden),
            settings={e.name: e.settings.model_dump(mode="json") for e in part.entries},
            flaws=[flaw.as_dict() for flaw in protocol.flaws],
            test_images=len(part.test),
            clean=None if clean is None else self._share(_correct(clean)),
            clean_per_class=None if clean is None else self._per_class(_correct(clean)),
            measures=dict(self._measures()),
            worst_case=worst,
            worst_over=over,
            worst_by_mode=self._worst_by_mode(),
            metrics={mode: m for mode in MODES if (m := self._metrics(mode)) is not None},
            curve=None
            if not evidence.probes
            else [(text, accuracy) for text, accuracy in evidence.probes[0]["curve"]],
            curve_images=evidence.probes[0]["images"] if evidence.probes else 0,
            query_curves=dict(self._query_curves()),
            findings=[finding.as_dict() for finding in found],
            trust=trust(found),
        )

    def _measures(self) -> Iterator[tuple[str, MeasureReport]]:
        """Every attack in every mode asked for; the inapplicable ones say why."""
        asked = [mode for mode in MODES if mode in self._part.modes]
        for entry in self._part.entries:
            if entry.name == "clean":
                continue
            for mode in asked if entry.modes else [None]:
                name = f"{entry.name}/{mode}" if mode else entry.name
                if name in self._of:
                    yield name, self._measure(entry, mode, self._of[name])
                elif mode is not None and mode in entry.inapplicable:
                    yield name, _inapplicable(entry, mode)

    def _measure(
        self, entry: Entry, mode: Mode | None, got: Sequence[Measurement]
    ) -> MeasureReport:
        correct, clean = _correct(got), torch.stack([m.faced.clean_correct for m in got])
        broken = clean & ~correct
        hits = torch.stack([m.faced.hit for m in got])
        forwards = torch.cat([m.faced.forwards for m in got]).double().mean()
        backwards = torch.cat([m.faced.backwards for m in got]).double().mean()
        moved = broken.flatten()
        queries = torch.cat([m.faced.queries for m in got])[moved]
        return MeasureReport(
            attack=entry.name,
            mode=mode,
            threat=entry.threat,
            access=entry.access,
            not_applicable=None,
            accuracy=self._share(correct),
            success=Share.of((broken.sum(dim=1).double() / clean.sum(dim=1)).tolist())
            if bool(clean.any(dim=1).all())
            else None,
            target_hit=self._share(hits) if mode == "targeted" else None,
            per_class=self._per_class(correct),
            costs=Costs(
                forwards_per_image=float(forwards),
                backwards_per_image=float(backwards),
                queries_to_break=_median(queries[queries > 0].tolist()),
            ),
            perturbation=Perturbation(
                linf=_median(torch.cat([m.faced.linf for m in got])[moved].tolist()),
                l2=_median(torch.cat([m.faced.l2 for m in got])[moved].tolist()),
            ),
            flaws=[flaw.as_dict() for flaw in entry.flaws],
        )

    def _worst(self) -> tuple[dict[str, Share], list[str]]:
        """Right under every attack of a ball, and under every attack of the protocol."""
        over = [what for what in self._part.measures if what.mode is not None]
        if not over:
            return {}, []
        balls: dict[str, list[Tensor]] = {}
        start = [_correct(self._of["clean"])] if "clean" in self._of else []
        for what in over:
            ball = self._part.ball(self._protocol.entry(what.attack))
            balls.setdefault(ball, list(start)).append(_correct(self._of[what.name]))
        worst = {ball: self._share(torch.stack(own).all(dim=0)) for ball, own in balls.items()}
        every = torch.stack([c for own in balls.values() for c in own]).all(dim=0)
        return {**worst, "all": self._share(every)}, [what.name for what in over]

    def _worst_by_mode(self) -> dict[str, Share]:
        """Right as they were, and under every attack of a mode."""
        start = [_correct(self._of["clean"])] if "clean" in self._of else []
        worst: dict[str, Share] = {}
        for mode in MODES:
            own = [_correct(self._of[w.name]) for w in self._part.measures if w.mode == mode]
            if own:
                worst[mode] = self._share(torch.stack(start + own).all(dim=0))
        return worst

    def _metrics(self, mode: Mode) -> Metrics | None:
        """From counted costs; needs the clean accuracy to compare with."""
        if "clean" not in self._of:
            return None
        cells = []
        for entry in self._part.entries:
            got = self._of.get(f"{entry.name}/{mode}")
            if got is not None:
                passes = torch.cat([m.faced.forwards + m.faced.backwards for m in got])
                cost = float(passes.double().mean())
                cells.append(metrics.AttackCell(entry.name, _percent(got), cost))
        if not cells:
            return None
        clean = _percent(self._of["clean"])
        group = metrics.Group(clean, CLEAN_COST, cells, cost_unit="passes")
        scores = metrics.named(metrics.measure(group, degenerate="sound"))
        return Metrics(
            values={name: score.value for name, score in scores.items()},
            reasons={name: score.reason for name, score in scores.items() if score.reason},
            attacks=[cell.name for cell in cells],
        )

    def _query_curves(self) -> Iterator[tuple[str, list[tuple[int, float]]]]:
        """Accuracy left after so many queries, over all subjects."""
        for what in self._part.measures:
            if what.mode is None or self._protocol.entry(what.attack).access != "query":
                continue
            got = self._of[what.name]
            clean = torch.cat([m.faced.clean_correct for m in got])
            correct = torch.cat([m.faced.correct for m in got])
            # The look that tells who is at stake is none of the attack's queries.
            looks = 0 if self._protocol.attacks_everything else 1
            forwards = torch.cat([m.faced.forwards for m in got]) - looks
            queries = torch.cat([m.faced.queries for m in got])
            # One that is wrong without having reached the goal, as another class than the target,
            # was so at the end; when it became so, nobody looked.
            lost = torch.where(queries > 0, queries, forwards)
            most = int(forwards.max())
            points = [0, *(q for q in QUERY_POINTS if q < most), most]
            yield (
                what.name,
                [
                    (q, float((clean & (correct | (lost > q))).double().mean()))
                    for q in dict.fromkeys(points)
                ],
            )

    def _share(self, rows: Tensor) -> Share:
        """Of (subjects, images) bool, with its bootstrap interval, or one a model."""
        values = rows.double().mean(dim=1).tolist()
        if self._students:
            return Share.of(values, self._interval(rows))
        own = [self._interval(row[None]) for row in rows]
        return Share.of(values, own[0] if len(own) == 1 else None, own)

    def _interval(self, rows: Tensor) -> tuple[float, float]:
        interval = self._resamples.interval(rows)
        return interval.low, interval.high

    def _per_class(self, correct: Tensor) -> list[float | None]:
        """Mean over subjects and the images of a class; null for a class without images."""
        per_image = correct.double().mean(dim=0)
        return [
            float(per_image[self._labels == c].mean()) if bool((self._labels == c).any()) else None
            for c in range(self._part.test.classes)
        ]


def _correct(got: Sequence[Measurement]) -> Tensor:
    """(subjects, images) bool."""
    return torch.stack([one.faced.correct for one in got])


def _percent(got: Sequence[Measurement]) -> float:
    return 100 * fmean(one.faced.accuracy for one in got)


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None


def _inapplicable(entry: Entry, mode: Mode) -> MeasureReport:
    return MeasureReport(
        attack=entry.name,
        mode=mode,
        threat=entry.threat,
        access=entry.access,
        not_applicable=entry.inapplicable[mode],
        accuracy=None,
        success=None,
        target_hit=None,
        per_class=None,
        costs=None,
        perturbation=None,
        flaws=[flaw.as_dict() for flaw in entry.flaws],
    )
