"""Evaluation logs in the words of BEARD's: what its metrics toolkit reads, written and read.

Owns the grammar. Must not know a formula, nor which attack of ours bears which name. Torch-free.

One line an attack, anywhere in a text:

    FGSM attack on BACON: final acc is:  target_attack: 44.68 +- 0.00, attack time is 3.01;
    non_target_attack: 38.16 +- 0.00, attack time is 3.68, dataset: CIFAR10, IPC: 50, key: value...

(in truth on one line, with two spaces after "is:"). Accuracies, and their spread over students, are
percentages against the true label in both modes; times are seconds. Names are `\\w+` and numbers
plain decimals, for the toolkit passes over any other without a word. A transfer line's method is
the model that crafted the images, and two last fields tell what other models got right of them, as
fractions:

    eval_accuracies_target: {[{'DC': 0.3056, ...}]}, eval_accuracies_non_target: {[{...}]}

Our lines say their protocol too, in a field that the toolkit ignores; the published ones have none.

The grammar cannot say that an attack has no targeted form. The published logs then repeat the clean
accuracy and time, which reads as an attack that failed; the toolkit leaves such cells out by the
attacks' names, UNTARGETED_ONLY. Here they are all zeros, the time too, as no measurement's are, and
are read back as not measured; on request they are written as published. Nothing that the toolkit
would count is invented: any other cell that is missing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

from rome_core.errors import CoreError

UNTARGETED_ONLY: Final = ("Deepfool", "AA", "TPGD")
"""Attacks whose targeted cells the toolkit leaves out, whatever is in them."""

_CLEAN: Final = "clean"  # the toolkit looks for it whatever its case

PERCENT_DECIMALS: Final = 6
"""More than any test set resolves, and few enough that 100 * 0.5699 is written as 56.99."""

_FRACTION_DECIMALS: Final = PERCENT_DECIMALS + 2

NotApplicable: TypeAlias = Literal["zeros", "clean"]
"""What stands for a targeted cell that does not exist: zeros, or as published the clean cell."""

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_CELL = rf"({_NUMBER}) \+- ({_NUMBER}), attack time is ({_NUMBER})"
_LINE: Final = re.compile(
    rf"(?:^|(?<=\s))(\w+) attack on (\w+): final acc is:\s+"
    rf"target_attack: {_CELL}; non_target_attack: {_CELL}(.*)"
)
_MARK: Final = "final acc is"  # of a line that means to be one

# A value ends at a comma outside of brackets. The published lines have "aug:False ,".
_FIELD: Final = re.compile(r"\s*,\s*(\w+):\s*(\[[^\]]*\]|\{\[.*?\]\}|[^,]*?)\s*(?=,|$)")
_MODEL: Final = re.compile(rf"'([^']+)':\s*({_NUMBER})\s*(?:,|$)\s*")

_TARGETED_MODELS: Final = "eval_accuracies_target"
_UNTARGETED_MODELS: Final = "eval_accuracies_non_target"
_OWN_FIELDS: Final = ("dataset", "IPC", "protocol", _TARGETED_MODELS, _UNTARGETED_MODELS)


@dataclass(frozen=True)
class Cell:
    """One attack in one mode: accuracy and spread in percent, and seconds; not all of them 0.

    `models` holds what other models got right of the same images, fractions in [0, 1] by name; it
    is empty but in transfer logs.
    """

    accuracy: float
    spread: float
    seconds: float
    models: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = (self.accuracy, self.spread, self.seconds)
        if not (0 <= self.accuracy <= 100 and 0 <= self.spread <= 100 and 0 <= self.seconds < 1e9):
            raise ValueError(f"accuracy, spread and seconds cannot be {numbers}")
        if not any(round(number, PERCENT_DECIMALS) for number in numbers):
            raise ValueError("accuracy, spread and seconds of 0 mean that nothing was measured")
        if not all(0 <= share <= 1 for share in self.models.values()):
            raise ValueError(f"accuracies of other models are fractions, not {self.models}")


@dataclass(frozen=True)
class Line:
    """One attack on one method's model. `details` are further fields of the line, by name."""

    attack: str
    method: str
    targeted: Cell | None
    untargeted: Cell | None
    dataset: str
    ipc: int
    protocol: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return self.attack.lower() == _CLEAN


def compose(lines: Sequence[Line], *, not_applicable: NotApplicable = "zeros") -> str:
    """Write a log, its lines in the order given. Numbers are rounded to six decimals.

    Raises CoreError `beard_log_impossible` where the toolkit would misread it: names that are not
    `\\w+`, cells that the toolkit would count but nobody measured, an attack twice, no clean line,
    or transfer lines among others.
    """
    _check(lines)
    clean = next(line for line in lines if line.is_clean)
    return "".join(f"{_compose(line, clean, not_applicable)}\n" for line in lines)


