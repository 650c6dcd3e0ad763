"""Specification files: YAML in, a plain dict out.

Owns reading and `--set`; what the fields mean is the service's business, so nothing is validated
here beyond the syntax. Reading is stricter than YAML's usual: a key given twice is an error, and
`1e-3` is a number.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from rome_client.errors import SpecFileError


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and reads floats as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where `1e-3` is a string: a learning rate written so would be refused
# as ill-typed.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read(file: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The specification in `file` (`-` is standard input) with `key=value` overrides applied.

    A dotted key reaches inside: `hyperparameters.iterations=200`. Raises SpecFileError.
    """
    if file == "-":
        text = sys.stdin.read()
    else:
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise SpecFileError(
                f"cannot read {file}: {reason}", "name a YAML or JSON file, or - for stdin"
            ) from error
    spec = _parse(text, file)
    if not isinstance(spec, dict):
        raise SpecFileError(
            f"{file} holds {_kind(spec)}, not fields",
            "write one field a line, such as `method: rome`; see examples/",
        )
    for override in overrides:
        _set(spec, override)
    return spec


def _set(spec: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not all(path.split(".")):
        raise SpecFileError(f"--set {override!r} is not key=value", "write --set ipc=10")
    *parents, last = path.split(".")
    place = spec
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise SpecFileError(
                f"--set {path}: {parent} is {_kind(inner)}, not fields", "check the dotted key"
            )
        place = inner
    place[last] = _parse(text, f"--set {path}")


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise SpecFileError(f"{where}{line}: {problem}", "correct the file's syntax") from error


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
