"""Databases for tests: a migrated SQLite file, copied for each test from one made once."""

import shutil
from pathlib import Path

from service import database
from service.settings import Settings


def make_template(folder: Path) -> Path:
    """A state folder whose database is at the newest revision and closed."""
    settings = Settings(state_dir=folder)
    engine = database.create_engine(settings)
    database.upgrade(engine)
    engine.dispose()
    return folder / "rome.db"


def sqlite_settings(template: Path, state_dir: Path) -> Settings:
    state_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template, state_dir / "rome.db")
    return Settings(state_dir=state_dir)
