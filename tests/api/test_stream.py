"""Server-sent events through a real server, and the poller under a microscope."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing

import httpx2

from api.polling import TAIL, Poller, Source
from service.events import Event
from tests.api.conftest import Service, submit


def test_a_stream_replays_then_follows_to_the_end(live: httpx2.Client, service: Service) -> None:
    job = submit(live)
    seen = []
    with live.sse(f"/v1/jobs/{job['id']}/stream") as source:
        lease = None
        for message in source:
            if not message.data:
                continue
            seen.append((message.id, message.event))
            # Each step is taken only after its forerunner was seen, so nothing is replayed.
            if message.event == "job.queued":
                lease = service.claim()
            elif message.event == "job.started":
                assert lease is not None
                service.report(lease, 1)
            elif message.event == "job.progress":
                assert lease is not None
                service.publish(lease, {})
    assert seen == [
        ("1", "job.queued"),
        ("2", "job.started"),
        ("3", "job.progress"),
        ("4", "job.publishing"),
        ("5", "job.succeeded"),
    ]


def test_a_stream_goes_on_after_the_last_event_seen(live: httpx2.Client, service: Service) -> None:
    job = submit(live)
    service.publish(service.claim(), {})
    path = f"/v1/jobs/{job['id']}/stream"
    with live.sse(path, headers={"Last-Event-ID": "2"}) as source:
        assert [message.id for message in source if message.data] == ["3", "4"]
    with live.sse(path, params={"after": 3}) as source:
        assert [message.id for message in source if message.data] == ["4"]
    with live.sse(path, headers={"Last-Event-ID": "4"}) as source:
        assert [message for message in source if message.data] == []


def test_a_number_beyond_the_newest_misses_no_end(live: httpx2.Client, service: Service) -> None:
    job = submit(live)
    lease = service.claim()
    path = f"/v1/jobs/{job['id']}/stream"
    seen = []
    with live.sse(path, headers={"Last-Event-ID": "999"}) as source:
        for message in source:
            if message.retry:  # the stream is open
                service.publish(lease, {})
            if message.data:
                seen.append(message.event)
    assert seen == ["job.publishing", "job.succeeded"]


def test_a_wrong_last_event_id_is_a_problem(live: httpx2.Client) -> None:
    job = submit(live)
    response = live.get(f"/v1/jobs/{job['id']}/stream", headers={"Last-Event-ID": "x"})
    assert (response.status_code, response.json()["code"]) == (422, "validation_failed")


class Log:
    """A job's events in memory, counting how often they are read."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.reads = 0
        self.failures = 0

    def add(self, count: int, type: str = "job.progress") -> None:
        for _ in range(count):
            self.events.append(Event("job_a", len(self.events) + 1, type, 0, None, {}))

    def last_seqs(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        if self.failures:
            self.failures -= 1
            raise OSError("the disk hiccups")
        return {"job_a": len(self.events)}

    def after(self, job_id: str, seq: int, limit: int) -> Sequence[Event]:
        self.reads += 1
        return self.events[seq : seq + limit]


async def _collect(poller: Poller, seq: int, into: list[int]) -> None:
    async with aclosing(poller.follow("job_a", seq)) as events:
        async for event in events:
            into.append(event.seq)  # noqa: PERF401  # the test looks at it while it grows


def test_many_watchers_share_one_read() -> None:
    async def scenario() -> None:
        log = Log()
        log.add(1)
        async with Poller(Source(log.last_seqs, log.after)) as poller:
            seen: list[list[int]] = [[] for _ in range(50)]
            watchers = [asyncio.create_task(_collect(poller, 0, into)) for into in seen]
            while any(len(into) < 1 for into in seen):
                await asyncio.sleep(0.01)
            replays = log.reads
            log.add(3)
            log.add(1, "job.succeeded")
            await asyncio.gather(*watchers)
            assert seen == [[1, 2, 3, 4, 5]] * 50
            # A watcher may have looked once more before the poller knew the job.
            assert log.reads - replays <= 51
            assert poller._topics == {}

    asyncio.run(scenario())


def test_a_watcher_behind_the_tail_reads_the_past_again() -> None:
    async def scenario() -> None:
        log = Log()
        log.add(1)
        async with Poller(Source(log.last_seqs, log.after)) as poller:
            seen: list[int] = []
            async with aclosing(poller.follow("job_a", 0)) as events:
                async for event in events:
                    seen.append(event.seq)
                    if event.seq == 1:
                        log.add(5 * TAIL)
                        log.add(1, "job.failed")
            assert seen == list(range(1, 5 * TAIL + 3))

    asyncio.run(scenario())


def test_the_poller_outlives_a_failing_database() -> None:
    async def scenario() -> None:
        log = Log()
        log.failures = 1
        async with Poller(Source(log.last_seqs, log.after)) as poller:
            seen: list[int] = []
            watcher = asyncio.create_task(_collect(poller, 0, seen))
            while log.failures:
                await asyncio.sleep(0.01)
            log.add(1, "job.succeeded")
            await watcher
            assert seen == [1]

    asyncio.run(scenario())


def test_closing_ends_every_stream() -> None:
    async def scenario() -> None:
        log = Log()
        async with Poller(Source(log.last_seqs, log.after)) as poller:
            watcher = asyncio.create_task(_collect(poller, 0, []))
            await asyncio.sleep(0)
            poller.close()
            await watcher

    asyncio.run(scenario())
