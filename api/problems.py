"""Every failure as one `application/problem+json` document (RFC 9457).

Owns the translation of errors into responses and its schema for OpenAPI. The catalogue itself is
`service.errors`; nothing is invented here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from rome_core.recipes import FieldProblem
from service import errors

log = logging.getLogger("rome.api")

MEDIA_TYPE = "application/problem+json"
RANGE_HEADER = "Content-Range"

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

BY_STATUS: Mapping[int, type[errors.RomeError]] = {
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
}


class ProblemResponse(JSONResponse):
    media_type = MEDIA_TYPE


def document(error: errors.RomeError, request_id: str | None = None) -> dict[str, Any]:
    """The problem document of an error; `instance` is the id of the request it happened in."""
    found: dict[str, Any] = {
        "type": f"/v1/errors/{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "remedy": error.remedy,
    }
    if error.problems:
        found["problems"] = [problem.as_dict() for problem in error.problems]
    found |= error.extra
    if request_id:
        found["instance"] = request_id
    return found


def response(
    error: errors.RomeError, scope: Scope, headers: Mapping[str, str] | None = None
) -> Response:
    """The response to send for `error` in the request of `scope`."""
    request_id = scope.get("state", {}).get("request_id")
    sent = dict(headers or {})
    if request_id:
        sent["X-Request-Id"] = request_id
    if error.status == 503:
        sent.setdefault("Retry-After", "2")
    return ProblemResponse(document(error, request_id), status_code=error.status, headers=sent)


def install(app: FastAPI) -> None:
    """Make every way to fail end in a problem document."""
    app.add_exception_handler(errors.RomeError, _of_the_catalogue)
    app.add_exception_handler(HTTPException, _of_the_framework)
    app.add_exception_handler(RequestValidationError, _of_validation)


def _of_the_catalogue(request: Request, error: Exception) -> Response:
    found = cast("errors.RomeError", error)
    headers = {}
    if found.status >= 500:
        request_id = request.scope["state"]["request_id"]
        log.error("%s %s %s: %s", request_id, request.method, request.url.path, found.detail)
    if isinstance(found, errors.RangeNotSatisfiable) and "size" in found.extra:
        headers[RANGE_HEADER] = f"bytes */{found.extra['size']}"
    return response(found, request.scope, headers)


def _of_the_framework(request: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)
    kind = BY_STATUS.get(found.status_code)
    if kind is None:
        kind = errors.MalformedRequest if found.status_code < 500 else errors.InternalError
        return response(kind(found.detail), request.scope, found.headers)
    path = request.url.path
    if kind is errors.NotFound:
        slash = "Leave out the slash at its end, or see" if path.endswith("/") else "See"
        remedy = f"{slash} /docs for every route."
        return response(kind(f"There is no route {path}.", remedy=remedy), request.scope)
    refusal = kind(f"{request.method} {path}: {found.detail}")
    return response(refusal, request.scope, {"Allow": _allowed(request)})


def _allowed(request: Request) -> str:
    """The verbs of a path; the framework names only those of the first route that has it."""
    routes = cast("FastAPI", request.app).routes

    def known(verb: str) -> bool:
        scope = {**request.scope, "method": verb}
        return any(route.matches(scope)[0] is Match.FULL for route in routes)

    return ", ".join(verb for verb in VERBS if known(verb))


def _of_validation(request: Request, error: Exception) -> Response:
    """Query parameters, path parameters and headers of the wrong form; bodies have their own."""
    problems = [
        FieldProblem(
            field=".".join(str(part) for part in one["loc"][1:]),
            message=f"{one['msg']} (in the {one['loc'][0]})",
            remedy="See /docs for what this parameter accepts.",
        )
        for one in cast("RequestValidationError", error).errors()
    ]
    return response(errors.ValidationFailed(problems), request.scope)


def of_a_bug(error: Exception, scope: Scope) -> Response:
    """The log gets the traceback under the request's id; the client gets no inner detail."""
    request_id = scope["state"]["request_id"]
    log.error("%s %s %s failed", request_id, scope["method"], scope["path"], exc_info=error)
    return response(errors.InternalError(), scope)


FIELD_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "FieldProblem",
    "required": ["field", "message", "remedy"],
    "properties": {
        "field": {"type": "string", "description": "Dotted path of the field."},
        "message": {"type": "string"},
        "remedy": {"type": "string"},
    },
}

PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "title": "Problem",
    "description": "What went wrong and what to do about it (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code", "remedy"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "remedy": {"type": "string"},
        "instance": {"type": "string", "description": "Id of the request; also X-Request-Id."},
        "problems": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/FieldProblem"},
            "description": "The fields that are wrong, all of them.",
        },
    },
    "example": {
        "type": "/v1/errors/validation_failed",
        "title": errors.ValidationFailed.title,
        "status": 422,
        "detail": "ipc: input should be greater than or equal to 1; got 0",
        "code": "validation_failed",
        "remedy": errors.ValidationFailed.default_remedy,
        "problems": [
            {
                "field": "ipc",
                "message": "input should be greater than or equal to 1; got 0",
                "remedy": "Change ipc; its JSON schema is in the catalogue.",
            }
        ],
        "instance": "req_06ev0f3h9p4q2x7k5c8w1m3n4r",
    },
}


def responses(*kinds: type[errors.RomeError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the errors a route may answer with, those of one status together."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        entry = found.setdefault(
            kind.status,
            {
                "description": "",
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        )
        entry["description"] += f"{'; ' if entry['description'] else ''}`{kind.code}`: {kind.title}"
    return found
