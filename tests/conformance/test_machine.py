"""Any sequence of verbs by users, workers and the reaper keeps the rules."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from service import database, tables
from service.attempts import protocol
from service.attempts.leases import Lease
from service.database import read
from service.errors import CancelWon, Fenced, IllegalTransition
from service.jobs import Status, states
from service.jobs.states import Cause
from tests.conformance.moves import World
from tests.databases import make_template, sqlite_settings

OUTCOMES = ["failed", "crashed", "stalled", "drained", "paused", "cancelled", "expired"]


class Service(RuleBasedStateMachine):
    """Two jobs, every lease ever granted, and verbs in any order, mostly by the wrong holder."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        settings = sqlite_settings(self.template, self.folder)
        # Without a wait after failures, so that a claim finds whatever is queued.
        quick = settings.model_copy(update={"max_uncharged": 3, "retry_seconds": 0.0})
        self.world = World(database.create_engine(settings), quick)
        self.jobs = [self.world.submit(max_attempts=2) for _ in range(2)]
        self.leases: list[Lease] = []
        self.rows = self.look()

    def teardown(self) -> None:
        self.world.engine.dispose()
        shutil.rmtree(self.folder)

    @rule()
    def claim(self) -> None:
        claim = self.world.claim()
        queued = [row for row in self.rows.values() if row.status == Status.QUEUED]
        assert (claim is None) == (not queued)
        if claim is not None:
            assert claim.lease not in self.leases, "a number was used again"
            self.leases.append(claim.lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), verb=st.sampled_from(["renew", "progress", "begin", "publish"]))
    def act(self, data: st.DataObject, verb: str) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        before = self.rows[lease.job_id]
        try:
            match verb:
                case "renew":
                    self.world.renew(lease)
                case "progress":
                    self.world.progress(lease)
                case "begin":
                    protocol.begin_publishing(self.world.engine, lease)
                case "publish":
                    self.world.publish(lease)
        except Fenced:
            wrong = {"begin": Status.PUBLISHING, "publish": Status.RUNNING}.get(verb)
            assert not self.holds(lease) or before.status == wrong
            assert self.look() == self.rows
        except CancelWon:
            assert before.cancel_requested_at is not None
            assert self.look() == self.rows
        else:
            assert self.holds(lease)

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(OUTCOMES),
        charged=st.booleans(),
        retry=st.booleans(),
    )
    def release(self, data: st.DataObject, outcome: str, charged: bool, retry: bool) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = self.holds(lease)
        try:
            self.world.release(lease, outcome, charged=charged, retry=retry)
        except Fenced:
            assert not held
        else:
            assert held

    @rule(which=st.integers(0, 1), verb=st.sampled_from(["cancel", "pause", "resume"]))
    def ask(self, which: int, verb: str) -> None:
        try:
            getattr(self.world, verb)(self.jobs[which])
        except IllegalTransition:
            assert self.look() == self.rows

    @rule(which=st.integers(0, 1), sleep=st.booleans())
    def time_passes(self, which: int, sleep: bool) -> None:
        self.world.expire(self.jobs[which])
        self.world.reap(last_tick=1 if sleep else None)

    @invariant()
    def the_rules_hold(self) -> None:
        rows = self.look()
        for job_id, row in rows.items():
            before, status = self.rows[job_id], Status(row.status)
            if before.status != row.status:
                steps = [states.may(Status(before.status), status, cause) for cause in Cause]
                assert any(steps), (before.status, status)
                assert row.version > before.version
            assert row.version >= before.version
            assert row.lease_epoch >= before.lease_epoch
            assert (row.lease_epoch % 2 == 1) == (status in states.LEASED)
            assert (row.finished_at is not None) == (status in states.TERMINAL)
            assert row.attempts_charged <= row.max_attempts
            assert row.attempts_uncharged <= self.world.settings.max_uncharged + 1
            history = self.world.history(job_id)
            assert [event.seq for event in history] == list(range(1, row.last_seq + 1))
            ends = [e for e in history if e.type in {f"job.{s}" for s in states.TERMINAL}]
            assert len(ends) == (status in states.TERMINAL)
        leased = sum(row.status in states.LEASED for row in rows.values())
        assert self.world.running() == leased
        self.rows = rows

    def holds(self, lease: Lease) -> bool:
        row = self.rows[lease.job_id]
        return row.lease_epoch == lease.epoch and row.status in states.LEASED

    def look(self) -> dict[str, object]:
        with read(self.world.engine) as conn:
            return {row.id: row for row in conn.execute(select(tables.job))}


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> type[Service]:
    Service.template = make_template(tmp_path_factory.mktemp("machine"))
    return Service


def test_any_sequence_of_verbs_keeps_the_rules(machine: type[Service]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]  # hypothesis leaves it untyped
        machine, settings=examples(max_examples=25, stateful_step_count=30)
    )