def parse(text: str) -> list[Line]:
    """Read a log, ours or a published one; lines about other things are passed over.

    Raises CoreError `beard_log_unreadable` for a line that means to be an attack's but is not of
    the grammar, instead of leaving the attack out as the toolkit does.
    """
    return [
        _parse(line, number)
        for number, line in enumerate(text.splitlines(), start=1)
        if _MARK in line
    ]


def entry(lines: Sequence[Line], model: str | None = None) -> dict[str, Any]:
    """The lines of one log as an entry that metrics are made of: `clean` and `rows`, as JSON.

    With `model`, the entry of that model in a transfer log, in its own accuracies and the times of
    the model that crafted the images. Cells of attacks that have none are null. Raises CoreError
    `beard_log_incomplete` for lines without exactly one clean one, or that lack the model.
    """
    rows = [_row(line, model) for line in lines]
    clean = [row for line, row in zip(lines, rows, strict=True) if line.is_clean]
    if len(clean) != 1 or None in clean[0].values():
        raise CoreError(
            "beard_log_incomplete",
            f"The log has {len(clean)} lines of the attack Clean, not one with both modes.",
            "Give the lines of one evaluation, the clean one among them.",
        )
    times = clean[0]["targeted_time"], clean[0]["untargeted_time"]
    return {
        "clean": {
            "accuracy": clean[0]["targeted_acc"],
            "target_time": times[0],
            "non_target_time": times[1],
            "time": min(times),
        },
        "rows": rows,
    }


def _row(line: Line, model: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"attack": line.attack, "method": model or line.method}
    for mode, cell in (("targeted", line.targeted), ("untargeted", line.untargeted)):
        accuracy = cell and cell.accuracy
        if cell and model is not None:
            if model not in cell.models:
                raise CoreError(
                    "beard_log_incomplete",
                    f"The line of {line.attack} says nothing of the model {model!r}.",
                    f"Give one of {', '.join(cell.models) or 'a transfer log'}.",
                )
            accuracy = round(100 * cell.models[model], PERCENT_DECIMALS)
        row[f"{mode}_acc"], row[f"{mode}_time"] = accuracy, cell and cell.seconds
    return row


# Writing


def _impossible(detail: str, remedy: str) -> CoreError:
    return CoreError("beard_log_impossible", detail, remedy)


def _check(lines: Sequence[Line]) -> None:
    names = [line.attack for line in lines]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise _impossible(
            f"{', '.join(twice)} would stand twice in one log.", "Write one log an evaluation."
        )
    clean = [line for line in lines if line.is_clean]
    if len(clean) != 1 or clean[0].targeted is None:
        raise _impossible(
            "Without one line of the attack Clean, no metric can be computed.",
            "Measure clean accuracy too, and call it Clean.",
        )
    models = set(clean[0].targeted.models)
    for line in lines:
        _check_words(line)
        for mode, cell in (("targeted", line.targeted), ("untargeted", line.untargeted)):
            if cell is None and not (mode == "targeted" and line.attack in UNTARGETED_ONLY):
                raise _impossible(
                    f"{line.attack} has no {mode} numbers, and the format cannot say so: whatever "
                    "stood there would be counted.",
                    "Measure both modes, or leave the attack out of the log.",
                )
            if cell is not None and set(cell.models) != models:
                raise _impossible(
                    f"{line.attack} was tried on {sorted(cell.models)}, Clean on {sorted(models)}.",
                    "Give the accuracies of the same models for every attack and mode.",
                )


def _check_words(line: Line) -> None:
    cells = [cell for cell in (line.targeted, line.untargeted) if cell]
    names = {line.attack, line.method, line.dataset, *line.details}
    for name in sorted(names.union(*(cell.models for cell in cells))):
        if not re.fullmatch(r"\w+", name):
            like_it = re.sub(r"\W+", "_", name)
            raise _impossible(
                f"{name!r} is no name there: letters, digits and underscores are.",
                f"Give one, such as {like_it or 'X'}.",
            )
    if not 0 <= line.ipc < 10**9:
        raise _impossible(f"There are no {line.ipc} images a class.", "Give the set's own count.")
    protocol = {} if line.protocol is None else {"protocol": line.protocol}
    if own := sorted(set(_OWN_FIELDS) & set(line.details)):
        raise _impossible(f"{own} have fields of their own.", "Leave them out of the details.")
    for name, value in {**protocol, **line.details}.items():
        found = _FIELD.fullmatch(f", {name}: {value}")
        if not value or not value.isprintable() or found is None or found[2] != value:
            raise _impossible(
                f"The {name} {value!r} would end its field early, or be lost.",
                "Give text of one line without commas, but in brackets.",
            )


