"""Pages of a listing and the opaque cursors between them.

A cursor is bound to the filter and order it was made for: with another filter it is an error, not
a surprise. It is not a secret and carries no right.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from service.database import canonical_json
from service.errors import InvalidCursor

T = TypeVar("T")
MAX_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: Sequence[T]
    next_cursor: str | None  # none: this is the last page


def encode(listing: str, filters: Mapping[str, Any], position: Sequence[Any]) -> str:
    text = canonical_json([_binding(listing, filters), *position])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, listing: str, filters: Mapping[str, Any]) -> tuple[int, str]:
    """The position (created_at, id) after which to go on. Raises InvalidCursor."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        binding, created_at, id = json.loads(base64.b64decode(padded, b"-_", validate=True))
    except (binascii.Error, UnicodeError, ValueError, TypeError) as error:
        raise InvalidCursor("The cursor is not one that this service made.") from error
    if not isinstance(created_at, int) or not isinstance(id, str):
        raise InvalidCursor("The cursor is not one that this service made.")
    if binding != _binding(listing, filters):
        raise InvalidCursor("The cursor was made for another filter or order.")
    return created_at, id


def _binding(listing: str, filters: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json([listing, filters]).encode()).hexdigest()[:16]
