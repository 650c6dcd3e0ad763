"""The table of projects."""

from sqlalchemy import BigInteger, Column, String, Table

from service.schema import metadata

project = Table(
    "project",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
