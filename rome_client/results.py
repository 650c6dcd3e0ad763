"""A job's result as a person reads it: a line a fact, each number beside what speaks against it.

Owns the wording of numbers; it must not print. Accuracies are fractions in [0,1] in a result and
percentages here; metrics are percentages already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Line = tuple[str, str]

SHARE = {"mean", "std", "n"}
TRUST, FINDINGS, METRICS = "trust", "findings", "metrics"

# The service stores a result with its names sorted.
ORDER = ("clean", "clamp", "", "worst", METRICS)
METRICS_ORDER = ("RR", "I-RR", "I-RR+", "AE", "CREI", "I-CREI", "I-CREI+")


def lines(result: Mapping[str, Any]) -> Iterator[Line]:
    """Name and text of every fact, those of one protocol under what is doubtful about it."""
    if {"protocol", "i_rr", "worst_case"} <= result.keys():
        yield from _transfer(result)
        return
    told: set[str] = set()
    for label in [name.removesuffix(f"/{TRUST}") for name in result if name.endswith(f"/{TRUST}")]:
        own = {name: value for name, value in result.items() if name.startswith(f"{label}/")}
        told |= own.keys()
        yield from _protocol(label, own)
    for name, value in result.items():
        if name not in told:
            yield from _fact(name, value)


def doubt(result: Mapping[str, Any], label: str) -> str:
    """How far a protocol's numbers can be trusted, and why not further."""
    found = result.get(f"{label}/{FINDINGS}") or ()
    why = f": {', '.join(dict.fromkeys(found))}" if found else ""
    return f"trust {result[f'{label}/{TRUST}']}{why}"


def share(value: Mapping[str, Any]) -> str:
    """`79.80 ± 1.37 %, 95 % in [77.20, 82.10], n = 5`."""
    spread = "" if value["std"] is None else f" ± {100 * value['std']:.2f}"
    bounds = ""
    if value.get("interval") is not None:
        low, high = value["interval"]
        bounds = f", 95 % in [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{100 * value['mean']:.2f}{spread} %{bounds}, n = {value['n']}"


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flatten(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mappings as dotted names; lists stay whole."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flatten(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _protocol(label: str, own: Mapping[str, Any]) -> Iterator[Line]:
    yield label, doubt(own, label)
    # A line may be copied without the others.
    trust = own[f"{label}/{TRUST}"]
    mark = "" if trust == "high" else f", trust {trust}"
    rest = [name for name in own if name not in (f"{label}/{TRUST}", f"{label}/{FINDINGS}")]
    for name in sorted(rest, key=lambda name: _place(name.split("/")[1], ORDER, "")):
        for place, text in _fact(name, own[name]):
            yield place, f"{text}{mark}"


def _fact(name: str, value: Any) -> Iterator[Line]:
    if isinstance(value, Mapping) and value.keys() >= SHARE:
        if "each" in value:  # a mean of some models says little about any of them
            for model, (right, *interval) in value["each"].items():
                own = {"mean": right, "std": None, "n": 1, "interval": interval}
                yield f"{name}, {model}", share(own)
        else:
            yield name, share(value)
    elif isinstance(value, Mapping) and f"/{METRICS}/" in name:
        scores = sorted(value, key=lambda metric: _place(metric, METRICS_ORDER))
        yield name, ", ".join(f"{metric} {_percent(value[metric])}" for metric in scores)
    else:
        for place, inner in flatten({name: value}):
            yield place, number(inner)


def _transfer(result: Mapping[str, Any]) -> Iterator[Line]:
    """Matrices, a line a crafting model."""
    sources, targets = result["sources"], result["targets"]
    matrices = {f"I-RR {mode}": matrix for mode, matrix in result["i_rr"].items()}
    worst = [[100 * right for right in row] for row in result["worst_case"]]
    shown = {"sources", "targets", "i_rr", "worst_case", "clean", TRUST, FINDINGS}
    for name, value in result.items():
        if name not in shown and not name.endswith("_intervals"):
            yield from _fact(name, value)
    mark = ""
    if TRUST in result:  # results of before have none
        yield "trust", doubt({f"/{name}": result.get(name) for name in (TRUST, FINDINGS)}, "")
        mark = "" if result[TRUST] == "high" else f", trust {result[TRUST]}"
    clean = [100 * result["clean"][target] for target in targets]
    bounds = result.get("clean_intervals") or {}
    own = [bounds.get(target) for target in targets]
    yield "clean accuracy", _row(targets, clean, " %", own) + mark
    for name, matrix in matrices.items():
        for source, row in zip(sources, matrix, strict=True):
            yield f"{name}, crafted on {source}", _row(targets, row, "") + mark
    limits = result.get("worst_case_intervals") or [None] * len(sources)
    for source, row, within in zip(sources, worst, limits, strict=True):
        yield f"accuracy left, crafted on {source}", _row(targets, row, " %", within) + mark


def _row(
    names: Sequence[str],
    values: Iterable[float | None],
    unit: str,
    intervals: Sequence[Sequence[float] | None] | None = None,
) -> str:
    """`a 97.60 % [95.10, 98.90], b 95.00 % [...]`."""
    told = []
    within = [None] * len(names) if intervals is None else intervals
    for name, value, interval in zip(names, values, within, strict=True):
        bounds = "" if interval is None else f" [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"
        told.append(f"{name} {_percent(value)}{unit}{bounds}")
    return ", ".join(told)


def _place(name: str, order: Sequence[str], other: str | None = None) -> int:
    """Where a name stands; one that is not listed where `other` does, or last."""
    known = name if name in order else other
    return order.index(known) if known is not None else len(order)


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
