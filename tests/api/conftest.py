"""The real application on a real SQLite file, and a worker that a test moves by hand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from api.application import create_app
from service import database
from service.attempts import protocol
from service.attempts.leases import Lease, Owner, Published
from service.blobs.store import LocalBlobs
from service.settings import Settings

RANDOM = {"method": "random", "dataset": "digits", "ipc": 2, "seed": 7}


@dataclass
class Service:
    """What a test sees of the service from inside, to arrange what the API then shows."""

    settings: Settings
    engine: database.Engine
    blobs: LocalBlobs

    def claim(self) -> Lease:
        owner = Owner(name="test", host="here", pid=1)
        claim = protocol.claim(
            self.engine, self.settings, owner=owner, resource_classes=self.settings.resource_classes
        )
        assert claim is not None
        return claim.lease

    def report(self, lease: Lease, step: int) -> None:
        payload = {
            "phase": "distilling",
            "step": step,
            "total": 10,
            "scalars": {"loss": 1 / (step + 1)},
            "eta_seconds": 9.0,
            "checkpoint_step": None,
        }
        protocol.progress(self.engine, self.settings, lease, payload)

    def publish(self, lease: Lease, contents: dict[str, bytes]) -> None:
        protocol.begin_publishing(self.engine, lease)
        outputs = []
        for name, content in contents.items():
            stored = self.blobs.put(content)
            protocol.pin(self.engine, lease, stored.digest, stored.size)
            outputs.append(
                Published(
                    name, "synthetic-set", "application/x-pytorch", stored.size, stored.digest, {}
                )
            )
        protocol.publish(
            self.engine, lease, outputs=outputs, result={"images": 20}, provenance={"code": "test"}
        )

    def rows(self, table: str) -> int:
        with database.read(self.engine) as conn:
            return int(conn.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", max_body_bytes=4096)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    engine = database.create_engine(settings)
    database.upgrade(engine)
    yield Service(settings, engine, LocalBlobs(settings.blobs_dir))
    engine.dispose()


@pytest.fixture
def app(service: Service) -> FastAPI:
    return create_app(service.settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1:8321", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def live(app: FastAPI) -> Iterator[httpx2.Client]:
    """A client of the application behind a real server on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # The listener is open already, so the first request waits for the application to start.
        with httpx2.Client(base_url=url, timeout=20) as client:
            yield client
    finally:
        app.state.edge.poller.close()
        server.should_exit = True
        thread.join()
        listener.close()


def submit(client: httpx2.Client, **changes: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs", json={**RANDOM, **changes})
    assert response.status_code == 202, response.text
    document: dict[str, Any] = response.json()
    return document
