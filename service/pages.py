"""Pages of a listing and the opaque cursors between them.

A cursor is bound to the filter and order it was made for: with another filter it is an error, not
a surprise. It is not a secret and carries no right.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rome_core.recipes import FieldProblem
from service.database import canonical_json
from service.errors import InvalidCursor

T = TypeVar("T")
MAX_LIMIT = 200
LARGEST = 2**63  # what a database can compare with


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    next_cursor: str | None  # none: this is the last page


def limit_problems(limit: int, largest: int = MAX_LIMIT) -> list[FieldProblem]:
    if 1 <= limit <= largest:
        return []
    return [FieldProblem("limit", "is out of range", f"Give a number from 1 to {largest}.")]


def cut(
    found: Sequence[T],
    limit: int,
    listing: str,
    filters: Mapping[str, Any],
    position: Callable[[T], Sequence[Any]],
) -> Page[T]:
    """A page of `found`, which holds one more than `limit` where another page follows."""
    more = len(found) > limit
    kept = found[:limit]
    return Page(kept, encode(listing, filters, position(kept[-1])) if more else None)


def encode(listing: str, filters: Mapping[str, Any], position: Sequence[Any]) -> str:
    text = canonical_json([_binding(listing, filters), *position])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(
    cursor: str, listing: str, filters: Mapping[str, Any], kinds: Sequence[type]
) -> tuple[Any, ...]:
    """The position after which to go on, its parts of these types. Raises InvalidCursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        binding, *position = json.loads(base64.b64decode(padded, b"-_", validate=True))
        "".join(part for part in position if isinstance(part, str)).encode()
    except (binascii.Error, UnicodeError, ValueError, TypeError, RecursionError) as error:
        raise InvalidCursor("The cursor is not one that this service made.") from error
    numbers = [part for part in position if isinstance(part, int)]
    if [type(part) for part in position] != list(kinds) or not all(
        0 <= number < LARGEST for number in numbers
    ):
        raise InvalidCursor("The cursor is not one that this service made.")
    if binding != _binding(listing, filters):
        raise InvalidCursor("The cursor was made for another filter or order.")
    return tuple(position)


def _binding(listing: str, filters: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json([listing, filters]).encode()).hexdigest()[:16]
