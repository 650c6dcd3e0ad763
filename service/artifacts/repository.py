"""Rows of `artifact` and `job_input` in and out. Every call takes a project."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from service.artifacts.tables import artifact, job_input


@dataclass(frozen=True, slots=True)
class Artifact:
    id: str
    project_id: str
    job_id: str | None  # none: uploaded
    name: str
    kind: str
    media_type: str
    size: int  # bytes
    digest: str  # SHA-256, lower-case hex
    metadata: Mapping[str, Any]
    created_at: int


def get(conn: Connection, project_id: str, artifact_id: str) -> Artifact | None:
    row = conn.execute(
        select(artifact).where(artifact.c.id == artifact_id, artifact.c.project_id == project_id)
    ).one_or_none()
    return Artifact(**row._mapping) if row else None


def of_job(conn: Connection, project_id: str, job_id: str) -> list[Artifact]:
    rows = conn.execute(
        select(artifact)
        .where(artifact.c.job_id == job_id, artifact.c.project_id == project_id)
        .order_by(artifact.c.name)
    )
    return [Artifact(**row._mapping) for row in rows]


def inputs_of(conn: Connection, job_id: str) -> dict[str, str]:
    """artifact id -> digest of what a job reads."""
    rows = conn.execute(
        select(artifact.c.id, artifact.c.digest)
        .join(job_input, job_input.c.artifact_id == artifact.c.id)
        .where(job_input.c.job_id == job_id)
    )
    return {row.id: row.digest for row in rows}
