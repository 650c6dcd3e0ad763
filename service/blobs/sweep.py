"""Deletes blobs that nobody needs: no artifact names them and no living lease pins them.

First a mark, by conditional update; then, blob by blob, the deletion in a transaction that checks
the mark again and holds the row while the bytes go. A pin that comes between takes the mark away,
one that comes during waits and then finds no row; both put anew.
"""

from sqlalchemy import Engine, and_, delete, exists, select, update

from service import clock
from service.artifacts.tables import artifact
from service.blobs.store import BlobStore, LocalBlobs
from service.blobs.tables import blob, blob_pin
from service.clock import SECOND
from service.database import insert_new, read, write
from service.jobs.tables import job
from service.settings import Settings

BATCH = 200


def sweep(engine: Engine, settings: Settings, store: BlobStore) -> list[str]:
    """One pass; the digests that were deleted. Safe beside others, and to repeat after a crash."""
    _mark(engine, settings)
    return [digest for digest in _condemned(engine) if _delete(engine, store, digest)]


def condemn_strays(engine: Engine, store: LocalBlobs) -> None:
    """Give old files without a row a condemned one, so that the next sweep deletes them.

    A put that outlives its lease and the sweep leaves such a file. A pin makes the row before its
    put makes the file, so what is old and has no row is nobody's.
    """
    with read(engine) as conn:
        known = set(conn.scalars(select(blob.c.digest)))
    for digest in set(store.list_stale()) - known:
        with write(engine) as conn:
            row = {"digest": digest, "size": 0, "state": "condemned", "touched_at": clock.now(conn)}
            insert_new(conn, blob, row)


def _mark(engine: Engine, settings: Settings) -> None:
    with write(engine) as conn:
        now = clock.now(conn)
        # A lease may outlive its expiry until the reaper comes; its pins live as long.
        held = exists().where(job.c.id == blob_pin.c.job_id, job.c.lease_epoch == blob_pin.c.epoch)
        conn.execute(delete(blob_pin).where(blob_pin.c.expires_at < now, ~held))
        before = now - round(settings.blob_grace_seconds * SECOND)
        conn.execute(
            update(blob)
            .where(
                and_(
                    blob.c.state != "condemned",
                    blob.c.touched_at < before,
                    ~exists().where(artifact.c.digest == blob.c.digest),
                    ~exists().where(blob_pin.c.digest == blob.c.digest),
                )
            )
            .values(state="condemned", touched_at=now)
        )


def _condemned(engine: Engine) -> list[str]:
    with read(engine) as conn:
        query = select(blob.c.digest).where(blob.c.state == "condemned").limit(BATCH)
        return list(conn.scalars(query))


def _delete(engine: Engine, store: BlobStore, digest: str) -> bool:
    with write(engine) as conn:
        gone = conn.execute(
            delete(blob).where(blob.c.digest == digest, blob.c.state == "condemned")
        )
        if gone.rowcount == 0:
            return False
        store.delete(digest)  # before the commit: a crash here leaves the mark, not the bytes
        return True
