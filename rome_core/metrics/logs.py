"""Evaluation logs as data: the entries that metrics are made of.

Owns the shape of an entry and what of it counts in which mode. Must not know a formula.

An entry is one model: `clean` with its accuracy and times, and in `rows` one object an attack, with
the accuracy in percent against the true label and the time in seconds for both modes, null where an
attack has none. Anything else in an entry (`path`, `expected`, ...) is ignored, but nothing in its
parts is. A row named Clean is no attack and is left out: `clean` says it. A file holds one entry, a
list of them, an object from name to entry, or such an object under `logs`, beside which
`combined.NAME.members` may say which entries belong together; else all of them do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from rome_core.metrics.formulas import AttackCell, Group
from rome_core.recipes.problems import FieldProblem, SpecError, from_validation

Mode: TypeAlias = Literal["targeted", "untargeted"]

CleanTime: TypeAlias = Literal["same_mode", "min"]
"""Which of an entry's two clean times AE uses.

`same_mode`: the mode's own, as behind the published tables. `min`: the smaller one in both modes,
as in the published toolkit, whose targeted AE therefore differs from the tables'.
"""

MODES: tuple[Mode, ...] = get_args(Mode)
CLEAN_TIMES: tuple[CleanTime, ...] = get_args(CleanTime)

EVERYTHING = "all"  # the pool of a file that names none

# Logs repeat the clean accuracy where these have no targeted form, which is no measurement.
_UNTARGETED_ONLY = {"deepfool", "autoattack", "tpgd"}

_PUBLISHED_NAMES = {"CW": "C&W", "AA": "AutoAttack"}


def _printable(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("a name is made of printable characters")
    return text


Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0)]
Name = Annotated[str, AfterValidator(_printable)]

# What a field wants, for the remedy of an error in it.
_PERCENT = "an accuracy in percent, 0 to 100"
_SECONDS = "seconds, 0 or more, or null"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Clean(_Part):
    """The model without an attack. `time`, the smaller of the two, is derived and not read."""

    accuracy: Percent = Field(description=_PERCENT)
    target_time: Seconds | None = Field(description=_SECONDS)
    non_target_time: Seconds | None = Field(description=_SECONDS)
    time: Seconds | None = Field(None, description=_SECONDS)

    def cost(self, mode: Mode, rule: CleanTime) -> float | None:
        """Seconds of the clean pass by the rule; None where not taken."""
        if rule == "same_mode":
            return self.target_time if mode == "targeted" else self.non_target_time
        times = [time for time in (self.target_time, self.non_target_time) if time is not None]
        return min(times, default=None)


class Row(_Part):
    """One attack in both modes, null where it has no such mode or was not run."""

    attack: Name = Field(description="the attack's name")
    method: str | None = Field(None, description="the model's name or null")
    targeted_acc: Percent | None = Field(description=f"{_PERCENT}, or null")
    targeted_time: Seconds | None = Field(description=_SECONDS)
    untargeted_acc: Percent | None = Field(description=f"{_PERCENT}, or null")
    untargeted_time: Seconds | None = Field(description=_SECONDS)

    @property
    def name(self) -> str:
        """The attack's published name: C&W for CW, AutoAttack for AA."""
        return _PUBLISHED_NAMES.get(self.attack, self.attack)

    def cell(self, mode: Mode) -> AttackCell:
        """The attack in a mode, with nothing in it where the mode does not apply."""
        if mode == "untargeted":
            return AttackCell(self.name, self.untargeted_acc, self.untargeted_time)
        if self.name.casefold() in _UNTARGETED_ONLY:
            return AttackCell(self.name, None, None)
        return AttackCell(self.name, self.targeted_acc, self.targeted_time)


