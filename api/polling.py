"""Live events: one poller for the whole process, however many are watching.

Owns the waiting. One query a tick reads `last_seq` of the jobs somebody watches; only a job that
moved is read, once, and its events are kept in a short tail that all its watchers share. A watcher
has no queue of its own to overflow: it has a position, and one that fell behind the tail reads the
database again. Must not know HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from service.events import Event

log = logging.getLogger("rome.api")

# A watcher sees an event at most this much later than it was committed.
TICK_SECONDS = 0.2
# Events kept per watched job: over a minute of progress at one a second.
TAIL = 100
PAGE = 500

TERMINAL = frozenset({"job.succeeded", "job.failed", "job.cancelled", "job.expired"})


@dataclass(frozen=True)
class Source:
    """What the poller reads; both may block and are called in a thread."""

    last_seqs: Callable[[Sequence[str]], Mapping[str, int]]
    after: Callable[[str, int, int], Sequence[Event]]  # (job id, seq, limit)


@dataclass
class _Topic:
    """A watched job: the newest number known, the newest events, and a bell for its watchers."""

    seen: int | None = None
    tail: deque[Event] = field(default_factory=lambda: deque(maxlen=TAIL))
    watchers: int = 0
    bell: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        self.bell.set()
        self.bell = asyncio.Event()

    def after(self, seq: int) -> list[Event] | None:
        """The events that follow `seq`; None when the tail does not reach back that far."""
        if self.seen is not None and self.seen <= seq:
            return []
        if not self.tail or self.tail[0].seq > seq + 1:
            return None
        return [event for event in self.tail if event.seq > seq]


class Poller:
    """Use as an async context manager around the life of the application."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._topics: dict[str, _Topic] = {}
        self._wanted = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Poller:
        self._task = asyncio.create_task(self._run(), name="event poller")
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def close(self) -> None:
        """End every stream; watchers come back to the next process with their last number."""
        self._closed = True
        for topic in self._topics.values():
            topic.ring()

    async def follow(self, job_id: str, seq: int) -> AsyncGenerator[Event]:
        """Events after `seq`, each once and in order, until the terminal one or `close`."""
        topic = self._topics.setdefault(job_id, _Topic())
        topic.watchers += 1
        self._wanted.set()
        try:
            while not self._closed:
                bell = topic.bell
                events = topic.after(seq)
                if events is None:
                    events = list(await asyncio.to_thread(self.source.after, job_id, seq, PAGE))
                for event in events:
                    yield event
                    seq = event.seq
                    if event.type in TERMINAL:
                        return
                if not events:
                    await bell.wait()
        finally:
            topic.watchers -= 1
            if not topic.watchers:
                self._topics.pop(job_id, None)

    async def _run(self) -> None:
        while not self._closed:
            await self._wanted.wait()
            try:
                await self._look()
            except Exception:  # a poll that failed is tried again; the poller must outlive it
                log.exception("polling for events failed; trying again")
                await asyncio.sleep(5 * TICK_SECONDS)
            if self._topics:
                await asyncio.sleep(TICK_SECONDS)
            else:
                self._wanted.clear()

    async def _look(self) -> None:
        watched = sorted(self._topics)
        if not watched:
            return
        newest = await asyncio.to_thread(self.source.last_seqs, watched)
        for job_id in watched:
            topic = self._topics.get(job_id)
            if topic is None or job_id not in newest or newest[job_id] == topic.seen:
                continue
            if topic.seen is None:
                # Its first watcher is reading the past already.
                topic.seen = newest[job_id]
            else:
                events = await asyncio.to_thread(self.source.after, job_id, topic.seen, PAGE)
                topic.tail.extend(events)
                topic.seen = events[-1].seq if events else topic.seen
            topic.ring()
