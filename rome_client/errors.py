"""What can go wrong between client and service, each with the exit code of `rome`.

Owns the error tree; it must not print.

RomeError                      4   anything the service answers that is not success
├── Problem                    4   a problem document (RFC 9457); 2 if the request was wrong
├── ServiceUnreachable         3   nobody answers at the address
├── DamagedDownload            5   the bytes do not have the digest they should have
├── SpecFileError              2   a specification file or `--set` that cannot be read
└── JobDidNotSucceed           1   the job failed, was cancelled or expired
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class RomeError(Exception):
    """Base of all; `str()` is one line fit for a terminal, `remedy` says what to do about it."""

    exit_code = 4

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class FieldError:
    """One wrong field of a request body: its dotted path, what is wrong, and what to do."""

    field: str
    message: str
    remedy: str | None = None


class Problem(RomeError):
    """The service answered with a problem document."""

    def __init__(self, status: int, document: Mapping[str, Any]) -> None:
        self.status = status
        self.document = dict(document)
        self.code = str(document.get("code", f"http_{status}"))
        self.request_id: str | None = document.get("instance")
        self.errors: Sequence[FieldError] = tuple(
            FieldError(str(e.get("field", "")), str(e.get("message", "")), e.get("remedy"))
            for e in document.get("problems") or ()
        )
        message = str(document.get("detail") or document.get("title") or f"HTTP {status}")
        super().__init__(message, document.get("remedy"))
        self.exit_code = 2 if status in (400, 413, 415, 422) else 4


class ServiceUnreachable(RomeError):
    """Nobody answers at the service's address."""

    exit_code = 3

    def __init__(self, url: str, reason: str) -> None:
        self.url = url
        self.reason = reason
        super().__init__(
            f"no service answers at {url} ({reason})",
            "start one with `rome serve`, or point --url or ROME_URL at a running one",
        )


class DamagedDownload(RomeError):
    """A download whose SHA-256 is not the one the service announced; nothing was kept."""

    exit_code = 5


class SpecFileError(RomeError):
    """A specification file or a `--set` that cannot be read."""

    exit_code = 2


class JobDidNotSucceed(RomeError):
    """The job reached a terminal state other than `succeeded`; `job` is its document."""

    exit_code = 1

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = dict(job)
        error = job.get("error") or {}
        detail = f": {error['detail']}" if error.get("detail") else ""
        super().__init__(f"{job['id']} {job['status']}{detail}", error.get("remedy"))
