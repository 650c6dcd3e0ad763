"""The OpenAPI document: ours, complete and committed.

`python -m api` prints it; docs/openapi.json is that output, and a test compares the two.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import problems

DESCRIPTION = """\
Submit a job, follow it, download what it made. Errors are problem documents (RFC 9457) whose `code`
is explained at `/v1/errors/{code}`. Times are RFC 3339 in UTC; identifiers carry their noun
(`job_`, `art_`). `/v1` only grows.
"""

TAGS = [
    {"name": "jobs", "description": "Submit, follow and cancel."},
    {"name": "artifacts", "description": "What jobs made, by content."},
    {"name": "catalogue", "description": "What can be asked for."},
    {"name": "health", "description": "For supervisors and load balancers."},
]


def install(app: FastAPI) -> None:
    """Make `app.openapi()` give the finished document."""

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]  # the documented way to replace it


def document(app: FastAPI) -> dict[str, Any]:
    built = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = built.setdefault("components", {}).setdefault("schemas", {})
    # Every failure is a problem document; the framework's own form is never sent.
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["FieldProblem"] = problems.FIELD_PROBLEM_SCHEMA
    schemas["Problem"] = problems.PROBLEM_SCHEMA
    default = {
        "description": "Any other failure, as a problem document.",
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path in built["paths"].values():
        for operation in path.values():
            operation["responses"].setdefault("default", default)
            said = operation["responses"].get("422", {}).get("content", {})
            if "application/json" in said:
                operation["responses"].pop("422")
    return built
