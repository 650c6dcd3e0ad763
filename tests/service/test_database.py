import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, event, func, insert, select

from service import database
from service.database import WRITE, canonical_json, read, write
from service.errors import DatabaseBusy, SettingsInvalid, StateDirUnusable, StorageFull
from service.settings import Settings
from service.tables import blob, project

ROW = {"id": "prj_x", "name": "x", "created_at": 1}


def count(engine: Engine) -> int:
    with read(engine) as conn:
        return conn.scalar(select(func.count()).select_from(project)) or 0


def test_sqlite_is_set_up_for_durability_and_concurrency(engine: Engine) -> None:
    with read(engine) as conn:
        found = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_a_write_is_all_or_nothing(engine: Engine) -> None:
    before = count(engine)
    with pytest.raises(sa.exc.IntegrityError), write(engine) as conn:
        conn.execute(insert(project), [ROW, ROW])
    assert count(engine) == before
    with write(engine) as conn:
        conn.execute(insert(project).values(ROW))
    assert count(engine) == before + 1


def test_a_second_writer_waits_its_turn_from_the_beginning(engine: Engine) -> None:
    """A transaction that took its lock only at the first write could fail after it had read."""
    with write(engine), engine.connect() as other:
        other.exec_driver_sql("PRAGMA busy_timeout = 0")
        other.rollback()
        with pytest.raises(sa.exc.OperationalError, match="locked"):
            other.execution_options(**{WRITE: True}).begin()


def test_a_reader_neither_waits_nor_sees_half(engine: Engine) -> None:
    with write(engine) as conn:
        conn.execute(insert(project).values(ROW))
        assert count(engine) == 1
    assert count(engine) == 2


def test_an_endless_lock_is_told_as_such(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 1)
    engine = database.create_engine(settings)
    with write(engine), pytest.raises(DatabaseBusy), write(engine):
        pass
    engine.dispose()


def test_a_full_disk_is_told_and_leaves_nothing_half_written(engine: Engine) -> None:
    # SQLite takes a limit below the present size to mean: grow no further.
    event.listen(engine, "begin", lambda conn: conn.exec_driver_sql("PRAGMA max_page_count = 1"))
    row = {"size": 1, "state": "stored", "touched_at": 1}
    with write(engine) as conn:
        conn.execute(insert(blob), [{**row, "digest": "fits"}])
    many = [{**row, "digest": f"{number:064}"} for number in range(10_000)]
    with pytest.raises(StorageFull), write(engine) as conn:
        conn.execute(insert(blob), many)
    with read(engine) as conn:
        assert conn.scalar(select(func.count()).select_from(blob)) == 1


@pytest.mark.parametrize("name", ["SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_FSYNC", "SQLITE_CANTOPEN"])
@pytest.mark.parametrize("free", [0, 1 << 30])
def test_what_may_have_other_causes_is_a_full_disk_only_on_a_full_disk(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, name: str, free: int
) -> None:
    def usage(folder: object) -> SimpleNamespace:
        return SimpleNamespace(free=free)

    cause = sqlite3.OperationalError("disk I/O error")
    cause.sqlite_errorname = name
    monkeypatch.setattr(shutil, "disk_usage", usage)
    expected = sa.exc.OperationalError if free else StorageFull
    with pytest.raises(expected), write(engine):
        raise sa.exc.OperationalError("COMMIT", {}, cause)


def test_foreign_keys_are_checked(engine: Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError), write(engine) as conn:
        conn.exec_driver_sql("INSERT INTO lane (project_id, resource_class) VALUES ('no', 'cpu')")


def test_insert_new_and_upsert(engine: Engine) -> None:
    with write(engine) as conn:
        assert database.insert_new(conn, project, ROW)
        assert not database.insert_new(conn, project, {**ROW, "name": "y"})
        assert conn.scalar(select(project.c.name).where(project.c.id == "prj_x")) == "x"
        database.upsert(conn, project, {**ROW, "name": "z"})
        assert conn.scalar(select(project.c.name).where(project.c.id == "prj_x")) == "z"


def test_a_state_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirUnusable, match="file"):
        database.create_engine(Settings(state_dir=tmp_path / "file" / "state"))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsInvalid, match="memory"):
        database.create_engine(Settings(state_dir=tmp_path, database_url=url))


def test_a_commit_survives_in_the_file(engine: Engine, settings: Settings) -> None:
    with write(engine) as conn:
        conn.execute(insert(project).values(ROW))
    other = sqlite3.connect(settings.state_dir / "rome.db")
    assert other.execute("SELECT count(*) FROM project").fetchone() == (2,)
    other.close()


def test_canonical_json_is_sorted_compact_and_finite() -> None:
    assert canonical_json({"b": [1.5, None], "a": "ä"}) == '{"a":"ä","b":[1.5,null]}'
    with pytest.raises(ValueError):
        canonical_json(float("nan"))
