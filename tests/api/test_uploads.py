"""Uploads of weights: bytes in, an artifact out, and nothing where it went wrong."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api import uploads as route
from api.application import create_app
from service import database
from service.settings import Settings
from tests.api.conftest import Service, submit

BYTES = b"not even weights" * 200_000  # more than one piece
URL = "/v1/artifacts?kind=student-weights&name=mine.pth"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_upload_bytes": 4 << 20})


def left(service: Service) -> tuple[int, int, list[str], list[str]]:
    """Rows of artifacts and blobs, blobs stored, and other files in the state folder."""
    others = [
        path.name
        for path in service.settings.state_dir.rglob("*")
        if path.is_file() and not path.name.startswith("rome.db") and len(path.name) != 64
    ]
    return service.rows("artifact"), service.rows("blob"), list(service.blobs.list()), others


def test_an_upload_is_an_artifact_of_no_job(client: TestClient, service: Service) -> None:
    response = client.post(URL, content=BYTES)
    made = response.json()
    assert response.status_code == 201, made
    assert response.headers["location"] == f"/v1/artifacts/{made['id']}"
    assert (made["kind"], made["name"], made["job_id"]) == ("student-weights", "mine.pth", None)
    assert made["media_type"] == "application/x-pytorch"
    assert (made["size"], made["digest"]) == (len(BYTES), hashlib.sha256(BYTES).hexdigest())
    assert client.get(response.headers["location"]).json() == made
    assert client.get(f"/v1/artifacts/{made['id']}/content").content == BYTES
    again = client.post(URL, content=BYTES).json()
    assert again["id"] != made["id"]
    assert left(service) == (2, 1, [made["digest"]], [])


def test_a_job_may_name_it(client: TestClient) -> None:
    made = client.post(URL.replace("pth", "safetensors"), content=b"x").json()
    assert made["media_type"] == "application/x-safetensors"
    models = [{"artifact": made["id"], "network": "convnet"}]
    evaluation = {"kind": "evaluate", "dataset": "digits", "models": models}
    transfer = {"kind": "transfer", "dataset": "digits", "sources": models}
    for body in (evaluation, transfer):
        job = client.post("/v1/jobs", json=body)
        assert (job.status_code, job.json()["dataset"]) == (202, "digits"), job.text
    problem = client.post("/v1/jobs", json={"kind": "evaluate", "artifact": made["id"]}).json()
    assert [wrong["field"] for wrong in problem["problems"]] == ["artifact"]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("kind=student-weights", {"name"}),
        ("name=a.pth", {"kind"}),
        ("kind=synthetic-set&name=a.pt", {"kind"}),
        ("kind=synthetic-set&name=a", {"kind", "name"}),
        ("kind=student-weights&name=a.exe", {"name"}),
        ("kind=student-weights&name=.pth", {"name"}),
        ("kind=student-weights&name=..%2Fa.pth", {"name"}),
        ("kind=student-weights&name=a%0Ab.pth", {"name"}),
        ("kind=student-weights&name=" + "a" * 200 + ".pth", {"name"}),
        ("kind=student-weights&name=a.pth&job_id=x", {"job_id"}),
    ],
)
def test_what_is_not_taken_is_named_and_not_kept(
    client: TestClient, service: Service, query: str, fields: set[str]
) -> None:
    response = client.post(f"/v1/artifacts?{query}", content=BYTES)
    assert response.status_code == 422, response.text
    assert {wrong["field"] for wrong in response.json()["problems"]} == fields
    assert all(wrong["remedy"] for wrong in response.json()["problems"])
    assert left(service) == (0, 0, [], [])


def test_an_empty_body_and_a_form_are_refused(client: TestClient, service: Service) -> None:
    empty = client.post(URL, content=b"")
    form = client.post(URL, files={"file": ("mine.pth", BYTES)})
    for response in (empty, form):
        assert (response.status_code, response.json()["code"]) == (400, "malformed_request")
    assert "--data-binary" in form.json()["remedy"]
    assert left(service) == (0, 0, [], [])


def test_uploads_have_a_limit_of_their_own(client: TestClient, service: Service) -> None:
    def chunks() -> Iterator[bytes]:
        yield from [bytes(1 << 20)] * 5

    for content in (bytes((4 << 20) + 1), chunks()):
        response = client.post(URL, content=content)
        assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
        assert "4,194,304" in response.json()["detail"]
    assert left(service) == (0, 0, [], [])
    assert client.post(URL, content=bytes(4 << 20)).status_code == 201
    spec = client.post("/v1/jobs", json={"name": "x" * 5000})
    assert "4,096" in spec.json()["detail"], "specs keep theirs"


def test_a_refusal_is_read_by_a_client_that_is_still_sending(live: httpx2.Client) -> None:
    response = live.post("/v1/artifacts?kind=nothing&name=a.pth", content=bytes(3 << 20))
    assert response.status_code == 422


def test_an_upload_that_breaks_off_leaves_nothing(live: httpx2.Client, service: Service) -> None:
    host, port = live.base_url.host, live.base_url.port
    head = f"POST {URL} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 3000000\r\n\r\n"
    with socket.create_connection((host, port or 80)) as cut:
        cut.sendall(head.encode() + bytes(2_000_000))
        cut.shutdown(socket.SHUT_WR)
        cut.recv(1 << 16)  # an answer or the end: by then it has been dealt with
    assert left(service) == (0, 0, [], [])


def test_a_full_disk_is_a_clear_error_and_leaves_nothing(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")  # a device on which every write finds the disk full
    monkeypatch.setattr(route.tempfile, "TemporaryFile", lambda dir: full.open("wb"))
    response = client.post(URL, content=BYTES)
    assert (response.status_code, response.json()["code"]) == (507, "storage_full")
    assert left(service) == (0, 0, [], [])


class Harm:
    """Code that a pickle runs where it is loaded without care."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_no_code_of_an_upload_runs(client: TestClient, service: Service) -> None:
    folder = service.settings.state_dir / "harmed"
    assert client.post(URL, content=pickle.dumps(Harm(str(folder)))).status_code == 201
    assert not folder.exists()


def test_the_state_folder_is_made_where_only_the_database_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere' / 'rome.db'}"
    settings = Settings(state_dir=tmp_path / "state", database_url=url)
    engine = database.create_engine(settings)
    database.upgrade(engine)
    engine.dispose()
    with TestClient(create_app(settings), base_url="http://127.0.0.1:8321") as client:
        assert client.post(URL, content=BYTES).status_code == 201


def test_a_lost_database_leaves_no_row(
    app: FastAPI, client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(route.uploads, "insert", fail)
    assert client.post(URL, content=BYTES).status_code == 500
    rows, blobs, _, others = left(service)
    assert (rows, blobs, others) == (0, 0, []), "the file itself is swept after a day"
    monkeypatch.undo()
    assert submit(client)
