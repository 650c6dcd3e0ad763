"""The table of lanes."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Integer,
    String,
    Table,
    false,
)

from service.schema import metadata

lane = Table(
    "lane",
    metadata,
    Column("project_id", ForeignKey("project.id"), primary_key=True),
    Column("resource_class", String, primary_key=True),
    # Leases held now. Only the transactions that grant or end a lease change it.
    Column("running", Integer, nullable=False, server_default="0"),
    Column("max_running", Integer),  # the quota; null: none
    # Leases granted, moved forward when an idle lane wakes: the smallest goes first.
    Column("virtual_time", BigInteger, nullable=False, server_default="0"),
    Column("paused", Boolean, nullable=False, server_default=false()),
    CheckConstraint("running >= 0", name="running_not_negative"),
)
