"""The tables of artifacts and of the artifacts that jobs read."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, String, Table, UniqueConstraint

from service.schema import Json, metadata

artifact = Table(
    "artifact",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", ForeignKey("project.id"), nullable=False),
    Column("job_id", ForeignKey("job.id")),  # null: uploaded, no job made it
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("media_type", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", ForeignKey("blob.digest"), nullable=False, index=True),
    Column("metadata", Json, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("job_id", "name"),
)
Index("ix_artifact_listing", artifact.c.project_id, artifact.c.created_at, artifact.c.id)

job_input = Table(
    "job_input",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("artifact_id", ForeignKey("artifact.id"), primary_key=True),
)
