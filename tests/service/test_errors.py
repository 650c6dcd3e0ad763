import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rome_core.recipes import FieldProblem
from service import errors
from service.errors import CATALOGUE, RomeError, ValidationFailed


def every_class(root: type[RomeError] = RomeError) -> Iterator[type[RomeError]]:
    yield root
    for sub in root.__subclasses__():
        yield from every_class(sub)


@pytest.mark.parametrize("code", sorted(CATALOGUE))
def test_an_entry_says_what_it_is_and_what_to_do(code: str) -> None:
    entry = CATALOGUE[code]
    assert entry.code == code
    assert 400 <= entry.status < 600
    assert entry.title
    assert entry.docs.endswith(".")
    assert entry.default_remedy.endswith(".")


ROOT = Path(errors.__file__).parents[1]
# What ends a command of a person ends no job.
COMMANDS = (ROOT / "rome_core" / "cli", ROOT / "rome_core" / "torchvision_adapter.py")


def codes_of_jobs() -> set[str]:
    """The codes that the core and the child can end a job with, read from their source."""
    found = set()
    for path in [*(ROOT / "rome_core").rglob("*.py"), ROOT / "worker" / "child.py"]:
        if any(path.is_relative_to(command) for command in COMMANDS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                given = node.args[0]
                if node.func.id in {"CoreError", "_failed"} and isinstance(given, ast.Constant):
                    found.add(str(given.value))
    return found


def test_every_code_a_job_can_end_with_is_in_the_catalogue() -> None:
    codes = codes_of_jobs()
    assert {"dataset_missing", "out_of_memory", "diverged"} <= codes, "the search finds them"
    assert codes - set(CATALOGUE) == set()


def test_every_entry_is_raised_by_somebody() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for package in ("service", "api", "worker", "launcher")
        for path in (ROOT / package).rglob("*.py")
        if path != Path(errors.__file__)
    )
    codes = codes_of_jobs()
    idle = [
        entry.__name__
        for entry in CATALOGUE.values()
        if entry.code not in codes and not re.search(rf"\b{entry.__name__}\b", source)
    ]
    assert idle == []


def test_no_two_classes_share_a_code() -> None:
    codes = [cls.code for cls in every_class() if "code" in vars(cls)]
    assert sorted(codes) == sorted(set(codes))


def test_internal_signals_are_not_in_the_catalogue() -> None:
    assert errors.Fenced.code not in CATALOGUE
    assert errors.CancelWon.code not in CATALOGUE


def test_the_tree_in_the_docstring_names_every_entry() -> None:
    assert errors.__doc__ is not None
    for entry in CATALOGUE.values():
        assert entry.__name__ in errors.__doc__


def test_an_instance_says_what_happened() -> None:
    bare, told = errors.NotFound(), errors.NotFound("No job x.", remedy="Look.", job="x")
    assert (bare.detail, bare.remedy) == (errors.NotFound.title, errors.NotFound.default_remedy)
    assert told.as_job_error() == {
        "code": "not_found",
        "detail": "No job x.",
        "remedy": "Look.",
        "job": "x",
    }


def test_a_validation_failure_sums_its_problems_up() -> None:
    problems = [FieldProblem("ipc", "is 0", "Give 1."), FieldProblem("seed", "is x", "Give 1.")]
    assert ValidationFailed(problems).detail == "ipc: is 0; seed: is x"
