import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tinsmith.client.loop import loop_thread
from tinsmith.client.turns import TakeSeqIds, TurnOrder, undisturbed


class Lane:
    """A TurnOrder whose submissions and results are noted."""

    def __init__(self) -> None:
        self.order = TurnOrder()
        self.posted: list[int] = []

    def post(self, count: int) -> Callable[[TakeSeqIds], Coroutine[Any, Any, int]]:
        async def post(take: TakeSeqIds) -> int:
            seq_ids = take(count)
            await asyncio.sleep(0.001 if seq_ids.start % 2 else 0)
            self.posted.extend(seq_ids)
            return seq_ids.start

        return post


async def collect(seq_id: int) -> int:
    return seq_id


def test_submissions_go_in_call_order() -> None:
    lane = Lane()
    futures = [lane.order.submit(lane.post(i % 3 + 1), collect, label="x") for i in range(30)]
    firsts = [future.result(5) for future in futures]
    assert lane.posted == list(range(1, 61))
    assert firsts == sorted(firsts)


def test_a_turn_passes_when_the_submission_returned_not_when_the_work_is_done() -> None:
    lane = Lane()
    release = asyncio.Event()

    async def slow(seq_id: int) -> int:
        await release.wait()
        return seq_id

    first = lane.order.submit(lane.post(1), slow, label="forward_backward")
    second = lane.order.submit(lane.post(1), collect, label="optim_step")
    assert second.result(5) == 2
    assert not first.done()
    loop_thread().loop.call_soon_threadsafe(release.set)
    assert first.result(5) == 1


def test_numbers_are_distinct_and_in_order_of_submission_from_many_threads() -> None:
    lane = Lane()
    with ThreadPoolExecutor(8) as pool:
        futures = list(
            pool.map(lambda _: lane.order.submit(lane.post(1), collect, label="x"), range(100))
        )
    assert sorted(future.result(5) for future in futures) == list(range(1, 101))
    assert lane.posted == list(range(1, 101))


def test_a_turn_that_fails_before_it_sends_uses_up_no_number() -> None:
    lane = Lane()

    async def refuse(take: TakeSeqIds) -> int:
        raise ValueError("no gradient")

    failed = lane.order.submit(refuse, collect, label="x")
    assert lane.order.submit(lane.post(1), collect, label="x").result(5) == 1
    with pytest.raises(ValueError, match="no gradient"):
        failed.result(5)


def test_a_turn_that_may_be_abandoned_ends_with_its_future_and_keeps_the_order() -> None:
    lane = Lane()
    is_sending = threading.Event()

    async def send(take: TakeSeqIds) -> int:
        first = take(1).start
        is_sending.set()
        await asyncio.sleep(0.05)
        lane.posted.append(first)
        return first

    async def post(take: TakeSeqIds) -> int:
        await undisturbed(send(take))
        return await lane.post(1)(take)

    before = lane.order.submit(lane.post(1), collect, label="x")
    abandoned = lane.order.submit(post, collect, label="x", may_be_abandoned=True)
    after = lane.order.submit(lane.post(1), collect, label="x")
    assert is_sending.wait(5)
    assert abandoned.cancel()
    assert (before.result(5), after.result(5)) == (1, 3)
    assert lane.posted == [1, 2, 3]


def test_a_turn_that_is_abandoned_before_it_began_lets_nobody_overtake() -> None:
    lane = Lane()
    release = asyncio.Event()

    async def slow(take: TakeSeqIds) -> int:
        await release.wait()
        return await lane.post(1)(take)

    first = lane.order.submit(slow, collect, label="x")
    lane.order.submit(lane.post(1), collect, label="x", may_be_abandoned=True).cancel()
    third = lane.order.submit(lane.post(1), collect, label="x")
    with pytest.raises(TimeoutError):
        third.result(0.1)
    loop_thread().loop.call_soon_threadsafe(release.set)
    assert (first.result(5), third.result(5)) == (1, 2)


def test_a_cancelled_call_is_submitted_all_the_same() -> None:
    lane = Lane()
    for _ in range(20):
        lane.order.submit(lane.post(1), collect, label="x").cancel()
    assert lane.order.submit(lane.post(1), collect, label="x").result(5) == 21
    assert lane.posted == list(range(1, 22))


def test_a_failed_submission_fails_its_call_only() -> None:
    lane = Lane()

    async def post(take: TakeSeqIds) -> int:
        take(1)
        raise ConnectionError("dropped")

    failed = lane.order.submit(post, collect, label="x")
    after = lane.order.submit(lane.post(1), collect, label="x")
    with pytest.raises(ConnectionError):
        failed.result(5)
    assert after.result(5) == 2
