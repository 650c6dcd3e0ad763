"""Query parameters: one that no route knows is an error, as an unknown field of a body is.

A misspelt filter that passed in silence would list something else than what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated

from fastapi import Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from rome_core.recipes import FieldProblem
from service.errors import ValidationFailed

# Numbers of events are 64-bit integers in the database.
MAX_SEQ = 2**63 - 1

After = Annotated[int, Query(ge=0, le=MAX_SEQ, description="The last number seen.")]


async def check_known(request: Request) -> None:
    """Raises ValidationFailed for parameters the route does not take."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = sorted(_taken(route.dependant))
    unknown = [name for name in dict.fromkeys(request.query_params) if name not in known]
    if unknown:
        raise ValidationFailed([_problem(name, known) for name in unknown])


def _taken(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for inner in dependant.dependencies:
        yield from _taken(inner)


def _problem(name: str, known: list[str]) -> FieldProblem:
    near = get_close_matches(name, known, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    remedy = f"{guess}Known parameters: {', '.join(known)}." if known else "Leave it out."
    return FieldProblem(name, "there is no such query parameter", remedy)