class Entry(BaseModel):
    """One model under its attacks."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    clean: Clean
    rows: list[Row]

    @field_validator("rows")
    @classmethod
    def _each_attack_once(cls, rows: list[Row]) -> list[Row]:
        names = [row.name for row in rows]
        for position, name in enumerate(names):
            if name in names[:position]:  # a second run's lines would count an attack twice
                raise ValueError(f"row {position} repeats {name!r}")
        if all(row.name.casefold() == "clean" for row in rows):
            raise ValueError("there is no attack in it")
        return rows

    @property
    def attacks(self) -> list[Row]:
        return [row for row in self.rows if row.name.casefold() != "clean"]

    def group(self, mode: Mode, clean_time: CleanTime) -> Group:
        """The numbers of one mode, for the formulas."""
        cells = [row.cell(mode) for row in self.attacks]
        return Group(self.clean.accuracy, self.clean.cost(mode, clean_time), cells)


@dataclass(frozen=True)
class Log:
    """What a file holds: entries by name, and by name which of them to pool.

    `bare`: the file was one entry, whose name is empty. Entries of a list are named by position.
    """

    entries: Mapping[str, Entry]
    pools: Mapping[str, tuple[str, ...]]
    bare: bool = False


ENTRY_WANTED = "Give an entry, an object with `clean` and `rows`; or a list or object of entries."


def parse(content: object) -> Log:
    """Read decoded JSON. Raises SpecError with every problem found, each with its field's path."""
    if isinstance(content, Mapping) and ("clean" in content or "rows" in content):
        return Log(_entries({"": content}, ""), {}, bare=True)
    if isinstance(content, list):
        return _several({str(position): body for position, body in enumerate(content)}, "", None)
    if isinstance(content, Mapping) and "logs" in content:
        logs = content["logs"]
        if not isinstance(logs, Mapping):
            raise SpecError([FieldProblem("logs", "it is no object of entries", ENTRY_WANTED)])
        return _several(logs, "logs", content.get("combined"))
    if isinstance(content, Mapping):
        return _several(content, "", None)
    raise SpecError([FieldProblem("(file)", "it is neither an object nor a list", ENTRY_WANTED)])


def _several(bodies: Mapping[str, object], path: str, combined: object) -> Log:
    if not bodies:
        raise SpecError([FieldProblem(path or "(file)", "there is no entry in it", ENTRY_WANTED)])
    entries = _entries(bodies, path)
    if combined:
        return Log(entries, _named_pools(combined, entries))
    return Log(entries, {EVERYTHING: tuple(entries)} if len(entries) > 1 else {})


def _entries(bodies: Mapping[str, object], path: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    problems: list[FieldProblem] = []
    for name, body in bodies.items():
        where = _join(path, name)
        if not name.isprintable():
            problems.append(FieldProblem(where, "a name has printable characters", "Rename it."))
        try:
            entries[name] = Entry.model_validate(body)
        except ValidationError as error:
            problems += [
                replace(problem, remedy=_remedy(detail["loc"]))
                for detail, problem in zip(
                    error.errors(), from_validation(error, Entry, where), strict=True
                )
            ]
    if problems:
        raise SpecError(problems)
    return entries


def _remedy(location: Sequence[int | str]) -> str:
    """What the field at a location in an entry wants."""
    parts: dict[int | str, type[_Part]] = {"clean": Clean, "rows": Row}
    if not location or location[0] not in parts:
        return ENTRY_WANTED
    fields = parts[location[0]].model_fields
    info = fields.get(str(location[-1]))
    if info is not None:
        return f"Give {info.description}."
    each = "Each attack, once, has" if location[0] == "rows" else "It has"
    return f"{each} {', '.join(fields)}."


class _Pool(BaseModel):
    """What is read of a block of `combined`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    members: list[str] = Field(min_length=1)


class _File(BaseModel):
    combined: dict[Name, _Pool]


MEMBERS_WANTED = "Give `members`, names of `logs`, each once; or leave `combined` out."


def _named_pools(combined: object, entries: Mapping[str, Entry]) -> dict[str, tuple[str, ...]]:
    try:
        blocks = _File.model_validate({"combined": combined}).combined
    except ValidationError as error:
        raise SpecError(
            [replace(problem, remedy=MEMBERS_WANTED) for problem in from_validation(error, _File)]
        ) from error
    problems = [
        FieldProblem(f"combined.{name}.members", what, MEMBERS_WANTED)
        for name, block in blocks.items()
        for what in _misfits(block.members, entries)
    ]
    if problems:
        raise SpecError(problems)
    return {name: tuple(block.members) for name, block in blocks.items()}


def _misfits(members: Sequence[str], entries: Mapping[str, Entry]) -> list[str]:
    unknown = [f"there is no entry {name!r}" for name in members if name not in entries]
    twice = [f"{name!r} is there twice" for name in set(members) if members.count(name) > 1]
    return [*unknown, *sorted(twice)]


def _join(path: str, name: str) -> str:
    name = name if name.isprintable() else ascii(name)
    return f"{path}.{name}" if path and name else path or name
