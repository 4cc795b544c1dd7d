import asyncio
import math
import threading
import time
from typing import Any

import pytest

from tinsmith.client.futures import APIFuture, ClientFuture, start
from tinsmith.client.gathering import gather
from tinsmith.client.loop import loop_thread, run_in_daemon_thread
from tinsmith.core.errors import UserError


async def soon(value: object = 7) -> object:
    await asyncio.sleep(0.01)
    return value


def test_a_plain_script_waits_with_result() -> None:
    future = start(soon, "work")
    assert future.result(5) == 7
    assert future.result() == 7
    assert future.done()
    assert repr(future) == "<APIFuture of work: done>"


async def test_async_code_awaits_any_number_of_times() -> None:
    future = start(soon, "work")
    assert [await future, await future, await future.result_async(5)] == [7, 7, 7]
    assert await asyncio.gather(future, start(soon, "other")) == [7, 7]
    assert await asyncio.create_task(future.coroutine()) == 7


async def test_result_works_inside_a_foreign_running_loop() -> None:
    assert start(soon, "work").result(5) == 7


def test_result_on_the_sdks_own_loop_is_refused_instead_of_hanging() -> None:
    async def blocks() -> object:
        return start(soon, "inner").result()

    with pytest.raises(RuntimeError, match="inner: result\\(\\) would block"):
        start(blocks, "outer").result(5)


def test_a_finished_future_may_be_read_on_the_sdks_own_loop() -> None:
    inner = start(soon, "inner")
    inner.result()

    async def reads() -> object:
        return inner.result()

    assert start(reads, "outer").result(5) == 7


async def test_a_timeout_leaves_the_work_going() -> None:
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    future = start(work, "slow work")
    with pytest.raises(TimeoutError, match=r"slow work: no result after timeout=0.02 s"):
        future.result(0.02)
    with pytest.raises(TimeoutError, match="slow work"):
        await future.result_async(0.02)
    loop_thread().loop.call_soon_threadsafe(release.set)
    assert await future.result_async(5) == "done"


@pytest.mark.parametrize("wrong", ["x", True, math.nan])
async def test_a_timeout_that_is_no_number_is_refused_by_name(wrong: Any) -> None:
    future = start(soon, "work")
    with pytest.raises(UserError, match=r"timeout=.*: must be a number of seconds"):
        future.result(wrong)
    with pytest.raises(UserError, match=r"timeout=.*: must be a number of seconds"):
        await future.result_async(wrong)
    assert await future == 7


def test_a_failure_is_raised_as_it_is_also_when_it_is_a_timeout() -> None:
    async def fails() -> None:
        raise TimeoutError("the call's own")

    with pytest.raises(TimeoutError, match="the call's own"):
        start(fails, "work").result(5)


async def test_cancelling_the_awaiting_task_cancels_the_work() -> None:
    seen = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.set()

    future = start(work, "work")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(future, 0.02)
    assert seen.wait(5)
    assert future.done()
    assert "cancelled" in repr(future)


class Client:
    name = "client"

    def greet(self) -> str:
        return "hello"


async def test_a_client_future_is_awaited_waited_for_or_used_at_once() -> None:
    client = Client()

    async def make() -> Client:
        await asyncio.sleep(0.01)
        return client

    future = ClientFuture(start(make, "create").future(), "create")
    assert future.greet() == "hello"
    assert future.name == "client"
    assert future.result() is client
    assert await future is client
    assert isinstance(future, APIFuture)
    with pytest.raises(AttributeError):
        _ = future.nothing
    with pytest.raises(AttributeError):
        _ = future._private  # never waits: copy and pickle ask for such names


def test_calls_begin_in_the_order_they_were_started() -> None:
    seen: list[int] = []

    async def note(i: int) -> None:
        seen.append(i)

    futures = [start(lambda i=i: note(i), "note") for i in range(50)]
    for future in futures:
        future.result(5)
    assert seen == list(range(50))


async def test_gather_raises_the_first_failure_and_cancels_the_rest() -> None:
    is_cancelled = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            is_cancelled.set()
            raise

    async def fails() -> None:
        await asyncio.sleep(0.01)
        raise KeyError("x")

    with pytest.raises(KeyError):
        await gather([waits(), fails()])
    await asyncio.wait_for(is_cancelled.wait(), 5)


async def test_blocking_work_runs_beside_the_loop() -> None:
    def work() -> str:
        time.sleep(0.02)
        return threading.current_thread().name

    assert await run_in_daemon_thread(work) == "tinsmith-blocking"

    def fails() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await run_in_daemon_thread(fails)
