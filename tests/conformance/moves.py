"""What tests do to a service: short names for the protocol's verbs, and time made to pass.

Time passes by writing a lease's or a deadline's end into the past, never by sleeping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, func, insert, select, update

from service import artifacts, clock, events, jobs, tables
from service.attempts import protocol, reaper
from service.attempts.leases import Claim, Lease, Owner, Published
from service.database import insert_new, read, write
from service.jobs import Job, Status
from service.principals import LOCAL, Principal
from service.settings import Settings

BODY = {"kind": "distill", "method": "random", "dataset": "digits", "ipc": 1, "seed": 7}
OWNER = Owner("tester", "host", 1)
CPU = ("cpu",)
PAST = 1
DIGEST = "ab" * 32
STEP = {"phase": "distilling", "step": 1, "total": 9, "scalars": {"loss": 0.5}}


@dataclass
class World:
    engine: Engine
    settings: Settings

    def submit(self, principal: Principal = LOCAL, key: str | None = None, **fields: Any) -> str:
        with write(self.engine) as conn:
            made = jobs.submit(
                conn,
                principal,
                {**BODY, **fields},
                idempotency_key=key,
                settings=self.settings,
            )
        return made.job.id

    def project(self, name: str) -> Principal:
        with write(self.engine) as conn:
            row = {"id": f"prj_{name}", "name": name, "created_at": clock.now(conn)}
            insert_new(conn, tables.project, row)
        return Principal(f"prj_{name}", name)

    def claim(self, job_id: str | None = None, owner: Owner = OWNER) -> Claim | None:
        return protocol.claim(
            self.engine, self.settings, owner=owner, resource_classes=CPU, job_id=job_id
        )

    def lease(self, job_id: str | None = None) -> Lease:
        claim = self.claim(job_id)
        assert claim is not None
        return claim.lease

    def release(self, lease: Lease, outcome: str = "crashed", **how: Any) -> Status:
        told = {"reason": "told to", "charged": True, "retry": True, **how}
        return protocol.release(self.engine, self.settings, lease, outcome=outcome, **told)

    def publish(self, lease: Lease, outputs: Sequence[Published] = ()) -> None:
        protocol.publish(
            self.engine, lease, outputs=outputs, result={"clean": 0.5}, provenance={"seed": 7}
        )

    def finish(self, lease: Lease) -> None:
        """All the verbs of a success, with one artifact."""
        protocol.begin_publishing(self.engine, lease)
        protocol.pin(self.engine, lease, DIGEST, 3)
        self.publish(lease, [synthetic_set()])

    def renew(self, lease: Lease) -> protocol.Orders:
        return protocol.renew(self.engine, self.settings, lease)

    def progress(self, lease: Lease, **fields: Any) -> protocol.Orders:
        return protocol.progress(self.engine, self.settings, lease, {**STEP, **fields})

    def reap(self, last_tick: int | None = None) -> reaper.Report:
        return reaper.reap(self.engine, self.settings, last_tick=last_tick)

    def expire(self, job_id: str) -> None:
        """The lease's time passes."""
        with write(self.engine) as conn:
            conn.execute(
                update(tables.job)
                .where(tables.job.c.id == job_id, tables.job.c.lease_expires_at.is_not(None))
                .values(lease_expires_at=PAST)
            )

    def cancel(self, job_id: str, principal: Principal = LOCAL) -> Job:
        with write(self.engine) as conn:
            return jobs.request_cancel(conn, principal, job_id)

    def pause(self, job_id: str) -> Job:
        with write(self.engine) as conn:
            return jobs.request_pause(conn, LOCAL, job_id)

    def resume(self, job_id: str) -> Job:
        with write(self.engine) as conn:
            return jobs.resume(conn, LOCAL, job_id)

    def job(self, job_id: str, principal: Principal = LOCAL) -> Job:
        with read(self.engine) as conn:
            return jobs.get(conn, principal, job_id)

    def history(self, job_id: str, after: int = 0) -> list[events.Event]:
        with read(self.engine) as conn:
            return events.after(conn, LOCAL, job_id, after, 100_000)

    def types(self, job_id: str) -> list[str]:
        return [event.type for event in self.history(job_id)]

    def artifacts(self, job_id: str) -> list[artifacts.Artifact]:
        with read(self.engine) as conn:
            return artifacts.of_job(conn, LOCAL, job_id)

    def set_quota(self, max_running: int | None, project: str = LOCAL.project_id) -> None:
        with write(self.engine) as conn:
            conn.execute(
                update(tables.lane)
                .where(tables.lane.c.project_id == project)
                .values(max_running=max_running)
            )

    def running(self) -> int:
        """What the lanes believe."""
        with read(self.engine) as conn:
            return conn.scalar(select(func.sum(tables.lane.c.running))) or 0

    def everything(self) -> dict[str, list[Any]]:
        """Every row of every table, to see that something changed nothing."""
        with read(self.engine) as conn:
            return {
                table.name: sorted(map(repr, conn.execute(select(table))))
                for table in tables.metadata.sorted_tables
            }

    def add_artifact(
        self,
        job_id: str | None,
        kind: str = "synthetic-set",
        name: str | None = None,
        **metadata: Any,
    ) -> str:
        """An artifact as if that job had published it, or somebody uploaded it."""
        made = f"art_{name or kind}"
        with write(self.engine) as conn:
            now = clock.now(conn)
            digest = {"digest": DIGEST, "size": 3, "state": "stored", "touched_at": now}
            insert_new(conn, tables.blob, digest)
            conn.execute(
                insert(tables.artifact).values(
                    id=made,
                    project_id=LOCAL.project_id,
                    job_id=job_id,
                    name=name or kind,
                    kind=kind,
                    media_type="application/x-pytorch",
                    size=3,
                    digest=DIGEST,
                    metadata=metadata,
                    created_at=now,
                )
            )
        return made


def synthetic_set(**fields: Any) -> Published:
    given = {
        "name": "synthetic.pt",
        "kind": "synthetic-set",
        "media_type": "application/x-pytorch",
        "size": 3,
        "digest": DIGEST,
        "metadata": {"ipc": 1},
        **fields,
    }
    return Published(**given)
