"""The schema's history goes up and down step by step and ends at what the tables say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, select
from sqlalchemy.exc import IntegrityError

from service import clock, database
from service.database import read, write
from service.errors import SchemaMismatch
from service.principals import LOCAL
from service.settings import Settings
from service.tables import metadata, project

SCRIPTS = ScriptDirectory.from_config(database.migrations())
REVISIONS = [script.revision for script in reversed(list(SCRIPTS.walk_revisions()))]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = database.create_engine(Settings(state_dir=tmp_path))
    yield made
    made.dispose()


def test_the_history_is_one_line() -> None:
    assert SCRIPTS.get_heads() == [REVISIONS[-1]]
    assert SCRIPTS.get_bases() == [REVISIONS[0]]
    assert database.head() == REVISIONS[-1]


def test_every_step_goes_up_down_and_up_again(engine: Engine) -> None:
    below = "base"
    for revision in REVISIONS:
        database.upgrade(engine, revision)
        database.downgrade(engine, below)
        database.upgrade(engine, revision)
        assert database.revision(engine) == revision
        below = revision
    database.downgrade(engine, "base")
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}


def test_the_newest_schema_is_what_the_tables_say(engine: Engine) -> None:
    database.upgrade(engine)
    with read(engine) as conn:
        found = MigrationContext.configure(conn, opts={"compare_server_default": True})
        assert compare_metadata(found, metadata) == []
        names = {table.name: _constraints(engine, table.name) for table in metadata.sorted_tables}
    for table in metadata.sorted_tables:
        checks = {str(c.name) for c in table.constraints if c.name and "ck_" in str(c.name)}
        assert checks <= names[table.name]


def _constraints(engine: Engine, table: str) -> set[str]:
    return {str(check["name"]) for check in inspect(engine).get_check_constraints(table)}


def test_an_embedded_service_has_its_project(engine: Engine) -> None:
    database.upgrade(engine)
    with read(engine) as conn:
        row = conn.execute(select(project)).one()
        assert row.id == LOCAL.project_id
        assert abs(row.created_at - clock.now(conn)) < 600 * clock.SECOND


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    database.upgrade(engine)
    database.upgrade(engine)
    database.check_schema(engine)


def test_a_step_that_fails_leaves_nothing_behind(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import op

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(op, "execute", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        database.upgrade(engine)
    assert inspect(engine).get_table_names() == []


def test_an_older_schema_is_refused_with_its_remedy(engine: Engine) -> None:
    with pytest.raises(SchemaMismatch, match="empty") as caught:
        database.check_schema(engine)
    assert "rome db upgrade" in caught.value.remedy


def test_a_newer_schema_is_refused_and_never_touched(engine: Engine) -> None:
    database.upgrade(engine)
    with write(engine) as conn:
        conn.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for use in (database.check_schema, database.upgrade):
        with pytest.raises(SchemaMismatch, match="does not know"):
            use(engine)
    assert database.revision(engine) == "9999"


def _at_first_schema(engine: Engine) -> None:
    """A job with an artifact, and another job that reads it."""
    database.upgrade(engine, "0001")
    with write(engine) as conn:
        for name in ("maker", "reader"):
            conn.exec_driver_sql(
                "INSERT INTO job (id, project_id, created_by, kind, resource_class, status, spec,"
                " spec_hash, labels, run_at, max_attempts, created_at)"
                f" VALUES ('{name}', 'prj_local', 'me', 'distill', 'cpu', 'queued', '{{}}', '',"
                " '{}', 0, 3, 0)"
            )
        conn.exec_driver_sql("INSERT INTO blob VALUES ('abc', 3, 'stored', 0)")
        conn.exec_driver_sql(
            "INSERT INTO artifact VALUES"
            " ('made', 'prj_local', 'maker', 'a.pt', 'synthetic-set', 'x/y', 3, 'abc', '{}', 0)"
        )
        conn.exec_driver_sql("INSERT INTO job_input VALUES ('reader', 'made')")


def _rows(engine: Engine, table: str) -> list[tuple[object, ...]]:
    with read(engine) as conn:
        return [tuple(row) for row in conn.exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1, 2")]


def test_uploads_come_and_go_and_the_rest_stays(engine: Engine) -> None:
    _at_first_schema(engine)
    before = {name: _rows(engine, name) for name in ("job", "artifact", "job_input", "blob")}
    database.upgrade(engine, "0002")
    assert {name: _rows(engine, name) for name in before} == before
    with write(engine) as conn:
        for name in ("one", "two"):  # of one name: no job keeps them apart
            conn.exec_driver_sql(
                f"INSERT INTO artifact VALUES ('{name}', 'prj_local', NULL, 'w.pth',"
                " 'student-weights', 'x/y', 3, 'abc', '{}', 0)"
            )
            conn.exec_driver_sql(f"INSERT INTO job_input VALUES ('reader', '{name}')")
    database.downgrade(engine, "0001")
    assert {name: _rows(engine, name) for name in before} == before
    with pytest.raises(IntegrityError), write(engine) as conn:
        conn.exec_driver_sql("UPDATE artifact SET job_id = NULL")
    database.upgrade(engine)
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), write(engine) as conn:
        conn.exec_driver_sql("UPDATE job_input SET artifact_id = 'gone'")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"), write(engine) as conn:
        conn.exec_driver_sql("DELETE FROM artifact")
