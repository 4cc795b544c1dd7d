"""Feeds of finished samples: each client its own, woken at once, acknowledged by cursor."""

from __future__ import annotations

import asyncio
import time

from tinsmith.server.completions import CLONE_STRIDE, CompletionFeeds


async def test_a_waiting_client_is_woken_by_its_own_completions_only() -> None:
    feeds = CompletionFeeds(keep_s=60)
    first = asyncio.create_task(feeds.wait("s", 0, after=0, hold_s=30))
    clone = asyncio.create_task(feeds.wait("s", 7, after=0, hold_s=30))
    await asyncio.sleep(0.01)
    started = time.perf_counter()
    feeds.add("s", 7 * CLONE_STRIDE + 3, "r-7", 10)
    found, cursor = await clone
    assert time.perf_counter() - started < 0.05
    assert [(event.request_id, event.size_bytes) for event in found] == [("r-7", 10)]
    assert cursor == found[-1].cursor
    assert not first.done()
    feeds.close()
    assert await first == ([], 0)


async def test_events_come_again_until_they_are_acknowledged() -> None:
    feeds = CompletionFeeds(keep_s=60)
    for number in range(3):
        feeds.add("s", number, f"r-{number}", None)
    told, last = await feeds.wait("s", 0, after=0, hold_s=0)
    names = ["r-0", "r-1", "r-2"]
    for after, expected in ((0, names), (0, names), (told[1].cursor, ["r-2"])):
        found, cursor = await feeds.wait("s", 0, after=after, hold_s=0)
        assert [event.request_id for event in found] == expected
        assert cursor == last
    assert await feeds.wait("s", 0, after=last, hold_s=0.01) == ([], last)


async def test_what_finished_before_a_client_of_an_earlier_process_asks_is_told() -> None:
    earlier = CompletionFeeds(keep_s=60)
    for number in range(3):
        earlier.add("s", number, f"r-{number}", 1)
    _, seen = await earlier.wait("s", 0, after=0, hold_s=0)
    feeds = CompletionFeeds(keep_s=60)
    feeds.add("s", 3, "r-3", 1)
    found, cursor = await feeds.wait("s", 0, after=seen, hold_s=0)
    assert [event.request_id for event in found] == ["r-3"]
    assert cursor > seen


async def test_old_events_and_finished_sessions_are_forgotten() -> None:
    feeds = CompletionFeeds(keep_s=0.01)
    feeds.add("s", 0, "old", 1)
    await asyncio.sleep(0.03)
    feeds.add("s", 1, "new", 1)
    found, _ = await feeds.wait("s", 0, after=0, hold_s=0)
    assert [event.request_id for event in found] == ["new"]
    waiting = asyncio.create_task(feeds.wait("s", 0, after=found[0].cursor, hold_s=30))
    await asyncio.sleep(0.01)
    feeds.forget({"s"})
    assert await waiting == ([], found[0].cursor)
