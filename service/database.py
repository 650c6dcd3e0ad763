"""How the service talks to its database: engines, transactions, schema checks.

Owns every difference between SQLite and Postgres except the clock's. Must not know any table.
Transactions belong to the edges: a request, or one verb of the lease protocol.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.dialects import postgresql, sqlite

from service.errors import (
    DatabaseBusy,
    SchemaMismatch,
    SettingsInvalid,
    StateDirUnusable,
    StorageFull,
)
from service.settings import Settings

BUSY_TIMEOUT_MS = 30_000  # write transactions take milliseconds; only a stuck process holds longer
POOL = {"pool_size": 8, "max_overflow": 32}  # the API's 40 threads can each hold one
NOTHING_FREE = 1 << 16  # bytes: two pages of the log and of its index
WRITE = "rome_write"


def canonical_json(value: Any) -> str:
    """Sorted, compact, UTF-8, without NaN: equal values are equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def create_engine(settings: Settings) -> Engine:
    """Raises SettingsInvalid and StateDirUnusable."""
    url = sa.make_url(settings.database_url)
    options = {"json_serializer": canonical_json, **POOL}
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, **options)
    if url.database in (None, "", ":memory:"):
        raise SettingsInvalid(
            "ROME_DATABASE_URL names a database in memory, which no other process can see.",
            remedy="Name a file, as in sqlite:////srv/rome/rome.db, or leave it unset.",
        )
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StateDirUnusable(f"{folder}: {error.strerror}") from error
    engine = sa.create_engine(url, **options)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # this module begins transactions, not the driver
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",  # readers never wait for the writer
        "synchronous = FULL",  # a commit that was answered survives a power cut
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later fails at once when another writer
    # came between; BEGIN IMMEDIATE waits its turn instead.
    write = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """One transaction that may write: commits at the end, rolls back on any exception.

    Raises DatabaseBusy and StorageFull for what SQLite says about locks and disks.
    """
    try:
        with engine.connect() as conn, conn.execution_options(**{WRITE: True}).begin():
            yield conn
    except sa.exc.OperationalError as error:
        raise _translated(engine, error) from error


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """One consistent view, for reading only."""
    try:
        with engine.connect() as conn, conn.begin():
            yield conn
    except sa.exc.OperationalError as error:
        raise _translated(engine, error) from error


def _translated(engine: Engine, error: sa.exc.OperationalError) -> Exception:
    code = getattr(error.orig, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseBusy()
    full = code in ("SQLITE_FULL", "SQLITE_IOERR_WRITE")
    # These have other causes as well, so the disk itself is asked.
    if code.startswith("SQLITE_IOERR") or code == "SQLITE_CANTOPEN":
        folder = Path(str(engine.url.database)).parent
        full = full or shutil.disk_usage(folder).free < NOTHING_FREE
    return StorageFull("The database could not grow.") if full else error


def insert_new(conn: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert unless a row with that key exists; says whether it was inserted."""
    build = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    return conn.execute(build(table).values(**values).on_conflict_do_nothing()).rowcount == 1


def upsert(conn: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Insert, or overwrite the columns of the row with that primary key."""
    build = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    key = [column.name for column in table.primary_key]
    conn.execute(
        build(table)
        .values(**values)
        .on_conflict_do_update(
            index_elements=key, set_={k: v for k, v in values.items() if k not in key}
        )
    )


def migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config


def revision(engine: Engine) -> str | None:
    """The schema revision the database is at; none when it is empty."""
    with read(engine) as conn:
        return MigrationContext.configure(conn).get_current_revision()


def head() -> str | None:
    """The schema revision this code works with."""
    return _scripts().get_current_head()


def check_schema(engine: Engine) -> None:
    """Raises SchemaMismatch unless the database is at exactly this code's revision."""
    found, wanted = revision(engine), head()
    if found == wanted:
        return
    known = {script.revision for script in _scripts().walk_revisions()}
    if found is None or found in known:
        at = f"at revision {found}" if found else "empty"
        raise SchemaMismatch(f"The database is {at}; this version needs revision {wanted}.")
    raise SchemaMismatch(
        f"The database is at revision {found}, which this version does not know.",
        remedy="Run the newer version that wrote it, or restore a backup made before the upgrade.",
    )


def upgrade(engine: Engine, target: str = "head") -> None:
    """Bring the schema up in one transaction; processes that start together wait their turn."""
    found = revision(engine)
    if found is not None and found not in {s.revision for s in _scripts().walk_revisions()}:
        check_schema(engine)
    with write(engine) as conn:
        config = migrations()
        config.attributes["connection"] = conn
        command.upgrade(config, target)


def downgrade(engine: Engine, target: str) -> None:
    with write(engine) as conn:
        config = migrations()
        config.attributes["connection"] = conn
        command.downgrade(config, target)


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(migrations())
