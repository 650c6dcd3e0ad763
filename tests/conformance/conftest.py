"""One suite for every database. A backend is one more entry of `BACKENDS` and its settings."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from service import database
from service.settings import Settings
from tests.conformance import crowd
from tests.conformance.moves import World
from tests.databases import make_template, sqlite_settings

BACKENDS = ["sqlite"]
PROCESSES = 4


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(params=BACKENDS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Of a fresh, migrated database of each backend."""
    assert request.param == "sqlite"
    made = sqlite_settings(request.getfixturevalue("sqlite_template"), tmp_path / "state")
    return made.model_copy(update={"retry_seconds": 0.0})  # no waiting between attempts


@pytest.fixture
def world(settings: Settings) -> Iterator[World]:
    engine = database.create_engine(settings)
    yield World(engine, settings)
    engine.dispose()


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Real processes, started once: what they share is the database and a starting line."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=context, initializer=crowd.enter, initargs=(barrier,)
    ) as made:
        yield made


@pytest.fixture
def together(pool: ProcessPoolExecutor, settings: Settings) -> Callable[..., list[object]]:
    """Run `tasks` (function, *arguments) at once, each in its own process; their results."""

    def run(*tasks: tuple[object, ...]) -> list[object]:
        assert len(tasks) == PROCESSES
        futures = [pool.submit(crowd.run, settings, *task) for task in tasks]
        return [future.result(timeout=120) for future in futures]

    return run
