import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tinsmith.client.loop import loop_thread
from tinsmith.client.turns import TurnOrder


class Lane:
    """A TurnOrder whose submissions and results are noted."""

    def __init__(self) -> None:
        self.order = TurnOrder()
        self.posted: list[int] = []

    def prepare(self, seq_ids: range) -> Callable[[], Coroutine[Any, Any, int]]:
        async def post() -> int:
            await asyncio.sleep(0.001 if seq_ids.start % 2 else 0)
            self.posted.extend(seq_ids)
            return seq_ids.start

        return post


async def collect(seq_id: int) -> int:
    return seq_id


def test_submissions_go_in_call_order() -> None:
    lane = Lane()
    futures = [lane.order.submit(i % 3 + 1, lane.prepare, collect, label="x") for i in range(30)]
    firsts = [future.result(5) for future in futures]
    assert lane.posted == list(range(1, 61))
    assert firsts == sorted(firsts)


def test_a_turn_passes_when_the_submission_returned_not_when_the_work_is_done() -> None:
    lane = Lane()
    release = asyncio.Event()

    async def slow(seq_id: int) -> int:
        await release.wait()
        return seq_id

    first = lane.order.submit(1, lane.prepare, slow, label="forward_backward")
    second = lane.order.submit(1, lane.prepare, collect, label="optim_step")
    assert second.result(5) == 2
    assert not first.done()
    loop_thread().loop.call_soon_threadsafe(release.set)
    assert first.result(5) == 1


def test_numbers_are_distinct_and_in_order_of_submission_from_many_threads() -> None:
    lane = Lane()
    with ThreadPoolExecutor(8) as pool:
        futures = list(
            pool.map(lambda _: lane.order.submit(1, lane.prepare, collect, label="x"), range(100))
        )
    assert sorted(future.result(5) for future in futures) == list(range(1, 101))
    assert lane.posted == list(range(1, 101))


def test_what_cannot_be_prepared_uses_up_no_number() -> None:
    lane = Lane()

    def refuse(seq_ids: range) -> Callable[[], Coroutine[Any, Any, int]]:
        raise ValueError("bad datum")

    with pytest.raises(ValueError, match="bad datum"):
        lane.order.submit(3, refuse, collect, label="x")
    assert lane.order.submit(1, lane.prepare, collect, label="x").result(5) == 1


def test_a_cancelled_call_is_submitted_all_the_same() -> None:
    lane = Lane()
    for _ in range(20):
        lane.order.submit(1, lane.prepare, collect, label="x").cancel()
    assert lane.order.submit(1, lane.prepare, collect, label="x").result(5) == 21
    assert lane.posted == list(range(1, 22))


def test_a_failed_submission_fails_its_call_only() -> None:
    lane = Lane()

    def prepare(seq_ids: range) -> Callable[[], Coroutine[Any, Any, int]]:
        async def post() -> int:
            raise ConnectionError("dropped")

        return post

    failed = lane.order.submit(1, prepare, collect, label="x")
    after = lane.order.submit(1, lane.prepare, collect, label="x")
    with pytest.raises(ConnectionError):
        failed.result(5)
    assert after.result(5) == 2
