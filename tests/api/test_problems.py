"""Everything a client can get wrong: the code, the status, the field, and that nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api.schemas import Job
from rome_core.recipes import catalogue
from service.errors import CATALOGUE
from tests.api.conftest import RANDOM, Service, submit

ROME = {"method": "rome", "dataset": "digits", "ipc": 1}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**RANDOM, "method": "romm"}, "method"),
        ({**RANDOM, "dataset": "cifar11"}, "dataset"),
        ({**RANDOM, "dataset": "npz:../../etc/passwd"}, "dataset"),
        ({"preset": "rome-2026"}, "preset"),
        ({**RANDOM, "icp": 3}, "icp"),
        ({**RANDOM, "kind": "destill"}, "kind"),
        ({**RANDOM, "ipc": 0}, "ipc"),
        ({**RANDOM, "ipc": 10_000}, "ipc"),
        ({**RANDOM, "ipc": "2"}, "ipc"),
        ({**RANDOM, "ipc": True}, "ipc"),
        ({**RANDOM, "seed": -1}, "seed"),
        ({**RANDOM, "hyperparameters": {"factr": 1}}, "hyperparameters.factr"),
        ({**ROME, "hyperparameters": {"iterations": 0}}, "hyperparameters.iterations"),
        ({**RANDOM, "priority": 1000}, "priority"),
        ({**RANDOM, "labels": {"": "x"}}, "labels"),
        ({**RANDOM, "run_seconds": 0}, "run_seconds"),
        ({**RANDOM, "queue_deadline": "2001-01-01T00:00:00Z"}, "queue_deadline"),
        ({"kind": "evaluate", "artifact": "art_unknown"}, "artifact"),
        ({"kind": "evaluate"}, "artifact"),
        ({"kind": "evaluate", "artifact": "a", "models": [{"file": "a"}]}, "models"),
        ({"kind": "evaluate", "artifact": "a", "domains": ["pixel"]}, "domains"),
        ({"kind": "evaluate", "artifact": "a", "budgets": {}}, "budgets"),
        ({"kind": "evaluate", "artifact": "a", "protocols": ["pixle"]}, "protocols"),
        ({"kind": "evaluate", "artifact": "a", "attacks": ["pdg"]}, "attacks"),
        ({"kind": "evaluate", "artifact": "a", "overrides": {"pdg": {}}}, "overrides.pdg"),
        (
            {"kind": "evaluate", "artifact": "a", "overrides": {"pgd": {"steps": 0}}},
            "overrides.pgd.steps",
        ),
        (
            {"kind": "evaluate", "dataset": "digits", "models": [{"artifact": "art_unknown"}]},
            "models.0.artifact",
        ),
        (
            {"kind": "evaluate", "dataset": "digits", "models": [{"file": "../../etc/passwd"}]},
            "models.0.file",
        ),
        ({"kind": "transfer", "dataset": "digits"}, "sources"),
        ({"kind": "transfer", "sources": [{"file": "a"}]}, "dataset"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_queued(
    client: TestClient, service: Service, body: dict[str, Any], field: str
) -> None:
    response = client.post("/v1/jobs", json=body)
    problem = response.json()
    assert response.status_code == 422, problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "validation_failed"
    fields = [wrong["field"] for wrong in problem["problems"]]
    assert any(found == field or found.startswith(f"{field}.") for found in fields), problem
    assert all(wrong["remedy"] for wrong in problem["problems"])
    assert (service.rows("job"), service.rows("event")) == (0, 0)


def test_every_wrong_field_is_named_at_once(client: TestClient) -> None:
    problem = client.post("/v1/jobs", json={**RANDOM, "icp": 1, "priority": 999}).json()
    assert {wrong["field"] for wrong in problem["problems"]} == {"icp", "priority"}


@pytest.mark.parametrize(("method", "guessed"), [("romm", True), ("nope", False)])
def test_only_a_near_name_is_guessed(client: TestClient, method: str, guessed: bool) -> None:
    (wrong,) = client.post("/v1/jobs", json={**RANDOM, "method": method}).json()["problems"]
    known = ", ".join(sorted(entry.name for entry in catalogue.methods()))
    expected = "Did you mean 'rome'?" if guessed else f"One of: {known}."
    assert wrong["remedy"] == expected


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_named(client: TestClient, number: str) -> None:
    body = f'{{"preset": "rome-quick-digits-ipc10", "hyperparameters": {{"lr_img": {number}}}}}'
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.json()["problems"][0]["field"] == "hyperparameters.lr_img"


@pytest.mark.parametrize(
    ("content", "media_type", "code", "says"),
    [
        (b"{", "application/json", "malformed_request", "line 1, column 2"),
        (b"", "application/json", "malformed_request", "not JSON"),
        (b"[]", "application/json", "malformed_request", "not an object"),
        (b"\xff\xfe", "application/json", "malformed_request", "UTF-8"),
        (b"[" * 4000, "application/json", "malformed_request", "cannot be read"),
        (b'{"ipc": ' + b"1" * 4000 + b"}", "application/json", "validation_failed", ""),
        (b'{"ipc": 1, "ipc": 2}', "application/json", "validation_failed", "more than once"),
        (b"ipc: 1", "application/yaml", "malformed_request", "application/yaml"),
        (b'{"ipc": 1}', "text/plain", "malformed_request", "text/plain"),
    ],
)
def test_a_body_that_is_not_strict_json_is_refused(
    client: TestClient, service: Service, content: bytes, media_type: str, code: str, says: str
) -> None:
    response = client.post("/v1/jobs", content=content, headers={"Content-Type": media_type})
    problem = response.json()
    assert problem["code"] == code, problem
    assert says in problem["detail"]
    assert service.rows("job") == 0


def test_a_body_over_the_limit_is_refused(client: TestClient, service: Service) -> None:
    response = client.post("/v1/jobs", json={**RANDOM, "name": "x" * 5000})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert "4,096" in response.json()["detail"]
    assert service.rows("job") == 0


def test_a_body_of_unknown_length_is_counted(client: TestClient, service: Service) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(100):
            yield b"x" * 100
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/jobs", content=chunks(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert service.rows("job") == 0


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_of_the_wrong_form_is_refused(client: TestClient, service: Service, key: str) -> None:
    response = client.post("/v1/jobs", json=RANDOM, headers={"Idempotency-Key": key})
    assert (response.status_code, response.json()["code"]) == (400, "malformed_request")
    assert (service.rows("job"), service.rows("idempotency_key")) == (0, 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8321"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8321"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8321"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_only_known_names_are_answered(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    response = client.get("/v1/methods", headers=headers)
    assert response.status_code == status
    if status == 403:
        assert response.json()["code"] == "host_not_allowed"


def test_an_unknown_path_and_verb_are_problems(client: TestClient) -> None:
    missing = client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    verb = client.delete("/v1/jobs")
    assert (verb.status_code, verb.json()["code"]) == (405, "method_not_allowed")
    assert {name.strip() for name in verb.headers["allow"].split(",")} >= {"GET"}


def test_a_problem_names_its_request(client: TestClient) -> None:
    given = client.get("/v1/nothing", headers={"X-Request-Id": "abc-1"})
    assert given.headers["x-request-id"] == given.json()["instance"] == "abc-1"
    drawn = client.get("/v1/nothing", headers={"X-Request-Id": "bad id\x7f"})
    assert drawn.headers["x-request-id"] == drawn.json()["instance"]
    assert drawn.json()["instance"].startswith("req_")


def test_every_problem_leads_to_its_explanation(client: TestClient) -> None:
    problem = client.get("/v1/jobs/job_unknown").json()
    explained = client.get(problem["type"]).json()
    assert explained["name"] == problem["code"]
    listed = {entry["name"] for entry in client.get("/v1/errors").json()["items"]}
    assert listed == set(CATALOGUE)


def test_a_bug_is_a_problem_without_inner_detail(app: FastAPI, client: TestClient) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret")

    response = client.get("/broken")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert response.json()["instance"] == response.headers["x-request-id"]


def test_a_full_disk_is_a_clear_error_and_leaves_no_row(
    client: TestClient, service: Service
) -> None:
    submit(client)

    def cap(pages: int) -> None:
        # The limit belongs to a connection; the pool hands the same one out again.
        engine = client.app.state.edge.engine  # type: ignore[attr-defined]  # the FastAPI app
        with engine.connect() as conn:
            conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    cap(1)
    labels = {f"key{n}": "v" * 100 for n in range(30)}
    codes = set()
    for seed in range(20):
        response = client.post("/v1/jobs", json={**RANDOM, "seed": seed, "labels": labels})
        if response.status_code != 202:
            codes.add((response.status_code, response.json()["code"]))
    assert codes == {(507, "storage_full")}
    cap(1 << 30)
    assert service.rows("job") == service.rows("event")
    submit(client)


@pytest.mark.parametrize(
    ("path", "field", "says"),
    [
        ("/v1/jobs?statsu=queued", "statsu", "Did you mean 'status'?"),
        ("/v1/jobs?created_by=me", "created_by", "Known parameters: cursor, "),
        ("/v1/presets?name=x", "name", "Leave it out."),
        ("/v1/jobs/job_a/stream?since=3", "since", "after"),
    ],
)
def test_a_query_parameter_that_is_not_known_is_named(
    client: TestClient, path: str, field: str, says: str
) -> None:
    response = client.get(path)
    assert response.status_code == 422, response.text
    (wrong,) = response.json()["problems"]
    assert wrong["field"] == field
    assert says in wrong["remedy"]


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("below", "headers", "status"),
    [
        (f"/events?after={2**63}", {}, 422),
        (f"/events?after={LONG}", {}, 422),
        (f"/stream?after={2**63}", {}, 422),
        ("/stream", {"Last-Event-ID": str(2**63)}, 422),
        ("/stream", {"Last-Event-ID": LONG}, 422),
        ("", {"Prefer": f"wait={LONG}", "If-None-Match": 'W/"0"'}, 200),
    ],
)
def test_a_number_that_is_too_large_is_no_bug(
    client: TestClient, below: str, headers: dict[str, str], status: int
) -> None:
    response = client.get(f"/v1/jobs/{submit(client)['id']}{below}", headers=headers)
    assert response.status_code == status, response.text


@pytest.mark.parametrize(
    ("path", "says"),
    [("/v1/nothing", "See /docs"), ("/v1/jobs/", "Leave out the slash at its end")],
)
def test_an_unknown_path_leads_to_the_documentation(
    client: TestClient, path: str, says: str
) -> None:
    missing = client.get(path, follow_redirects=False)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert says in missing.json()["remedy"]


def test_the_traceback_of_a_bug_is_in_the_log_under_its_request(
    app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("secret")

    client.get("/broken", headers={"X-Request-Id": "abc-1"})
    (record,) = (record for record in caplog.records if record.name == "rome.api")
    assert "abc-1 GET /broken" in record.getMessage()
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


def test_a_job_that_cannot_be_shown_is_not_stored(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(row: object, progress: object = None) -> None:
        raise OverflowError("no such year")

    monkeypatch.setattr(Job, "of", refuse)
    assert client.post("/v1/jobs", json=RANDOM).status_code == 500
    assert (service.rows("job"), service.rows("event")) == (0, 0)