def _compose(line: Line, clean: Line, not_applicable: NotApplicable) -> str:
    targeted, untargeted = line.targeted, line.untargeted
    assert untargeted is not None
    if targeted is None and not_applicable == "clean":
        targeted = clean.targeted
    fields = {"dataset": line.dataset, "IPC": str(line.ipc)}
    if line.protocol is not None:
        fields["protocol"] = line.protocol
    fields.update(line.details)
    if untargeted.models:
        told = targeted.models if targeted else dict.fromkeys(untargeted.models, 0.0)
        fields[_TARGETED_MODELS] = _models(told)
        fields[_UNTARGETED_MODELS] = _models(untargeted.models)
    return (
        f"{line.attack} attack on {line.method}: final acc is:  "
        f"target_attack: {_cell(targeted)}; non_target_attack: {_cell(untargeted)}"
        + "".join(f", {name}: {value}" for name, value in fields.items())
    )


def _cell(cell: Cell | None) -> str:
    accuracy, spread, seconds = (
        (cell.accuracy, cell.spread, cell.seconds) if cell else (0.0, 0.0, 0.0)
    )
    return f"{_plain(accuracy)} +- {_plain(spread)}, attack time is {_plain(seconds)}"


def _models(models: Mapping[str, float]) -> str:
    told = ", ".join(
        f"'{name}': {_plain(share, _FRACTION_DECIMALS)}" for name, share in models.items()
    )
    return f"{{[{{{told}}}]}}"


def _plain(number: float, decimals: int = PERCENT_DECIMALS) -> str:
    """Decimals without an exponent: two, as published, and up to `decimals` where needed."""
    whole, _, part = f"{Decimal(repr(round(float(number), decimals))):f}".partition(".")
    return f"{whole}.{part.ljust(2, '0')}"


# Reading


def _unreadable(number: int, why: str) -> CoreError:
    return CoreError(
        "beard_log_unreadable",
        f"Line {number} is no line of a BEARD log: {why}.",
        "Put it right as `Name attack on Name: final acc is:  target_attack: 1.00 +- 0.00, attack "
        "time is 1.00; non_target_attack: ...`, with names of letters, digits and underscores and "
        "plain decimals.",
    )


def _parse(text: str, number: int) -> Line:
    found = _LINE.search(text)
    if found is None:
        raise _unreadable(number, "its names or numbers are not of the grammar")
    attack, method, *numbers, rest = found.groups()
    fields: dict[str, str] = {}
    place = 0
    while match := _FIELD.match(rest, place):
        fields[match[1]] = match[2]
        place = match.end()
    if rest[place:].strip():
        raise _unreadable(number, f"it cannot be read from {rest[place:].strip()!r} on")
    ipc = fields.get("IPC", "")
    if "dataset" not in fields or not re.fullmatch(r"[0-9]{1,9}", ipc):
        raise _unreadable(number, "it does not say its dataset and IPC")
    targeted, untargeted = (
        _read_cell(part, fields.get(name), number)
        for part, name in ((numbers[:3], _TARGETED_MODELS), (numbers[3:], _UNTARGETED_MODELS))
    )
    return Line(
        attack,
        method,
        targeted,
        untargeted,
        fields["dataset"],
        int(ipc),
        fields.get("protocol"),
        {name: value for name, value in fields.items() if name not in _OWN_FIELDS},
    )


def _read_cell(texts: Sequence[str], models: str | None, number: int) -> Cell | None:
    accuracy, spread, seconds = map(float, texts)
    if accuracy == spread == seconds == 0:
        return None
    try:
        return Cell(accuracy, spread, seconds, _read_models(models, number) if models else {})
    except ValueError as error:
        raise _unreadable(number, str(error)) from error


def _read_models(text: str, number: int) -> dict[str, float]:
    inner = text.removeprefix("{[{").removesuffix("}]}")
    models: dict[str, float] = {}
    place = 0
    while match := _MODEL.match(inner, place):
        models[match[1]] = float(match[2])
        place = match.end()
    if place < len(inner) or len(inner) + 6 != len(text):
        raise _unreadable(number, f"{text!r} is no list of models and accuracies")
    return models
