"""Where a request meets the service: who asks, and in which transaction.

Owns what every route is given. A route opens at most one transaction, with `edge.read()` or
`edge.write()`, and its answer leaves after the commit. It is opened in the route's own thread:
a transaction held by a dependency would wait for a thread while others wait for its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine

from api.polling import Poller
from service import database
from service.blobs.store import LocalBlobs
from service.principals import LOCAL, Principal
from service.settings import Settings


@dataclass(frozen=True)
class Edge:
    """What the process shares between its requests."""

    settings: Settings
    engine: Engine
    blobs: LocalBlobs
    poller: Poller
    checks: Mapping[str, Callable[[], bool]]  # of readiness, given by who composes the process

    def read(self) -> AbstractContextManager[Connection]:
        return database.read(self.engine)

    def write(self) -> AbstractContextManager[Connection]:
        return database.write(self.engine)


async def edge_of(request: Request) -> Edge:
    return cast("Edge", request.app.state.edge)


async def principal_of() -> Principal:
    """An embedded service has one principal; keys arrive here."""
    return LOCAL


AtEdge = Annotated[Edge, Depends(edge_of)]
Asking = Annotated[Principal, Depends(principal_of)]
