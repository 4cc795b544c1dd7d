"""Futures: waiters wake at once, results can be fetched again, expiry needs no tick."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tinsmith.core.errors import ServerError, UserError
from tinsmith.server.errors import GoneError, MissingError, RequestError
from tinsmith.server.futures import OPEN_ROW_WAIT_S, FutureStore, Outcome
from tinsmith.server.metadata.writes import Row


def make_store(*, keep_s: float = 60.0, max_bytes: int = 2**20) -> FutureStore:
    return FutureStore(keep_s=keep_s, max_bytes=max_bytes)


async def test_a_waiter_wakes_at_once_when_the_result_comes() -> None:
    store = make_store()
    request_id = store.create()
    waiters = [asyncio.create_task(store.wait(request_id, 30.0)) for _ in range(3)]
    await asyncio.sleep(0.02)
    started = time.perf_counter()
    store.complete(request_id, Outcome(b"{}"))
    results = await asyncio.gather(*waiters)
    assert time.perf_counter() - started < 0.05
    assert results == [Outcome(b"{}")] * 3


async def test_a_pending_future_is_none_after_the_hold() -> None:
    store = make_store()
    request_id = store.create()
    assert await store.wait(request_id, 0.02) is None
    assert await store.wait(request_id, 0.0) is None


async def test_a_result_can_be_fetched_again_and_is_never_replaced() -> None:
    store = make_store()
    request_id = store.create()
    store.complete(request_id, Outcome(b"first"))
    store.complete(request_id, Outcome(b"second"))
    for _ in range(3):
        assert await store.wait(request_id, 0.0) == Outcome(b"first")


async def test_failures_carry_message_and_category() -> None:
    store = make_store()
    mine, theirs = store.create(), store.create()
    store.fail(mine, UserError("lr=-1: must be 0 or more", field="lr", hint="try 1e-4"))
    store.fail(theirs, ServerError("out of memory"))
    outcome = await store.wait(mine, 0.0)
    assert outcome is not None
    assert json.loads(outcome.body) == {
        "error": "lr=-1: must be 0 or more; try 1e-4",
        "category": "user",
        "message": "lr=-1: must be 0 or more",
        "field": "lr",
        "hint": "try 1e-4",
    }
    outcome = await store.wait(theirs, 0.0)
    assert outcome is not None
    assert json.loads(outcome.body)["category"] == "server"


async def test_an_expired_result_is_gone_and_an_unknown_id_is_missing() -> None:
    store = make_store(keep_s=0.02)
    request_id = store.create()
    store.complete(request_id, Outcome(b"{}"))
    await asyncio.sleep(0.06)
    with pytest.raises(GoneError, match="no longer held"):
        await store.wait(request_id, 0.0)
    with pytest.raises(GoneError):  # a restarted service: the id is another process's
        await make_store().wait(request_id, 0.0)
    for strange in ("", "nonsense", "a-b-c"):
        with pytest.raises(MissingError):
            await store.wait(strange, 0.0)


async def test_above_the_byte_bound_fetched_results_go_first() -> None:
    store = make_store(max_bytes=10_000)
    ids = [store.create() for _ in range(6)]
    for request_id in ids[:3]:
        store.complete(request_id, Outcome(b"x" * 2000))
    await store.wait(ids[1], 0.0)
    for request_id in ids[3:]:
        store.complete(request_id, Outcome(b"x" * 2000))
    held = [request_id for request_id in ids if await is_held(store, request_id)]
    assert ids[1] not in held
    assert held[-1] == ids[5]
    assert len(held) * 2512 <= 10_000


async def is_held(store: FutureStore, request_id: str) -> bool:
    try:
        return await store.wait(request_id, 0.0) is not None
    except GoneError:
        return False


async def test_a_key_recognises_a_repetition_until_its_result_expires() -> None:
    store = make_store(keep_s=0.02)
    request_id = store.create(key=("sampler", 3), digest="d")
    assert store.find(("sampler", 3), "d") == request_id
    with pytest.raises(RequestError, match="already used"):
        store.find(("sampler", 3), "other")
    store.complete(request_id, Outcome(b"{}"))
    await asyncio.sleep(0.06)
    assert store.find(("sampler", 3), "d") is None


async def test_closing_wakes_waiters_without_a_result() -> None:
    store = make_store()
    request_id = store.create()
    waiter = asyncio.create_task(store.wait(request_id, 30.0))
    await asyncio.sleep(0.01)
    store.close()
    assert await asyncio.wait_for(waiter, 1.0) is None


async def test_json_results_never_hold_nan() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Outcome.from_json({"metrics": {"loss": float("nan")}})


class RecordedWrites:
    """Notes what the database would get."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, object]] = []

    def put(self, table: str, row: Row) -> None:
        assert table == "futures"
        self.told.append(("put", str(row["request_id"]), row["payload"]))

    def change(self, table: str, key: str, values: Row) -> None:
        assert table == "futures"
        self.told.append(("change", key, values["payload"]))

    def remove(self, table: str, key: str) -> None:
        assert table == "futures"
        self.told.append(("remove", key, None))


async def test_a_result_that_comes_at_once_is_written_in_one_row() -> None:
    writes = RecordedWrites()
    store = FutureStore(keep_s=60.0, max_bytes=2**20, writes=writes)
    request_id = store.create(is_repeatable=True)
    assert writes.told == []
    store.complete(request_id, Outcome(b"{}"))
    assert writes.told == [("put", request_id, b"{}")]
    await asyncio.sleep(2 * OPEN_ROW_WAIT_S)
    assert len(writes.told) == 1


async def test_an_open_sample_is_written_down_soon_and_its_result_changes_the_row() -> None:
    writes = RecordedWrites()
    store = FutureStore(keep_s=60.0, max_bytes=2**20, writes=writes)
    ids = [store.create(is_repeatable=True), store.create(is_repeatable=True)]
    await asyncio.sleep(4 * OPEN_ROW_WAIT_S)
    assert writes.told == [("put", request_id, None) for request_id in ids]
    store.complete(ids[1], Outcome(b"{}"))
    assert writes.told[2:] == [("change", ids[1], b"{}")]


async def test_closing_writes_open_samples_down_at_once() -> None:
    writes = RecordedWrites()
    store = FutureStore(keep_s=60.0, max_bytes=2**20, writes=writes)
    ids = [store.create(is_repeatable=True)]
    store.close()
    ids.append(store.create(is_repeatable=True))  # a request that was under way
    assert writes.told == [("put", request_id, None) for request_id in ids]


async def test_an_open_training_request_is_written_down_at_once() -> None:
    writes = RecordedWrites()
    store = FutureStore(keep_s=60.0, max_bytes=2**20, writes=writes)
    request_id = store.create()
    assert writes.told == [("put", request_id, None)]
