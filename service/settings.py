"""The settings of every process of the service: environment variables that begin with `ROME_`.

Owns names, defaults, units and reasons. Unknown or contradictory settings are errors that name the
remedy. Must not open files, databases or sockets.
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import SettingsInvalid

PREFIX = "ROME_"
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], NoDecode]  # in the environment: comma-separated


class Settings(BaseSettings):
    """Immutable. Build it once at the edge of a process, with `load()`, and pass it down."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    # Where things lie.
    state_dir: Path = Path(".rome")
    data_root: Path = Path()  # default: state_dir/data
    database_url: str = ""  # default: rome.db in state_dir

    # The HTTP side. Loopback, because an embedded service has no passwords.
    host: str = "127.0.0.1"
    port: int = Field(default=8321, ge=0, le=65535)  # 0: any free port
    # Names that Host and Origin may carry; others could be a rebound DNS name.
    allowed_hosts: Names = ("127.0.0.1", "localhost", "[::1]")
    max_body_bytes: int = Field(default=1 << 20, ge=1024)  # a spec is about 1 KiB
    max_upload_bytes: int = Field(default=1 << 28, ge=1024)  # the reference network is 1.3 MB

    # Leases. Six renewals fit in one life, so a lease outlives five lost ones.
    lease_ttl_seconds: Seconds = 60.0
    lease_renew_seconds: Seconds = 10.0
    # Longer than one renewal, so that after a laptop's sleep every supervisor renews before the
    # reaper's second look.
    reaper_interval_seconds: Seconds = 15.0
    stall_seconds: Seconds = 900.0  # the slowest honest iteration on 2 cores takes about 175 s

    # Attempts.
    max_attempts: int = Field(default=3, ge=1, le=100)  # charged: the job's own failures
    # Before a failed or crashed job is tried again; four times as long after each further failure.
    retry_seconds: float = Field(default=30.0, ge=0, allow_inf_nan=False)
    max_uncharged: int = Field(default=20, ge=0, le=1000)  # drains and suspensions

    # Progress is an event at most this often, and always on the attempt: a history stays readable.
    progress_event_seconds: Seconds = 1.0

    # The worker.
    poll_seconds: Seconds = 0.5  # the embedded loop; a look costs 0.1 ms and takes no write lock
    ring_again_seconds: Seconds = 30.0  # a delivery not claimed by then counts as lost
    slots: int = Field(default=1, ge=1, le=256)  # jobs at once in one process tree
    spare_children: int = Field(default=1, ge=0, le=16)  # with torch imported: saves 2.3 s a job
    resource_classes: Names = ("cpu",)
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    threads: int | None = Field(default=None, ge=1)  # of torch; none: torch decides
    runner: str = "rome_core.runner"  # module with `Context` and `run`, imported by the child alone
    log_lines: int = Field(
        default=200, ge=1, le=10_000
    )  # the newest of an attempt, kept in its row
    broker_url: str | None = None  # Celery's; none: embedded
    # How long a blob nobody needs stays: longer than any publish takes between pin and commit.
    blob_grace_seconds: Seconds = 3600.0

    @field_validator("allowed_hosts", "resource_classes", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("allowed_hosts", "resource_classes")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(value):
            raise ValueError("needs at least one name, separated by commas")
        return value

    @model_validator(mode="before")
    @classmethod
    def _place(cls, values: dict[str, Any]) -> dict[str, Any]:
        state = Path(values.get("state_dir", cls.model_fields["state_dir"].default)).absolute()
        root = Path(values.get("data_root", state / "data")).absolute()
        url = values.get("database_url", f"sqlite:///{state / 'rome.db'}")
        return {**values, "state_dir": state, "data_root": root, "database_url": url}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lease_renew_seconds * 2 > self.lease_ttl_seconds:
            raise ValueError(
                "ROME_LEASE_RENEW_SECONDS must be at most half of ROME_LEASE_TTL_SECONDS, "
                "or one late renewal loses the lease"
            )
        return self

    @property
    def blobs_dir(self) -> Path:
        return self.state_dir / "blobs"

    @property
    def scratch_dir(self) -> Path:
        return self.state_dir / "scratch"

    @property
    def cache_dir(self) -> Path:
        return self.state_dir / "cache"


def load(**overrides: Any) -> Settings:
    """Settings from the environment. Raises SettingsInvalid, which names the variable."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(name for name in os.environ if name.startswith(PREFIX)):
        near = difflib.get_close_matches(variable, known, n=1, cutoff=0.85)
        if variable not in known and near:
            raise SettingsInvalid(
                f"There is no setting {variable}.", remedy=f"Did you mean {near[0]}?"
            )
    try:
        return Settings(**overrides)
    except ValidationError as error:
        said = [
            f"{PREFIX}{'_'.join(str(part) for part in detail['loc'][:1]).upper()}: {detail['msg']}"
            if detail["loc"]
            else detail["msg"].removeprefix("Value error, ")
            for detail in error.errors(include_url=False)
        ]
        raise SettingsInvalid("; ".join(said)) from error
