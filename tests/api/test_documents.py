"""The committed documents are what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from api import errors_page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_openapi_document_is_current(app: FastAPI) -> None:
    committed = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    assert committed == app.openapi(), "run: python -m api > docs/openapi.json"


def test_the_page_of_errors_is_current() -> None:
    committed = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert committed == errors_page.page(), "run: python -m api.errors_page > docs/errors.md"


def test_the_documentation_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert loaded
    for url in loaded:
        assert url.startswith("/"), url
        assert client.get(url).status_code == 200, url


def test_every_reference_in_the_openapi_document_resolves(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
            return own + [found for inner in value.values() for found in references(inner)]
        if isinstance(value, list):
            return [found for inner in value for found in references(inner)]
        return []

    for reference in references(document):
        place = document
        for part in reference.removeprefix("#/").split("/"):
            assert part in place, reference
            place = place[part]


def test_every_operation_describes_its_failures_as_problems(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    identifiers = []
    for path in document["paths"].values():
        for operation in path.values():
            identifiers.append(operation["operationId"])
            assert "application/problem+json" in operation["responses"]["default"]["content"]
    assert len(identifiers) == len(set(identifiers))


def test_the_examples_of_a_submission_are_accepted(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    # Artifacts are made up: their fields are all that may be wrong.
    made_up = {
        "evaluate": ["artifact"],
        "models": ["models.0.artifact"],
        "transfer": ["sources.0.artifact", "targets.0.artifact"],
    }
    assert set(made_up) < set(body["examples"])
    for name, example in body["examples"].items():
        response = client.post("/v1/jobs", json=example["value"])
        problems = response.json().get("problems", [])
        assert [p["field"] for p in problems] == made_up.get(name, []), name


def test_every_kind_has_its_schema(client: TestClient) -> None:
    for kind, field in (
        ("distill", "method"),
        ("evaluate", "models"),
        ("transfer", "sources"),
        ("experts", "epochs"),
    ):
        schema = client.get(f"/v1/schemas/{kind}").json()
        assert field in schema["properties"]
    missing = client.get("/v1/schemas/evalute").json()
    assert missing["code"] == "not_found"
    assert "distill, evaluate, transfer, experts" in missing["remedy"]


def test_protocols_are_found_by_name_and_by_version(client: TestClient) -> None:
    listed = client.get("/v1/protocols").json()["items"]
    assert {protocol["name"] for protocol in listed} >= {"rome-2025", "pixel", "quick"}
    for protocol in listed:
        assert client.get(f"/v1/protocols/{protocol['id']}").json() == protocol
        assert {attack["name"] for attack in protocol["attacks"]} >= set(protocol["default"])
    attack = client.get("/v1/attacks/pgd").json()
    assert "pgd-l2" in attack["protocols"]["pixel@1"]
    assert "steps" in attack["settings_schema"]["properties"]


def test_the_catalogue_lists_and_shows_every_entry(client: TestClient) -> None:
    nouns = ("methods", "datasets", "networks", "presets", "attacks", "protocols", "errors")
    for noun in nouns:
        items = client.get(f"/v1/{noun}").json()["items"]
        assert items, noun
        for item in items:
            assert client.get(f"/v1/{noun}/{item['name']}").json() == item
        assert client.get(f"/v1/{noun}/nothing").status_code == 404


def test_every_preset_of_the_catalogue_can_be_submitted(client: TestClient) -> None:
    for preset in client.get("/v1/presets").json()["items"]:
        job = client.post("/v1/jobs", json={"preset": preset["name"]}).json()
        assert job["spec"]["preset"] == preset["name"]
        assert job["spec"]["ipc"] == preset["ipc"]


def test_one_image_is_not_images(client: TestClient) -> None:
    for preset in client.get("/v1/presets").json()["items"]:
        noun = "image" if preset["ipc"] == 1 else "images"
        assert f"{preset['ipc']} {noun} per class" in preset["title"]


def test_methods_carry_the_schema_of_their_hyperparameters(client: TestClient) -> None:
    schema = client.get("/v1/methods/rome").json()["hyperparameters"]
    assert "iterations" in schema["properties"]
    assert client.get("/v1/schemas/distill").json()["properties"]["ipc"]["minimum"] == 1


def test_health(client: TestClient) -> None:
    assert client.get("/health/live").json()["status"] == "ok"
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    assert {check["name"] for check in ready.json()["checks"]} == {"database", "blobs"}


def test_a_failing_check_makes_it_not_ready(app: FastAPI, client: TestClient) -> None:
    edge = app.state.edge
    edge.settings.blobs_dir.write_text("in the way")
    ready = client.get("/health/ready")
    assert ready.status_code == 503
    assert {c["name"]: c["ok"] for c in ready.json()["checks"]} == {
        "database": True,
        "blobs": False,
    }
    assert client.get("/health/live").status_code == 200
