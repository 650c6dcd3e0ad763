"""What is wrong with a spec, field by field, in words a user can act on.

Owns the error type of the torch-free ring and the translation of pydantic's errors into it. Must
not know any particular spec.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong: the field's path (`hyperparameters.lr_img`), what, and what to do."""

    field: str
    message: str
    remedy: str

    def as_dict(self) -> dict[str, str]:
        return {"field": self.field, "message": self.message, "remedy": self.remedy}


class SpecError(ValueError):
    """A spec that cannot be run. `problems` lists every problem found, never just the first."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        if not problems:
            raise ValueError("a SpecError needs at least one problem")
        self.problems = list(problems)
        super().__init__("; ".join(f"{p.field}: {p.message}" for p in self.problems))


def unknown_name(field: str, noun: str, given: object, known: Iterable[str]) -> FieldProblem:
    """The problem of a name that is not in a catalogue, with the nearest one that is."""
    names = sorted(known)
    near = get_close_matches(str(given), names, n=1)
    return FieldProblem(
        field, f"there is no {noun} named {given!r}", _choices("One of", names, near)
    )


def from_validation(
    error: ValidationError, model: type[BaseModel], prefix: str = ""
) -> list[FieldProblem]:
    """Translate pydantic's errors about a `model` whose fields lie under `prefix`."""
    return [_problem(detail, model, prefix) for detail in error.errors(include_url=False)]


def _problem(detail: Mapping[str, Any], model: type[BaseModel], prefix: str) -> FieldProblem:
    path = [str(part) for part in detail["loc"]]
    field = ".".join([prefix, *path] if prefix else path) or "(body)"
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        owner = _owner(model, path[:-1])
        names = sorted(owner.model_fields)
        near = get_close_matches(path[-1], names, n=1)
        return FieldProblem(field, "there is no such field", _choices("Known fields", names, near))
    if kind == "missing":
        return FieldProblem(field, "this field is required", f"Give {field}.")
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    message = message[:1].lower() + message[1:]
    if not isinstance(given, Mapping) and kind != _REPEATED:
        message = f"{message}; got {_shown(given)}"
    return FieldProblem(field, message, _remedy(kind, given, field, detail.get("ctx", {})))


_REPEATED = "repeated_name"


def repeated(message: str, remedy: str) -> PydanticCustomError:
    """For validators of lists, of a name that several of their members have."""
    return PydanticCustomError(_REPEATED, "{message}", {"message": message, "remedy": remedy})


MANY = 12


def _choices(words: str, names: Sequence[str], near: Sequence[str]) -> str:
    """The nearest name and, unless it stands out among very many, all of them."""
    guess = f"Did you mean {near[0]!r}?" if near else ""
    if guess and len(names) > MANY:
        return guess
    return f"{guess} {words}: {', '.join(names)}.".strip()


def _owner(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """The nested model that `path` leads to, or the innermost one known."""
    for name in path:
        info = model.model_fields.get(name)
        given = info.annotation if info else None
        inner = [  # of Model, Model | None and list[Model] alike
            part
            for part in (given, *get_args(given))
            if isinstance(part, type) and issubclass(part, BaseModel)
        ]
        if len(inner) != 1:
            break
        model = inner[0]
    return model


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "of at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "of at most"),
}


def _remedy(kind: str, given: object, field: str, context: Mapping[str, Any]) -> str:
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"Give a value {words} {context[key]}."
    if kind == "literal_error":
        return f"Give {context['expected']}."
    if kind == _REPEATED:
        return str(context["remedy"])
    if kind == "finite_number":
        return "Give a finite number."
    if isinstance(given, str) and kind in {"int_type", "float_type", "bool_type"}:
        return f"Give {field} a bare {'true or false' if kind == 'bool_type' else 'number'}."
    if kind == "string_type" and isinstance(given, int | float):
        return f"Write {field} in quotes."
    return f"Change {field}; its JSON schema says what fits."
