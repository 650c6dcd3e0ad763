"""How an attempt can end without a result, in the words of the lease protocol.

Owns the choice of outcome, charge and retry for what a child says and for what it is told. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import RomeError
from worker.messages import Message

TRANSIENT = frozenset({"storage_full", "out_of_memory"})
"""Failures worth another attempt: what was short may not be short later. Bad data stays bad."""


@dataclass(frozen=True)
class Ending:
    """The arguments of `release` that an ending decides."""

    outcome: str
    reason: str
    charged: bool = False
    retry: bool = False
    error: Mapping[str, Any] | None = None


def failed(error: RomeError, *, retry: bool = False) -> Ending:
    return Ending("failed", error.code, charged=True, retry=retry, error=error.as_job_error())


def failed_in_child(message: Message) -> Ending:
    """The ending for a child's `failed` line."""
    error = {key: message[key] for key in ("code", "detail", "remedy")}
    if message.get("field"):
        error["field"] = message["field"]
    code = str(message["code"])
    return Ending("failed", code, charged=True, retry=code in TRANSIENT, error=error)


def brief(error: Exception) -> str:
    """An error in one line of a log: SQLAlchemy's own text has the statement and a link as well."""
    said = str(getattr(error, "orig", None) or error).strip()
    return said.splitlines()[0] if said else type(error).__name__


CANCELLED = Ending("cancelled", "cancel requested")

STOPPED: Mapping[str, Ending] = {
    "cancel": CANCELLED,
    "pause": Ending("paused", "pause requested", retry=True),
    "drain": Ending("drained", "the worker is stopping", retry=True),
}
"""By the reason of the `stop` that the child was sent."""
