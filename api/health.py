"""Routes of health: is the process alive, and can it do its work.

Live answers without touching anything. Ready looks at what a request needs: the database at this
version's schema, a blob store that takes files, and the checks of whoever composed the process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import version

from fastapi import APIRouter, Response

from api.edge import AtEdge, Edge
from api.schemas import Check, Health, Readiness
from service import database

router = APIRouter(prefix="/health", tags=["health"])

VERSION = version("rome-service")


@router.get("/live", summary="The process answers", response_model=Health)
async def health_live() -> Health:
    return Health(status="ok", version=VERSION)


@router.get(
    "/ready",
    summary="The service can do its work",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Some check fails; `checks` says which."}},
)
def health_ready(edge: AtEdge, response: Response) -> Readiness:
    checks = [
        _check("database", lambda: database.check_schema(edge.engine)),
        _check("blobs", lambda: _try_blobs(edge)),
        *(Check(name=name, ok=check()) for name, check in edge.checks.items()),
    ]
    ok = all(check.ok for check in checks)
    if not ok:
        response.status_code = 503
    return Readiness(status="ok" if ok else "not ready", version=VERSION, checks=checks)


def _check(name: str, attempt: Callable[[], None]) -> Check:
    try:
        attempt()
    except Exception as error:  # whatever it is, it is the answer
        return Check(name=name, ok=False, detail=str(error).splitlines()[0])
    return Check(name=name, ok=True)


def _try_blobs(edge: Edge) -> None:
    folder = edge.settings.blobs_dir
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"ready")
