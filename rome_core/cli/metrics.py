"""`python -m rome_core metrics FILE [FILE ...]`: every metric of logs, pooled if several.

Owns reading the files and the table. The shape of --json is `rome_core.metrics.report`'s. Imports
no torch, so that it answers at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rome_core import beard_log
from rome_core.errors import CoreError
from rome_core.metrics import parse, report
from rome_core.recipes import SpecError


def metrics(arguments: argparse.Namespace) -> None:
    """Print the metrics of a file: a table rounded to two decimals, or one JSON line, unrounded."""
    try:
        log = parse(_contents(arguments.files))
    except SpecError as error:
        first, *others = error.problems
        more = f" (Problems after this one: {len(others)}.)" if others else ""
        raise CoreError(
            "log_invalid", f"{first.message}.", f"{first.remedy}{more}", first.field
        ) from error
    told = report(log, alpha=arguments.alpha, degenerate=arguments.degenerate)
    if arguments.json:
        print(json.dumps(told, allow_nan=False))
    else:
        print("\n".join(_table(told)))


def _contents(paths: Sequence[Path]) -> object:
    """What one file holds, or several files' entries by their names."""
    if len(paths) == 1:
        return _content(paths[0])
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return {name: _content(path) for name, path in zip(names, paths, strict=True)}


def _content(path: Path) -> object:
    """Decoded JSON, or the entry of a log as BEARD and `evaluate` write them."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise CoreError(
            "file_unreadable",
            f"{path} cannot be read: {why}.",
            "Give a JSON file with an entry of an evaluation log, or such a log.",
            "FILE",
        ) from error
    if lines := beard_log.parse(text) if not text.lstrip().startswith(("{", "[")) else []:
        return beard_log.entry(lines)
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise CoreError(
            "not_json", f"{path} is not JSON: {error}.", "Give a file that is.", "FILE"
        ) from error


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what Python would drop without a word: all but the last of entries with one name."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return content


_SCORES = ("RR", "I-RR", "I-RR+", "AE", "CREI", "I-CREI", "I-CREI+")
_POOLED = ("RRM", "I-RRM", "I-RRM+", "AEM", "CREIM", "I-CREIM", "I-CREIM+")
_RULES = {"same_mode": "same mode", "min": "min of both"}


def _table(told: dict[str, Any]) -> Iterator[str]:
    degenerate = "as published" if told["degenerate"] == "published" else "sound"
    yield f"percent; alpha {told['alpha']:g}; degenerate cases {degenerate}"
    if "logs" not in told:
        yield from _block(told["metrics"], _SCORES)
        return
    for name, entry in told["logs"].items():
        yield f"\n{name}"
        yield from _block(entry["metrics"], _SCORES)
    for name, pool in told["combined"].items():
        yield f"\n{name}: {len(pool['members'])} entries pooled"
        yield from _block(pool["metrics"], _POOLED)


def _block(by_rule: dict[str, Any], scores: Sequence[str]) -> Iterator[str]:
    """A line a mode and clean-time rule, then what is wrong with any of them."""
    columns = ("clean", "worst", *scores)
    yield f"  {'mode':<10}  {'clean time':<11}" + "".join(f"{name:>10}" for name in columns)
    notes: dict[str, None] = {}  # each once, in order
    for mode in ("targeted", "untargeted"):
        for rule, words in _RULES.items():
            row = by_rule[rule][mode]
            values = [row["clean_accuracy"], row["worst_accuracy"], *(row[s] for s in scores)]
            yield f"  {mode:<10}  {words:<11}" + "".join(_cell(value) for value in values)
            for warning in row["warnings"]:
                notes[f"  {mode}, {words}: {warning}"] = None
            for name, reason in row["reasons"].items():
                notes[f"  {mode}, {words}: no {name}: {reason}"] = None
    yield from notes


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.2f'):>10}"
