"""Every metric of a log as plain data, keyed as the published toolkit keys them and by their names.

Owns the shape of what `python -m rome_core metrics --json` prints. Must not know a formula or how
an entry is written. Percent and seconds, not rounded but for keys that end in `_2dp`.

Of one entry, `report` gives

    alpha, degenerate          the settings of every number here
    clean, parsed_attacks      what was read: times of the clean pass, attacks by `type` and `name`
    metrics.RULE.MODE          by their own names: RR, I-RR, I-RR+, AE, CREI, I-CREI, I-CREI+; with
                               clean_accuracy and worst_accuracy, which belong beside them,
                               clean_time, `warnings`, and `reasons` by the name of each null
    RULE.TYPE.MODE             the same as the toolkit keys it: RR, AE, CREI, their _2dp, warnings,
                               clean_accuracy, clean_time, attack_accuracies, attack_times
    expected.TYPE.MODE         of rule `min`, the toolkit's: RR, AE, CREI, their _2dp, warnings
    expected_per_mode_clean_time.MODE
                               of rule `same_mode`, the published tables': AE, AE_2dp, CREI, I-CREI

with RULE `same_mode` or `min`, MODE `targeted` or `untargeted` and TYPE `beard`, `rome` or `rome+`.
In the toolkit's keys RR and CREI of type `rome` are I-RR and I-CREI, of `rome+` I-RR+ and I-CREI+.

Of a file with several entries or with names for them it gives alpha and degenerate, such an object
for each under `logs.NAME`, and for each pool under `combined.NAME`

    members                    the entries pooled
    metrics.RULE.MODE          as above, of RRM, I-RRM, I-RRM+, AEM, CREIM, I-CREIM, I-CREIM+
    RULE.TYPE.MODE             RRM, AEM, CREIM and their _2dp
    TYPE.MODE                  the same of rule `min`
    per_mode_clean_time.MODE   of rule `same_mode`: AEM, AEM_2dp, CREIM, I-CREIM
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from rome_core.metrics.formulas import (
    ALPHA,
    KINDS,
    Degenerate,
    Kind,
    Metrics,
    MetricsError,
    Score,
    measure,
)
from rome_core.metrics.logs import CLEAN_TIMES, MODES, CleanTime, Entry, Log, Mode

Measured: TypeAlias = Mapping[CleanTime, Mapping[Mode, Metrics]]

SLOW_CLEAN = "the clean pass took longer than the fastest attack, so AE is of doubtful times."
TOOLKIT_SLOW_CLEAN = (  # its words, under its keys, for who compares with its output
    "Warning: Clean data time cost is higher than some attack times, this might indicate anomalies."
)

_AFFIXES: Mapping[Kind, tuple[str, str]] = {
    "beard": ("", ""),
    "rome": ("I-", ""),
    "rome+": ("I-", "+"),
}


def report(
    log: Log, *, alpha: float = ALPHA, degenerate: Degenerate = "published"
) -> dict[str, Any]:
    """Every metric of every entry and pool, as in this module's docstring.

    Raises MetricsError, with the field's path in the file, where a metric cannot be had.
    """
    settings = {"alpha": alpha, "degenerate": degenerate}
    logs = {
        name: _entry(entry, _measured([entry], name, alpha, degenerate))
        for name, entry in log.entries.items()
    }
    if log.bare:
        (only,) = logs.values()
        return {**settings, **only}
    combined = {}
    for name, members in log.pools.items():
        entries = [log.entries[member] for member in members]
        measured = _measured(entries, f"combined.{name}", alpha, degenerate)
        combined[name] = {"members": list(members), **_pool(measured)}
    return {**settings, "logs": logs, "combined": combined}


def named(metrics: Metrics, pooled: bool = False) -> dict[str, Score]:
    """The seven scores by name: RR, I-RR, ... or, of several groups, RRM, I-RRM, ..."""
    m = "M" if pooled else ""
    scores = {f"{i}RR{m}{plus}": metrics.robustness[kind] for kind, (i, plus) in _AFFIXES.items()}
    scores[f"AE{m}"] = metrics.efficiency
    for kind, (i, plus) in _AFFIXES.items():
        scores[f"{i}CREI{m}{plus}"] = metrics.combined[kind]
    return scores


def _measured(
    entries: Sequence[Entry], path: str, alpha: float, degenerate: Degenerate
) -> Measured:
    measured: dict[CleanTime, dict[Mode, Metrics]] = {rule: {} for rule in CLEAN_TIMES}
    for rule in CLEAN_TIMES:
        for mode in MODES:
            groups = [entry.group(mode, rule) for entry in entries]
            with _fields_of_the_file(path, mode):
                measured[rule][mode] = measure(groups, alpha=alpha, degenerate=degenerate)
    return measured


@contextmanager
def _fields_of_the_file(path: str, mode: Mode) -> Iterator[None]:
    """Say of an error in a group which field of the file it came from."""
    time = "target_time" if mode == "targeted" else "non_target_time"
    fields = {
        "clean_accuracy": "clean.accuracy",
        "clean_cost": f"clean.{time}",
        "attacks.accuracy": f"rows.{mode}_acc",
        "attacks.cost": f"rows.{mode}_time",
        "attacks": "rows",
    }
    try:
        yield
    except MetricsError as error:
        if error.field not in fields:
            raise
        field = f"{path}.{fields[error.field]}" if path else fields[error.field]
        raise MetricsError(error.code, error.detail, error.remedy, field) from error


def _entry(entry: Entry, measured: Measured) -> dict[str, Any]:
    clean = entry.clean
    return {
        "clean": {
            "accuracy": clean.accuracy,
            "target_time": clean.target_time,
            "non_target_time": clean.non_target_time,
            "time": clean.cost("targeted", "min"),
        },
        "parsed_attacks": [
            {"type": mode, "name": cell.name, "accuracy": cell.accuracy, "time": cell.cost}
            for row in entry.attacks
            for mode in MODES
            for cell in [row.cell(mode)]
        ],
        "metrics": _metrics(measured),
        **{rule: _by_kind(modes, _with_raw(entry)) for rule, modes in measured.items()},
        "expected": _by_kind(measured["min"], _with_warnings),
        "expected_per_mode_clean_time": _per_mode(measured),
    }


def _pool(measured: Measured) -> dict[str, Any]:
    rules: dict[str, Any] = {rule: _by_kind(modes, _pooled) for rule, modes in measured.items()}
    return {
        "metrics": _metrics(measured, pooled=True),
        **rules,
        **rules["min"],
        "per_mode_clean_time": _per_mode(measured, "M"),
    }


Block: TypeAlias = Callable[[Kind, Mode, Metrics], dict[str, Any]]


def _by_kind(modes: Mapping[Mode, Metrics], block: Block) -> dict[Kind, dict[Mode, Any]]:
    return {
        kind: {mode: block(kind, mode, metrics) for mode, metrics in modes.items()}
        for kind in KINDS
    }


def _pooled(kind: Kind, mode: Mode, metrics: Metrics) -> dict[str, Any]:
    return _toolkit(metrics, kind, "M")


def _with_warnings(kind: Kind, mode: Mode, metrics: Metrics) -> dict[str, Any]:
    return {**_toolkit(metrics, kind), "warnings": _warnings(metrics, TOOLKIT_SLOW_CLEAN)}


def _with_raw(entry: Entry) -> Block:
    def block(kind: Kind, mode: Mode, metrics: Metrics) -> dict[str, Any]:
        cells = [row.cell(mode) for row in entry.attacks]
        return {
            **_with_warnings(kind, mode, metrics),
            "clean_accuracy": metrics.clean_accuracy,
            "clean_time": metrics.clean_cost,
            "attack_accuracies": [cell.accuracy for cell in cells],
            "attack_times": [cell.cost for cell in cells],
        }

    return block


def _metrics(measured: Measured, pooled: bool = False) -> dict[str, Any]:
    return {
        rule: {mode: _by_name(metrics, pooled) for mode, metrics in modes.items()}
        for rule, modes in measured.items()
    }


def _by_name(metrics: Metrics, pooled: bool) -> dict[str, Any]:
    scores = named(metrics, pooled)
    return {
        **{name: score.value for name, score in scores.items()},
        "clean_accuracy": metrics.clean_accuracy,
        "worst_accuracy": metrics.worst_accuracy,
        "clean_time": metrics.clean_cost,
        "warnings": _warnings(metrics, SLOW_CLEAN),
        "reasons": {name: score.reason for name, score in scores.items() if score.value is None},
    }


def _toolkit(metrics: Metrics, kind: Kind, m: str = "") -> dict[str, float | None]:
    values = {
        f"RR{m}": metrics.robustness[kind].value,
        f"AE{m}": metrics.efficiency.value,
        f"CREI{m}": metrics.combined[kind].value,
    }
    return {**values, **{f"{name}_2dp": _rounded(value) for name, value in values.items()}}


def _per_mode(measured: Measured, m: str = "") -> dict[Mode, dict[str, float | None]]:
    return {
        mode: {
            f"AE{m}": metrics.efficiency.value,
            f"AE{m}_2dp": _rounded(metrics.efficiency.value),
            f"CREI{m}": metrics.combined["beard"].value,
            f"I-CREI{m}": metrics.combined["rome"].value,
        }
        for mode, metrics in measured["same_mode"].items()
    }


def _warnings(metrics: Metrics, words: str) -> list[str]:
    return [words] if metrics.clean_is_slow else []


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
