from sqlalchemy import update

from service.attempts import protocol
from service.database import write
from service.jobs.tables import job
from tests.chaos.house import House
from worker import scratch
from worker.reaper import Reaper
from worker.supervisor import here


def leave_behind(house: House) -> str:
    """A job whose worker took the lease and was never seen again."""
    job_id = house.submit()
    claim = protocol.claim(
        house.engine, house.settings, owner=here(), resource_classes=["cpu"], job_id=job_id
    )
    assert claim is not None
    scratch.make(scratch.attempt_folder(house.settings.scratch_dir, job_id, claim.lease.epoch))
    with write(house.engine) as conn:
        conn.execute(update(job).where(job.c.id == job_id).values(lease_expires_at=1))
    return job_id


def test_a_lost_lease_goes_back_to_the_queue_and_keeps_its_scratch(house: House) -> None:
    job_id = leave_behind(house)
    Reaper(house.engine, house.settings, house.blobs).tick()
    assert house.job(job_id).status == "queued"
    assert house.attempts(job_id)[0].outcome == "lost"
    assert (house.settings.scratch_dir / job_id).is_dir()


def test_scratch_of_an_ended_job_is_removed(house: House) -> None:
    job_id = leave_behind(house)
    reaper = Reaper(house.engine, house.settings, house.blobs)
    reaper.tick()
    house.cancel(job_id)
    reaper.tick()
    assert not (house.settings.scratch_dir / job_id).exists()


def test_after_a_sleep_of_the_host_one_tick_is_left_out(house: House) -> None:
    reaper = Reaper(house.engine, house.settings, house.blobs)
    reaper.tick()
    assert reaper._looked_at is not None
    reaper._looked_at -= 3_600_000_000
    job_id = leave_behind(house)
    reaper.tick()
    assert house.job(job_id).status == "running"
    reaper.tick()
    assert house.job(job_id).status == "queued"
