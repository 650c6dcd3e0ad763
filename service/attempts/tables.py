"""The tables of attempts and of the metric points they reported."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    String,
    Table,
)

from service.schema import Json, metadata

attempt = Table(
    "attempt",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # the lease's epoch
    Column("owner", String, nullable=False),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("outcome", String),
    Column("reason", String),
    Column("charged", Boolean),
    Column("resumed_step", Integer),
    Column("progress", Json),
    Column("progress_at", BigInteger),
    Column("log_tail", Json),  # list of lines
    Column("code_version", String),
)

metric = Table(
    "metric",
    metadata,
    Column("job_id", String, primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("name", String, primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("value", Float(53), nullable=False),
    Column("at", BigInteger, nullable=False),
    ForeignKeyConstraint(["job_id", "attempt"], ["attempt.job_id", "attempt.number"]),
)
