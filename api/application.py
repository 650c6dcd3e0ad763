"""The application: routes, guards and life span put together.

`create_app(settings)` is the only way in. It opens nothing before its life span begins, so making
one (for the OpenAPI document, say) has no side effect.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from sqlalchemy import Engine
from starlette.responses import RedirectResponse

from api import catalogues, content, health, jobs, openapi, parameters, problems, stream, uploads
from api.edge import Edge
from api.middleware import AllowedHosts, BodyLimit, RequestId
from api.polling import Poller, Source
from service import database, events
from service.blobs.store import LocalBlobs
from service.principals import LOCAL
from service.settings import Settings, load


def create_app(
    settings: Settings | None = None, *, checks: Mapping[str, Callable[[], bool]] | None = None
) -> FastAPI:
    """The ASGI application of one process. `checks` are added to readiness, by name."""
    settings = settings or load()

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        engine = database.create_engine(settings)
        try:
            database.check_schema(engine)
            edge = Edge(
                settings,
                engine,
                LocalBlobs(settings.blobs_dir),
                Poller(_source(engine)),
                checks or {},
            )
            async with edge.poller:
                app.state.edge = edge
                yield
        finally:
            engine.dispose()

    # Its pages load nothing from elsewhere: a service on one machine may have no way out.
    app = FastAPIOffline(
        title="ROME",
        summary="A job service for robust dataset distillation",
        version=health.VERSION,
        lifespan=live,
        docs_url="/docs",
        generate_unique_id_function=lambda route: route.name,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    openapi.install(app)
    for module in (jobs, stream, uploads, content, catalogues, health):
        app.include_router(module.router, dependencies=[Depends(parameters.check_known)])
        app.include_router(_heads(module.router))
    app.add_api_route("/", _to_docs, methods=["GET", "HEAD"], include_in_schema=False)
    # The last one added is the first to see a request.
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        limits={("POST", uploads.PATH): settings.max_upload_bytes},
    )
    app.add_middleware(AllowedHosts, allowed=(*settings.allowed_hosts, settings.host))
    app.add_middleware(RequestId)
    return app


async def _to_docs() -> RedirectResponse:
    return RedirectResponse("/docs")


def _heads(router: APIRouter) -> APIRouter:
    """HEAD for every GET that has none of its own (RFC 9110, section 9.3.2)."""
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    own = {route.path for route in routes if "HEAD" in (route.methods or ())}
    heads = APIRouter(dependencies=[Depends(parameters.check_known)])
    for route in routes:
        if "GET" in (route.methods or ()) and route.path not in own:
            heads.add_api_route(
                route.path,
                route.endpoint,
                methods=["HEAD"],
                response_model=route.response_model,
                include_in_schema=False,
            )
    return heads


def _source(engine: Engine) -> Source:
    def last_seqs(job_ids: Sequence[str]) -> Mapping[str, int]:
        with database.read(engine) as conn:
            return events.last_seqs(conn, job_ids)

    def after(job_id: str, seq: int, limit: int) -> list[events.Event]:
        with database.read(engine) as conn:
            return events.after(conn, LOCAL, job_id, seq, limit)

    return Source(last_seqs, after)
