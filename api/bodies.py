"""Request bodies: strict JSON objects.

Owns reading and parsing; what the fields mean is decided by the recipes. Python's parser is lenient
where the standard is not (NaN, a key twice), and a lenient reading of a spec would run something
other than what was asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Request

from rome_core.recipes import FieldProblem
from service.errors import MalformedRequest, ValidationFailed


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises MalformedRequest, or ValidationFailed naming the field."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise MalformedRequest(f"the body's Content-Type is {media_type or 'missing'!r}")
    try:
        body = json.loads((await request.body()).decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise MalformedRequest("the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise MalformedRequest(f"the body is not JSON: {error.msg} at {where}") from error
    except (RecursionError, ValueError) as error:  # nesting, or an integer of thousands of digits
        raise MalformedRequest(f"the body cannot be read: {error}") from error
    if not isinstance(body, dict):
        raise MalformedRequest("the body is JSON, but not an object")
    endless = list(_not_finite(body))
    if endless:
        remedy = "Give a finite number, or leave the field out for its default."
        raise ValidationFailed(
            [FieldProblem(field, "is not a finite number", remedy) for field in endless]
        )
    return body


JsonObject = Annotated[dict[str, Any], Depends(read_object)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValidationFailed(
            [FieldProblem(name, "is given more than once", "Give it once.") for name in twice]
        )
    return found


def _not_finite(value: Any, path: str = "") -> Iterator[str]:
    """Paths of NaN and infinities: written as such, or as a number too large for a double."""
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _not_finite(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _not_finite(inner, f"{path}.{index}")
