"""The tables of jobs and of the idempotency keys they were submitted under."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
)

from service.jobs.states import Status
from service.schema import Json, metadata

STATUSES = ", ".join(f"'{status}'" for status in Status)

job = Table(
    "job",
    metadata,
    Column("id", String, primary_key=True),
    Column("project_id", ForeignKey("project.id"), nullable=False),
    Column("created_by", String, nullable=False),
    Column("name", String),
    Column("kind", String, nullable=False),
    Column("method", String),
    Column("dataset", String),
    Column("resource_class", String, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("status", String, nullable=False),
    Column("wait_reason", String),
    Column("version", Integer, nullable=False, server_default="1"),  # the ETag
    Column("spec", Json, nullable=False),
    Column("spec_hash", String, nullable=False),
    Column("labels", Json, nullable=False),
    Column("run_at", BigInteger, nullable=False),
    Column("queue_deadline", BigInteger),
    Column("run_seconds", Integer),  # over all attempts together
    Column("parent_id", ForeignKey("job.id")),
    Column("traceparent", String),
    Column("last_seq", Integer, nullable=False, server_default="0"),
    # Odd while a lease is held: granting it and ending it both add one.
    Column("lease_epoch", Integer, nullable=False, server_default="0"),
    Column("lease_owner", String),
    Column("lease_expires_at", BigInteger),
    Column("cancel_requested_at", BigInteger),
    Column("pause_requested_at", BigInteger),
    Column("attempts_charged", Integer, nullable=False, server_default="0"),
    Column("attempts_uncharged", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("rung_at", BigInteger),
    Column("rings", Integer, nullable=False, server_default="0"),
    Column("result", Json),
    Column("provenance", Json),
    Column("error", Json),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),  # of the first attempt
    Column("finished_at", BigInteger),
    CheckConstraint(f"status IN ({STATUSES})", name="status_known"),
    CheckConstraint(
        "(status IN ('running', 'publishing')) = (lease_expires_at IS NOT NULL)",
        name="lease_while_running",
    ),
)

# The claim's way to a lane's head.
Index(
    "ix_job_queue",
    job.c.project_id,
    job.c.resource_class,
    job.c.status,
    job.c.priority.desc(),
    job.c.run_at,
    job.c.created_at,
    job.c.id,
)
# The reaper's two looks.
Index(
    "ix_job_lease",
    job.c.lease_expires_at,
    sqlite_where=job.c.lease_expires_at.is_not(None),
    postgresql_where=job.c.lease_expires_at.is_not(None),
)
Index("ix_job_deadline", job.c.status, job.c.queue_deadline)
# Listings, newest first.
Index("ix_job_listing", job.c.project_id, job.c.created_at, job.c.id)

idempotency_key = Table(
    "idempotency_key",
    metadata,
    Column("project_id", ForeignKey("project.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("body_hash", String, nullable=False),
    # Deferred, because the key is taken before the job is made: of two requests that race,
    # the second waits at the key.
    Column("job_id", ForeignKey("job.id", deferrable=True, initially="DEFERRED"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
