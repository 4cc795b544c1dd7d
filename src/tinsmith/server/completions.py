"""Finished samples by sampling session, for clients that wait for many results in one request.

Each client of a sampling session (the first one and its clones) has a feed of what finished, with
a cursor. A client acknowledges what it has seen by the cursor it asks from. Events are kept as long
as results are.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

CLONE_STRIDE = 10**9
"""Sequence numbers of a clone begin at its number times this."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished request."""

    cursor: int
    request_id: str
    size_bytes: int | None
    """Of the result; None when the request failed."""
    at_s: float


@dataclass(slots=True)
class _Feed:
    cursor: int = field(default_factory=lambda: time.time_ns() // 1000)
    """Begins at the clock, in microseconds: above every cursor that an earlier process gave."""
    events: deque[Completion] = field(default_factory=deque[Completion])
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, request_id: str, size_bytes: int | None, at_s: float) -> None:
        """Appends an event."""
        self.cursor += 1
        self.events.append(Completion(self.cursor, request_id, size_bytes, at_s))


class CompletionFeeds:
    """The feeds of all sampling sessions. Lives on the event loop."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._feeds: dict[tuple[str, int], _Feed] = {}
        self._inherited: dict[str, list[tuple[str, int | None]]] = {}
        self._closed = False

    def add(self, sampler_id: str, seq_id: int, request_id: str, size_bytes: int | None) -> None:
        """Notes that a request finished, and wakes its client."""
        feed = self._feed(sampler_id, seq_id // CLONE_STRIDE)
        now_s = asyncio.get_running_loop().time()
        while feed.events and feed.events[0].at_s < now_s - self._keep_s:
            feed.events.popleft()
        feed.add(request_id, size_bytes, now_s)
        feed.news.set()

    def inherit(self, sampler_id: str, request_id: str, size_bytes: int | None) -> None:
        """Notes what became of a request in an earlier process.

        Which client's it was is not known: each of the sampler's is told of it.
        """
        self._inherited.setdefault(sampler_id, []).append((request_id, size_bytes))

    def _feed(self, sampler_id: str, clone_id: int) -> _Feed:
        feed = self._feeds.get((sampler_id, clone_id))
        if feed is None:
            feed = self._feeds[sampler_id, clone_id] = _Feed()
            now_s = asyncio.get_running_loop().time()
            for request_id, size_bytes in self._inherited.get(sampler_id, ()):
                feed.add(request_id, size_bytes, now_s)
        return feed

    async def wait(
        self, sampler_id: str, clone_id: int, *, after: int, hold_s: float
    ) -> tuple[list[Completion], int]:
        """Completions after a cursor, at once or when the first comes; and the new cursor.

        Those up to the cursor count as seen and are dropped.
        """
        feed = self._feed(sampler_id, clone_id)
        while feed.events and feed.events[0].cursor <= after:
            feed.events.popleft()
        if not feed.events and hold_s > 0 and not self._closed:
            feed.news.clear()
            try:
                async with asyncio.timeout(hold_s):
                    await feed.news.wait()
            except TimeoutError:
                return [], after
        found = [event for event in feed.events if event.cursor > after]
        return found, found[-1].cursor if found else after

    def forget(self, sampler_ids: set[str]) -> None:
        """Drops the feeds of sampling sessions that are over."""
        for sampler_id in sampler_ids:
            self._inherited.pop(sampler_id, None)
        for key in [key for key in self._feeds if key[0] in sampler_ids]:
            self._feeds.pop(key).news.set()

    def close(self) -> None:
        """Wakes everyone who waits."""
        self._closed = True
        for feed in self._feeds.values():
            feed.news.set()
