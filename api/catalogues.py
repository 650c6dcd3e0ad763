"""Routes of the catalogue: what can be asked for, what can go wrong, and the schemas of both.

Owns no entry: they come from the recipes and from the error catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from fastapi import APIRouter

from api.problems import responses
from api.schemas import Entry, Listing
from rome_core import recipes
from rome_core.recipes import catalogue
from rome_core.recipes.specs import KINDS
from service import errors

router = APIRouter(prefix="/v1", tags=["catalogue"])

Entries = Callable[[], Iterable[Mapping[str, Any]]]


class Described(Protocol):
    """Any entry of the recipes' catalogues."""

    def as_dict(self) -> dict[str, Any]: ...


def _errors() -> list[dict[str, Any]]:
    return [
        {
            "name": kind.code,
            "title": kind.title,
            "status": kind.status,
            "summary": kind.docs,
            "remedy": kind.default_remedy,
        }
        for kind in errors.CATALOGUE.values()
    ]


def _of(entries: Callable[[], Iterable[Described]]) -> Entries:
    return lambda: [entry.as_dict() for entry in entries()]


CATALOGUES: Mapping[str, tuple[str, Entries]] = {
    "methods": ("Methods and the JSON schemas of their hyperparameters", _of(catalogue.methods)),
    "datasets": ("Datasets: counts, statistics, files, licences", _of(catalogue.datasets)),
    "networks": ("Networks of students and pools", _of(catalogue.networks)),
    "presets": ("Presets: published settings by name", _of(catalogue.presets)),
    "attacks": ("Attacks and the JSON schemas of their settings", _of(catalogue.attacks)),
    "protocols": ("Protocols: complete settings of an evaluation", _of(catalogue.protocols)),
    "errors": ("Every code an error can carry", _errors),
}


def _add(noun: str, summary: str, entries: Entries) -> None:
    def find() -> Listing[Entry]:
        return Listing(items=[Entry.model_validate(entry) for entry in entries()])

    def get(name: str) -> Entry:
        for entry in entries():
            if name in (entry["name"], entry.get("id")):  # a protocol's id has its version
                return Entry.model_validate(entry)
        raise errors.NotFound(
            f"There is no entry {name!r} among the {noun}.", remedy=f"GET /v1/{noun} lists them."
        )

    router.add_api_route(
        f"/{noun}",
        find,
        summary=summary,
        operation_id=f"list_{noun}",
        response_model=Listing[Entry],
    )
    router.add_api_route(
        f"/{noun}/{{name}}",
        get,
        summary=f"One entry of the {noun}",
        operation_id=f"get_{noun}",
        response_model=Entry,
        responses=responses(errors.NotFound),
    )


for _noun, (_summary, _entries) in CATALOGUES.items():
    _add(_noun, _summary, _entries)


@router.get(
    "/schemas/{kind}",
    summary="JSON schema of a submission",
    operation_id="get_schema",
    responses=responses(errors.NotFound),
)
def schema(kind: str) -> dict[str, Any]:
    """Of `distill`, `evaluate`, `transfer` or `experts`: what POST /v1/jobs takes."""
    try:
        return recipes.schema(kind)
    except recipes.SpecError as error:
        remedy = f"GET /v1/schemas/ and one of: {', '.join(KINDS)}."
        raise errors.NotFound(str(error), remedy=remedy) from error
