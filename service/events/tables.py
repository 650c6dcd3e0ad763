"""The table of events."""

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Table

from service.schema import Json, metadata

event = Table(
    "event",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),  # 1, 2, 3 … without a gap
    Column("type", String, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("attempt", Integer),
    Column("data", Json, nullable=False),
)
