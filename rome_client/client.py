"""A synchronous client of the HTTP API.

Owns requests, retries and resumption: a stream goes on after the last event seen, a download
after the last byte. It must not print and knows nothing of the terminal.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpx2

from rome_client import download
from rome_client.errors import JobDidNotSucceed, Problem, RomeError, ServiceUnreachable

DEFAULT_URL = "http://127.0.0.1:8321"
TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})

# An idle stream carries a comment every 15 s; three missed ones mean a dead connection.
STREAM_SILENCE_SECONDS = 45.0
# How long a stream or wait outlives its service: a restart with a migration takes a few seconds.
PATIENCE_SECONDS = 120.0

Document = dict[str, Any]
Documents = list[Document]  # `list` inside the class is the method


@dataclass(frozen=True)
class Event:
    """One event of a job; `seq` counts from 1 without a gap."""

    seq: int
    type: str
    at: str
    attempt: int | None
    data: Mapping[str, Any]

    @property
    def terminal(self) -> bool:
        """Whether this is the last event the job will ever have."""
        return self.type.removeprefix("job.") in TERMINAL

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        return cls(
            seq=document["seq"],
            type=document["type"],
            at=document["at"],
            attempt=document.get("attempt"),
            data=document.get("data") or {},
        )


class Client:
    """Talks to one service. Usable as a context manager; errors are those of `rome_client.errors`.

    `url` defaults to the environment's ROME_URL, then to http://127.0.0.1:8321.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 30.0) -> None:
        self.url = (url or os.environ.get("ROME_URL") or DEFAULT_URL).rstrip("/")
        try:
            self.http = httpx2.Client(base_url=self.url, timeout=timeout)
        except httpx2.InvalidURL as error:
            raise ServiceUnreachable(self.url, str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Document:
        """Queue a job and return its document.

        A key is drawn when none is given, so that the one retry after a broken connection cannot
        queue it twice.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        try:
            return self._json("POST", "/v1/jobs", json=dict(spec), headers=headers)
        except ServiceUnreachable as error:
            if isinstance(error.__cause__, httpx2.ConnectError):
                raise
            return self._json("POST", "/v1/jobs", json=dict(spec), headers=headers)

    def get(self, job_id: str) -> Document:
        return self._json("GET", f"/v1/jobs/{job_id}")

    def list(self, *, limit: int | None = None, **filters: str) -> Iterator[Document]:
        """Jobs, newest first, page by page; filters: `status`, `kind`, `method`, `dataset`."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            params: dict[str, str | int] = {k: v for k, v in filters.items() if v is not None}
            params["limit"] = min(left or 100, 100)
            if cursor:
                params["cursor"] = cursor
            page = self._json("GET", "/v1/jobs", params=params)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if left is not None:
                left -= len(page["items"])
            if not cursor:
                return

    def cancel(self, job_id: str) -> Document:
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def attempts(self, job_id: str) -> Documents:
        return cast("Documents", self._json("GET", f"/v1/jobs/{job_id}/attempts")["items"])

    def artifacts(self, job_id: str) -> Documents:
        return cast("Documents", self._json("GET", f"/v1/jobs/{job_id}/artifacts")["items"])

    def artifact(self, artifact_id: str) -> Document:
        return self._json("GET", f"/v1/artifacts/{artifact_id}")

    def upload(
        self, file: Path | str, *, kind: str = "student-weights", name: str | None = None
    ) -> Document:
        """Keep a state dict (.pth, .pt, .safetensors) as an artifact; its document.

        `name` is the file's own by default. Raises OSError for a file that cannot be read.
        """
        path = Path(file)
        with path.open("rb") as content:
            return self._json(
                "POST",
                "/v1/artifacts",
                params={"kind": kind, "name": name or path.name},
                content=content,
                headers={"Content-Type": "application/octet-stream"},
            )

    def catalogue(self, noun: str) -> Documents:
        """The entries of a catalogue.

        `methods`, `datasets`, `networks`, `presets`, `attacks`, `protocols` or `errors`.
        """
        return cast("Documents", self._json("GET", f"/v1/{noun}")["items"])

    def events(
        self, job_id: str, *, after: int = 0, patience: float = PATIENCE_SECONDS
    ) -> Iterator[Event]:
        """Events with `seq > after`, each once and in order, live until the terminal one.

        A broken connection is taken up again after the last event seen; `patience` (seconds) is
        how long the service may be away in one go. Raises ServiceUnreachable after that.
        """
        silent_since: float | None = None
        pause = 0.2
        while True:
            try:
                headers = {"Last-Event-ID": str(after)}
                timeout = httpx2.Timeout(10.0, read=STREAM_SILENCE_SECONDS)
                path = f"/v1/jobs/{job_id}/stream"
                with self.http.sse(path, headers=headers, timeout=timeout) as source:
                    _raise_for_problem(source.response)
                    silent_since, pause = None, 0.2
                    news = False
                    for message in source:
                        if not message.data:
                            continue
                        event = Event.from_document(cast("Mapping[str, Any]", message.json()))
                        if event.seq <= after:
                            continue
                        after, news = event.seq, True
                        yield event
                        if event.terminal:
                            return
                # A finished job whose last event was seen already has nothing more to say.
                if not news and self.get(job_id)["status"] in TERMINAL:
                    return
                reason = "the stream ended"
                cause: Exception | None = None
            except ServiceUnreachable as error:
                reason, cause = error.reason, error
            except httpx2.TransportError as error:
                reason, cause = _reason(error), error
            now = time.monotonic()
            silent_since = silent_since if silent_since is not None else now
            if now - silent_since > patience:
                raise ServiceUnreachable(self.url, reason) from cause
            time.sleep(pause)
            pause = min(pause * 2, 5.0)

    def wait(self, job_id: str, *, timeout: float | None = None) -> Document:
        """Block until the job is terminal and return its document.

        Raises TimeoutError, and JobDidNotSucceed for any end but success.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        job = self.get(job_id)
        while job["status"] not in TERMINAL:
            left = 20.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{job_id} is still {job['status']} after {timeout} s")
            headers = {"Prefer": f"wait={max(1, min(20, int(left)))}"}
            job = self._json("GET", f"/v1/jobs/{job_id}", headers=headers)
        if job["status"] != "succeeded":
            raise JobDidNotSucceed(job)
        return job

    def download(
        self,
        artifact: str | Document,
        target: Path | str,
        *,
        on_bytes: download.OnBytes | None = None,
    ) -> Path:
        """Fetch an artifact (id or document) to a file, or into a folder under its own name.

        Taken up where an interrupted one stopped, checked against its SHA-256, and only then
        given its final name. Returns the file's path; raises DamagedDownload.
        """
        document = self.artifact(artifact) if isinstance(artifact, str) else artifact
        return download.fetch(self.http, self.url, document, Path(target), on_bytes)

    def _json(self, method: str, path: str, **options: Any) -> Document:
        try:
            response = self.http.request(method, path, **options)
        except httpx2.TransportError as error:
            raise ServiceUnreachable(self.url, _reason(error)) from error
        _raise_for_problem(response)
        try:
            return cast("Document", response.json())
        except ValueError as error:
            raise _not_ours(self.url) from error


def _raise_for_problem(response: httpx2.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or "code" not in document:
        raise _not_ours(str(response.request.url), response.status_code)
    raise Problem(response.status_code, document)


def _not_ours(url: str, status: int | None = None) -> RomeError:
    answer = f" (HTTP {status})" if status else ""
    return RomeError(
        f"{url} answers{answer}, but not as this service does",
        "check --url or ROME_URL; another program may be listening there",
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
