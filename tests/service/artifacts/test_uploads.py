"""An upload's blob is kept, whatever the sweep is doing at the time."""

import io
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, delete, select, update

from service.artifacts import Artifact, uploads
from service.artifacts.tables import artifact
from service.blobs import LocalBlobs, Stored
from service.blobs.sweep import condemn_strays, sweep
from service.blobs.tables import blob
from service.database import read, write
from service.principals import LOCAL
from service.settings import Settings
from tests.conformance.moves import World

CONTENT = b"three"


@pytest.fixture
def world(engine: Engine, settings: Settings) -> Iterator[World]:
    return World(engine, settings)


@pytest.fixture
def store(settings: Settings) -> LocalBlobs:
    return LocalBlobs(settings.blobs_dir)


def put(store: LocalBlobs) -> tuple[io.BytesIO, Stored]:
    file = io.BytesIO(CONTENT)
    return file, store.put(file)


def add(world: World, store: LocalBlobs, file: io.BytesIO, stored: Stored) -> Artifact:
    with write(world.engine) as conn:
        return uploads.add(
            conn, LOCAL, store, file, stored, kind="student-weights", name="mine.pth"
        )


def grow_old(world: World) -> None:
    with write(world.engine) as conn:
        conn.execute(update(blob).values(touched_at=1))


def test_an_upload_stays(world: World, store: LocalBlobs) -> None:
    made = add(world, store, *put(store))
    grow_old(world)
    condemn_strays(world.engine, store)
    assert sweep(world.engine, world.settings, store) == []
    assert store.verify(made.digest) == len(CONTENT)


def test_an_upload_of_what_is_about_to_be_deleted_stays(world: World, store: LocalBlobs) -> None:
    """Equal content was condemned before; the deletion comes before the row, or not at all."""
    first = add(world, store, *put(store))
    with write(world.engine) as conn:
        conn.execute(delete(artifact))
        conn.execute(update(blob).values(state="condemned"))
    file, stored = put(store)
    assert sweep(world.engine, world.settings, store) == [first.digest]
    assert store.head(first.digest) is None
    made = add(world, store, file, stored)
    assert store.verify(made.digest) == len(CONTENT)
    with write(world.engine) as conn:
        conn.execute(delete(artifact))
        conn.execute(update(blob).values(state="condemned"))
    made = add(world, store, *put(store))
    assert sweep(world.engine, world.settings, store) == []
    assert store.verify(made.digest) == len(CONTENT)
    with read(world.engine) as conn:
        assert conn.scalars(select(blob.c.state)).all() == ["stored"]
