"""Two evaluations side by side: who is better under which attack, and is it chance?

Owns the reading of two reports and their tables. The tests are `rome_core.evaluation.statistics`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rome_core.errors import CoreError
from rome_core.evaluation.outcomes import Outcomes, read_parquet
from rome_core.evaluation.statistics import Measured, Resamples, compare
from rome_core.recipes.report import EvaluationReport

Key = tuple[str, str, str]  # protocol, attack, mode


def compare_files(first: Path, second: Path) -> dict[str, Any]:
    """Every measure that both have. Raises CoreError where none can be compared, with the reason.

    The reports say under which protocol, with which changes, each number was taken; numbers of
    different ones are not compared.
    """
    one, other = _Evaluation(first), _Evaluation(second)
    try:
        told = _compared(one, other)
    except CoreError as error:
        # The two files are the bad input, though nothing within either is wrong.
        raise CoreError(error.code, error.detail, error.remedy, f"{first}, {second}") from error
    return {"first": str(first), "second": str(second), "comparisons": told}


def _compared(one: _Evaluation, other: _Evaluation) -> list[dict[str, Any]]:
    _check(one.report, other.report)
    common = [key for key in one.measured if key in other.measured]
    if not common:
        raise CoreError(
            "nothing_to_compare",
            "The two evaluations have no attack in the same mode in common.",
            "Evaluate both with the same attacks and modes.",
        )
    told = []
    drawn: dict[int, Resamples] = {}  # the draws depend on the number of images alone
    for key in common:
        a, b = one.measured[key], other.measured[key]
        n = len(a.images)
        if n not in drawn:
            drawn[n] = Resamples(n, seed=one.report.seed)
        made = compare(a, b, drawn[n])
        protocol, attack, mode = key
        told.append({"protocol": protocol, "attack": attack, "mode": mode or None, **asdict(made)})
    return told


class _Evaluation:
    """A report and the table beside it."""

    def __init__(self, path: Path) -> None:
        try:
            self.report = EvaluationReport.model_validate(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise CoreError(
                "evaluation_unreadable",
                f"{path} is no evaluation of this version: {str(error).splitlines()[0]}",
                "Give an evaluation.json as `evaluate --out` writes it.",
                str(path),
            ) from error
        tables = [
            path.with_name(f"{path.stem}.outcomes.parquet"),
            path.with_name("outcomes.parquet"),
        ]
        there = [table for table in tables if table.is_file()]
        if not there:
            raise CoreError(
                "outcomes_missing",
                f"There is no {tables[0].name} beside {path}.",
                "Keep the table that `evaluate --out` writes beside its report.",
                str(path),
            )
        try:
            rows = read_parquet(there[0])
        except CoreError as error:
            raise CoreError(error.code, error.detail, error.remedy, str(path)) from error
        if any(self._said(row) != float(row.correct.double().mean()) for row in rows):
            raise CoreError(
                "outcomes_missing",
                f"The table {there[0].name} is not of this report: their accuracies differ.",
                "Keep the table that `evaluate --out` writes beside its report.",
                str(path),
            )
        self.measured = dict(self._collected(rows))

    def _said(self, row: Outcomes) -> float | None:
        """The accuracy that the report gives for what a part of the table is about."""
        for protocol in self.report.protocols:
            if protocol.id == row.protocol:
                name = f"{row.attack}/{row.mode}" if row.mode else row.attack
                measure = protocol.measures.get(name)
                share = measure.accuracy if measure else protocol.clean if name == "clean" else None
                values = share.values if share else []
                return values[row.subject] if row.subject < len(values) else None
        return None

    def _collected(self, rows: list[Outcomes]) -> Iterator[tuple[Key, Measured]]:
        by_key: dict[Key, list[Outcomes]] = {}
        for row in rows:
            by_key.setdefault((row.protocol, row.attack, row.mode), []).append(row)
        protocols = {protocol.id: protocol for protocol in self.report.protocols}
        for key, own in by_key.items():
            protocol, attack, mode = key
            settings = json.dumps(protocols[protocol].settings[attack], sort_keys=True)
            correct = torch.stack([row.correct for row in own])
            yield (
                key,
                Measured(
                    protocol, attack, settings, mode, self.report.dataset, own[0].image, correct
                ),
            )


def _check(one: EvaluationReport, other: EvaluationReport) -> None:
    names = [{protocol.id for protocol in report.protocols} for report in (one, other)]
    if not names[0] & names[1]:
        raise CoreError(
            "protocols_differ",
            f"The first is of {', '.join(sorted(names[0]))}, the second of "
            f"{', '.join(sorted(names[1]))}: the same epsilon is another distance in another "
            "protocol, so their numbers say nothing about each other.",
            "Evaluate both under one protocol.",
        )
    if one.dataset != other.dataset:
        raise CoreError(
            "datasets_differ",
            f"The first is of {one.dataset}, the second of {other.dataset}.",
            "Evaluate both on one dataset.",
        )
    if one.data != other.data:
        differing = sorted(
            name
            for name in one.data.keys() | other.data.keys()
            if one.data.get(name) != other.data.get(name)
        )
        raise CoreError(
            "datasets_differ",
            f"Both are of {one.dataset}, but of other files: {', '.join(differing)} differ.",
            "Evaluate both on the same files.",
        )
