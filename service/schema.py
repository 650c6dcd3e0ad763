"""The metadata that all tables hang on, and the names of constraints.

Owns naming only; each noun keeps its tables in its own `tables.py`. `service.tables` imports them
all, for migrations.
"""

from sqlalchemy import JSON, MetaData

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Json = JSON(none_as_null=True)  # canonical text; see `service.database.canonical_json`
