"""Only what nobody needs is deleted, and a put beside the sweep keeps its bytes."""

import os
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select, update

from service.attempts import protocol
from service.attempts.leases import Lease
from service.blobs import LocalBlobs
from service.blobs import sweep as sweeper
from service.blobs.sweep import condemn_strays, sweep
from service.blobs.tables import blob, blob_pin
from service.database import read, write
from service.settings import Settings
from tests.conformance.moves import World, synthetic_set

CONTENT = b"three"


@pytest.fixture
def world(engine: Engine, settings: Settings) -> Iterator[World]:
    return World(engine, settings)


@pytest.fixture
def store(settings: Settings) -> LocalBlobs:
    return LocalBlobs(settings.blobs_dir)


def pinned(world: World, store: LocalBlobs) -> tuple[Lease, str]:
    """A lease in the middle of publishing one blob."""
    world.submit()
    lease = world.lease()
    protocol.begin_publishing(world.engine, lease)
    digest = store.put(CONTENT).digest
    protocol.pin(world.engine, lease, digest, len(CONTENT))
    return lease, digest


def grow_old(world: World) -> None:
    with write(world.engine) as conn:
        conn.execute(update(blob).values(touched_at=1))
        conn.execute(update(blob_pin).values(expires_at=1))


def states(world: World) -> list[str]:
    with read(world.engine) as conn:
        return list(conn.scalars(select(blob.c.state)))


def test_a_published_blob_stays(world: World, store: LocalBlobs) -> None:
    lease, digest = pinned(world, store)
    output = synthetic_set(digest=digest, size=len(CONTENT))
    world.publish(lease, [output])
    grow_old(world)
    assert sweep(world.engine, world.settings, store) == []
    assert store.head(digest) == len(CONTENT)
    assert states(world) == ["stored"]


def test_a_pinned_blob_stays_as_long_as_its_lease_even_a_late_one(
    world: World, store: LocalBlobs
) -> None:
    lease, digest = pinned(world, store)
    grow_old(world)
    world.expire(lease.job_id)
    assert sweep(world.engine, world.settings, store) == []
    world.publish(lease, [synthetic_set(digest=digest, size=len(CONTENT))])


def test_what_an_attempt_left_behind_goes_after_a_while(world: World, store: LocalBlobs) -> None:
    lease, digest = pinned(world, store)
    world.release(lease, "drained", charged=False)
    with read(world.engine) as conn:
        assert conn.execute(select(blob_pin)).all() == [], "a pin ends with its lease"
    assert sweep(world.engine, world.settings, store) == [], "younger than the grace"
    grow_old(world)
    assert sweep(world.engine, world.settings, store) == [digest]
    assert store.head(digest) is None
    assert states(world) == []
    assert sweep(world.engine, world.settings, store) == []


def test_a_pin_between_mark_and_deletion_saves_the_blob(
    world: World, store: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, digest = pinned(world, store)
    world.release(lease, "drained", charged=False)
    grow_old(world)
    again = world.lease()
    real = sweeper._condemned

    def pin_first(engine: Engine) -> list[str]:
        found = real(engine)
        assert states(world) == ["condemned"]
        protocol.pin(engine, again, digest, len(CONTENT))
        return found

    monkeypatch.setattr(sweeper, "_condemned", pin_first)
    assert sweep(world.engine, world.settings, store) == []
    assert (states(world), store.head(digest)) == (["pending"], len(CONTENT))


def test_a_pin_after_the_deletion_makes_a_new_row(world: World, store: LocalBlobs) -> None:
    lease, digest = pinned(world, store)
    world.release(lease, "drained", charged=False)
    grow_old(world)
    sweep(world.engine, world.settings, store)
    again = world.lease()
    protocol.begin_publishing(world.engine, again)
    protocol.pin(world.engine, again, digest, len(CONTENT))
    store.put(CONTENT)
    world.publish(again, [synthetic_set(digest=digest, size=len(CONTENT))])
    assert (states(world), store.verify(digest)) == (["stored"], len(CONTENT))


def test_a_crash_while_deleting_is_made_good_by_the_next_sweep(
    world: World, store: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, digest = pinned(world, store)
    world.release(lease, "drained", charged=False)
    grow_old(world)
    real = store.delete

    def die_after(name: str) -> None:
        real(name)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "delete", die_after)
    with pytest.raises(KeyboardInterrupt):
        sweep(world.engine, world.settings, store)
    assert (states(world), store.head(digest)) == (["condemned"], None)
    monkeypatch.setattr(store, "delete", real)
    assert sweep(world.engine, world.settings, store) == [digest]


def test_a_renewal_keeps_the_pins_alive(world: World, store: LocalBlobs) -> None:
    lease, _ = pinned(world, store)
    grow_old(world)
    world.renew(lease)
    with read(world.engine) as conn:
        assert (conn.scalar(select(blob_pin.c.expires_at)) or 0) > 1


def test_files_without_a_row_go_after_a_day(world: World, store: LocalBlobs) -> None:
    """A put that outlives its lease and the sweep leaves one."""
    stray, fresh = (store.put(content).digest for content in (b"stray", b"fresh"))
    _, pending = pinned(world, store)
    for digest in (stray, pending):
        os.utime(store.path(digest), (1, 1))
    condemn_strays(world.engine, store)
    assert sweep(world.engine, world.settings, store) == [stray]
    assert sorted(store.list()) == sorted([fresh, pending])
