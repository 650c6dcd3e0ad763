from collections.abc import Iterator

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
