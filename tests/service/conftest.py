from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service import database
from service.settings import Settings
from tests.databases import make_template, sqlite_settings


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def settings(template: Path, tmp_path: Path) -> Settings:
    return sqlite_settings(template, tmp_path / "state")


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = database.create_engine(settings)
    yield made
    made.dispose()
