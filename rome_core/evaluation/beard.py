"""An evaluation as BEARD-format logs: which attack of ours bears which of its names.

Owns the mapping; the grammar is `rome_core.beard_log`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev

from rome_core.beard_log import UNTARGETED_ONLY, Cell, Line, compose
from rome_core.evaluation.evaluation import Evaluated, Measurement, Part
from rome_core.evaluation.transfer import Transferred
from rome_core.recipes.protocols import Entry
from rome_core.recipes.report import EvaluationReport, TransferReport

_HIDDEN = {name.casefold() for name in (*UNTARGETED_ONLY, "AutoAttack")}


def logs(report: EvaluationReport, done: Evaluated) -> dict[str, str]:
    """Texts by file name: one a protocol and method. None without clean accuracy to refer to.

    Students of one set are one method, with their mean and spread; models are a method each.
    Attacks that ran in one mode only are left out where the grammar could not say so.
    """
    written = {}
    students = report.set is not None
    names = [report.set.method] if report.set else [subject.name for subject in done.subjects]
    for part in done.parts:
        if (part.protocol.id, "clean") not in done.measurements:
            continue
        for place, name in enumerate(_words(names)):
            chosen = range(len(done.subjects)) if students else [place]
            ipc = report.set.ipc if report.set else 0
            lines = list(_lines(done, part, chosen, name, _word(report.dataset).upper(), ipc))
            stem = f"{part.protocol.name}-{name}" if not students else part.protocol.name
            written[f"beard-{stem}.log"] = compose(lines)
    return written


def transfer_logs(report: TransferReport, done: Transferred) -> dict[str, str]:
    """Texts by file name: one a crafting model, which has to be among the targets."""
    written = {}
    models = list(dict.fromkeys([*report.targets, *report.sources]))
    words = dict(zip(models, _words(models), strict=True))
    for source in report.sources:
        if source not in report.clean:
            continue
        lines = []
        names = [None, *(entry for entry in done.entries)]
        for entry in names:
            cells = {
                mode: _transferred(done, entry, mode, source, report, words)
                for mode in ("targeted", "untargeted")
            }
            attack = "Clean" if entry is None else _name(entry)
            aimless = attack in UNTARGETED_ONLY
            if cells["untargeted"] is None or (cells["targeted"] is None and not aimless):
                continue
            lines.append(
                Line(
                    attack,
                    words[source],
                    None if aimless else cells["targeted"],
                    cells["untargeted"],
                    _word(report.dataset).upper(),
                    0,
                    protocol=report.protocol,
                )
            )
        if len(lines) > 1:
            written[f"beard-transfer-{words[source]}.log"] = compose(lines)
    return written


def _transferred(
    done: Transferred,
    entry: Entry | None,
    mode: str,
    source: str,
    report: TransferReport,
    words: Mapping[str, str],
) -> Cell | None:
    if entry is None:
        shares, seconds = dict(report.clean), done.clean_seconds[source]
    else:
        what = f"{entry.name}/{mode}"
        if (what, source, source) not in done.correct:
            return None
        shares = {
            target: float(done.correct[what, source, target].double().mean())
            for target in report.targets
        }
        seconds = done.seconds[what, source]
    models = {words[target]: share for target, share in shares.items()}
    return Cell(100 * shares[source], 0.0, _told(seconds), models)


def _lines(
    done: Evaluated, part: Part, chosen: Sequence[int], method: str, dataset: str, ipc: int
) -> Iterator[Line]:
    for entry in part.entries:
        if entry.name == "clamp":
            continue
        cells = {
            mode: _cell(
                done, part, entry.name if not entry.modes else f"{entry.name}/{mode}", chosen
            )
            for mode in ("targeted", "untargeted")
        }
        attack = _name(entry)
        if cells["untargeted"] is None:
            continue
        if cells["targeted"] is None and attack not in UNTARGETED_ONLY:
            continue
        yield Line(
            attack,
            method,
            None if attack in UNTARGETED_ONLY else cells["targeted"],
            cells["untargeted"],
            dataset,
            ipc,
            protocol=part.protocol.id,
        )


def _cell(done: Evaluated, part: Part, measure: str, chosen: Sequence[int]) -> Cell | None:
    every = done.measurements.get((part.protocol.id, measure))
    if every is None:
        return None
    got: list[Measurement] = [every[number] for number in chosen]
    accuracies = [100 * one.faced.accuracy for one in got]
    spread = stdev(accuracies) if len(accuracies) > 1 else 0.0
    return Cell(fmean(accuracies), spread, _told(fmean(one.seconds for one in got)))


def _told(seconds: float) -> float:
    """A time that is rounded to zero would read as not measured."""
    return max(0.000001, seconds)


def _name(entry: Entry) -> str:
    """The published name, of the published settings alone; ours elsewhere.

    Whatever bears a name of UNTARGETED_ONLY, in any case of its letters, has its targeted numbers
    left out: an attack of ours that has some bears another, `deepfool_targetable`.
    """
    if entry.published is not None:
        return entry.published
    word = "AA" if entry.name == "autoattack" else _word(entry.name)
    hidden = word.casefold() in _HIDDEN and "targeted" in entry.modes
    return f"{word}_targetable" if hidden else word


def _words(names: Sequence[str]) -> list[str]:
    """A word for each name and no two alike: of `m-1` and `m.1` the second is `m_1_2`."""
    made: list[str] = []
    for name in names:
        word, number = _word(name), 1
        while word in made:
            number += 1
            word = f"{_word(name)}_{number}"
        made.append(word)
    return made


def _word(text: str) -> str:
    """The toolkit passes over names that are not one word."""
    return re.sub(r"\W+", "_", text) or "_"
