"""The tables of blobs and of the pins that keep one alive while it is being published."""

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Integer, String, Table

from service.schema import metadata

blob = Table(
    "blob",
    metadata,
    Column("digest", String, primary_key=True),  # SHA-256, lower-case hex
    Column("size", BigInteger, nullable=False),
    # pending: announced, maybe not uploaded yet; stored: published by some job;
    # condemned: the sweeper is about to delete it, so a put must upload again.
    Column("state", String, nullable=False),
    Column("touched_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('pending', 'stored', 'condemned')", name="state_known"),
)

blob_pin = Table(
    "blob_pin",
    metadata,
    Column("digest", ForeignKey("blob.digest"), primary_key=True),
    Column("job_id", ForeignKey("job.id"), primary_key=True, index=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("expires_at", BigInteger, nullable=False),
)
