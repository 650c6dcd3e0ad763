from __future__ import annotations

import base64
import hashlib
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from api import content
from tests.api.conftest import Service, submit

BYTES = bytes(range(256)) * 40


@pytest.fixture
def artifact(client: TestClient, service: Service) -> dict[str, Any]:
    return _artifact(client, service)


def _artifact(client: httpx2.Client, service: Service) -> dict[str, Any]:
    job = submit(client)
    service.publish(service.claim(), {'bad "näme".pt': BYTES})
    (found,) = client.get(f"/v1/jobs/{job['id']}/artifacts").json()["items"]
    return dict(found)


def _path(artifact: dict[str, Any]) -> str:
    return f"/v1/artifacts/{artifact['id']}/content"


def test_the_whole_content_with_its_digest(client: TestClient, artifact: dict[str, Any]) -> None:
    response = client.get(_path(artifact))
    digest = hashlib.sha256(BYTES)
    assert response.content == BYTES
    assert artifact["digest"] == digest.hexdigest()
    assert response.headers["etag"] == f'"{digest.hexdigest()}"'
    encoded = base64.b64encode(digest.digest()).decode()
    assert response.headers["repr-digest"] == f"sha-256=:{encoded}:"
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-length"] == str(len(BYTES))
    assert "filename*=UTF-8''bad%20%22n%C3%A4me%22.pt" in response.headers["content-disposition"]


def test_head_brings_the_headers_alone(client: TestClient, artifact: dict[str, Any]) -> None:
    whole, head = client.get(_path(artifact)), client.head(_path(artifact))
    assert head.content == b""
    named = ("etag", "content-length", "content-type", "repr-digest", "accept-ranges")
    assert {n: head.headers[n] for n in named} == {n: whole.headers[n] for n in named}


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=100-199", 100, 199),
        ("bytes=10000-", 10000, 10239),
        ("bytes=10200-99999", 10200, 10239),
        ("bytes=-40", 10200, 10239),
        ("bytes=-99999", 0, 10239),
        (f"bytes=5-{'9' * 5000}", 5, 10239),
        (f"bytes=-{'9' * 5000}", 0, 10239),
    ],
)
def test_a_range(
    client: TestClient, artifact: dict[str, Any], asked: str, first: int, last: int
) -> None:
    response = client.get(_path(artifact), headers={"Range": asked})
    assert response.status_code == 206
    assert response.content == BYTES[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/10240"


@pytest.mark.parametrize(
    "asked", ["bytes=10240-", "bytes=99999-100000", "bytes=-0", f"bytes={'9' * 5000}-"]
)
def test_a_range_beyond_the_end(client: TestClient, artifact: dict[str, Any], asked: str) -> None:
    response = client.get(_path(artifact), headers={"Range": asked})
    assert (response.status_code, response.json()["code"]) == (416, "range_not_satisfiable")
    assert response.headers["content-range"] == "bytes */10240"


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "x"])
def test_a_range_that_may_be_ignored_is(
    client: TestClient, artifact: dict[str, Any], asked: str
) -> None:
    response = client.get(_path(artifact), headers={"Range": asked})
    assert (response.status_code, response.content) == (200, BYTES)


def test_a_range_of_another_version_brings_the_whole(
    client: TestClient, artifact: dict[str, Any]
) -> None:
    headers = {"Range": "bytes=5-9", "If-Range": f'"{artifact["digest"]}"'}
    assert client.get(_path(artifact), headers=headers).status_code == 206
    headers["If-Range"] = '"other"'
    assert client.get(_path(artifact), headers=headers).content == BYTES


def test_known_content_is_not_sent_again(client: TestClient, artifact: dict[str, Any]) -> None:
    headers = {"If-None-Match": f'"{artifact["digest"]}"'}
    response = client.get(_path(artifact), headers=headers)
    assert (response.status_code, response.content) == (304, b"")


def test_damage_is_an_error_and_not_a_file(
    client: TestClient, service: Service, artifact: dict[str, Any]
) -> None:
    path = service.blobs.path(artifact["digest"])
    path.chmod(0o644)
    path.write_bytes(BYTES[:-1] + b"X")
    for headers in ({}, {"Range": "bytes=0-9"}):
        response = client.get(_path(artifact), headers=headers)
        assert (response.status_code, response.json()["code"]) == (500, "blob_damaged")
    assert client.head(_path(artifact)).status_code == 500
    path.write_bytes(BYTES[:-1])
    for headers in ({}, {"Range": "bytes=0-9"}):
        response = client.get(_path(artifact), headers=headers)
        assert (response.status_code, response.json()["code"]) == (500, "blob_damaged")
    path.unlink()
    response = client.get(_path(artifact))
    assert (response.status_code, response.json()["code"]) == (500, "blob_missing")


def test_damage_of_a_large_content_cuts_the_transfer(
    live: httpx2.Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "CHECKED_FIRST_BYTES", 0)
    artifact = _artifact(live, service)
    assert live.get(_path(artifact)).content == BYTES
    path = service.blobs.path(artifact["digest"])
    path.chmod(0o644)
    path.write_bytes(b"X" + BYTES[1:])
    with pytest.raises(httpx2.RemoteProtocolError):
        live.get(_path(artifact))
