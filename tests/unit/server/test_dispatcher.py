"""The dispatcher against an engine that answers by hand: batching, barriers, gaps, failures."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.server.fakes import ManualEngine, output
from tinsmith.core.errors import EngineDiedError, UserError
from tinsmith.engine.jobs import ForwardBackwardJob, OptimStepJob
from tinsmith.server.config import ServerLimits
from tinsmith.server.dispatcher import Dispatcher, Work
from tinsmith.server.errors import GoneError, OverloadedError, RequestError
from tinsmith.server.futures import FutureStore, Outcome
from tinsmith.server.messages import RunForwardBackward, RunOptimStep, UnloadAdapter
from tinsmith.types import AdamParams


class Bench:
    """A dispatcher, its futures and its engine."""

    def __init__(self, **limits: Any) -> None:
        self.engine = ManualEngine()
        self.futures = FutureStore(keep_s=60, max_bytes=2**20)
        self.dispatcher = Dispatcher(self.engine, self.futures, ServerLimits(**limits))

    def open(self, *lane_ids: str) -> None:
        for lane_id in lane_ids:
            self.dispatcher.open_lane(lane_id, f"session of {lane_id}")
            self.dispatcher.skip(lane_id, 0)

    def submit(self, lane_id: str, seq_id: int, kind: str = "fb", *, tokens: int = 10) -> str:
        name = f"{lane_id}.{seq_id}"
        if kind == "fb":
            job = ForwardBackwardJob(lane_id, [], name)
            work = Work("forward_backward", job, lambda _: Outcome(name.encode()), tokens)
        else:
            step = OptimStepJob(lane_id, AdamParams())
            work = Work("optim_step", step, lambda _: Outcome(name.encode()))
        return self.dispatcher.submit(lane_id, seq_id, work, digest=f"{name}{kind}")

    def answer(self) -> list[str]:
        """Lets the engine finish its oldest call; returns what was in it."""
        command = self.engine.calls[0][0]
        if isinstance(command, RunForwardBackward):
            self.engine.answer([output() for _ in command.jobs])
            return [job.loss_fn for job in command.jobs]
        assert isinstance(command, RunOptimStep)
        self.engine.answer([None for _ in command.jobs])
        return [f"step {job.adapter_id}" for job in command.jobs]

    async def failure(self, request_id: str) -> dict[str, Any]:
        outcome = await self.futures.wait(request_id, 0.0)
        assert outcome is not None
        return json.loads(outcome.body)


async def test_work_that_arrives_while_the_engine_is_busy_shares_the_next_batch() -> None:
    bench = Bench()
    bench.open("a", "b", "c")
    for lane_id in ("a", "b", "c"):
        bench.submit(lane_id, 1)
    assert [bench.answer(), bench.answer()] == [["a.1"], ["b.1", "c.1"]]


async def test_an_optim_step_is_a_barrier_for_its_own_model_only() -> None:
    bench = Bench()
    bench.open("a", "b")
    bench.submit("a", 1)
    bench.submit("a", 2, "optim")
    bench.submit("a", 3)
    bench.submit("b", 1)
    assert bench.answer() == ["a.1"]
    assert bench.answer() == ["step a"]
    assert sorted(bench.answer()) == ["a.3", "b.1"]


async def test_large_and_short_batches_go_ahead_and_small_ones_wait_for_company() -> None:
    bench = Bench(ahead_min_tokens=100)
    bench.open("a", "b", "c")
    bench.submit("a", 1)
    bench.submit("b", 1, tokens=10)
    assert len(bench.engine.calls) == 1
    bench.submit("c", 1, tokens=90)
    assert len(bench.engine.calls) == 2
    bench.submit("a", 2, "optim")
    assert len(bench.engine.calls) == 2  # never more than two


async def test_submissions_out_of_order_run_in_order_and_are_answered_at_once() -> None:
    bench = Bench()
    bench.open("a")
    ids = [bench.submit("a", seq_id) for seq_id in (3, 2)]
    assert len(set(ids)) == 2
    assert not bench.engine.calls
    bench.submit("a", 1)
    assert [bench.answer() for _ in range(3)] == [["a.1"], ["a.2"], ["a.3"]]


async def test_equal_submissions_are_one_request() -> None:
    bench = Bench()
    bench.open("a")
    assert bench.submit("a", 1) == bench.submit("a", 1)
    with pytest.raises(RequestError, match="seq_id=1"):
        bench.submit("a", 1, "optim")
    assert bench.answer() == ["a.1"]
    assert not bench.engine.calls


async def test_a_gap_fails_what_waits_behind_it_and_the_lane_goes_on() -> None:
    bench = Bench(seq_gap_timeout_s=0.3)
    bench.open("a")
    late = bench.submit("a", 2)
    await asyncio.sleep(0.01)
    other = bench.submit("a", 4)
    await asyncio.sleep(0.4)
    for request_id in (late, other):
        failure = await bench.failure(request_id)
        assert failure["category"] == "user"
        assert failure["error"].startswith("seq_id=1: did not arrive within 0.3 s")
    bench.submit("a", 5)
    assert bench.answer() == ["a.5"]


async def test_a_gap_that_closes_in_time_fails_nothing() -> None:
    bench = Bench(seq_gap_timeout_s=0.03)
    bench.open("a")
    request_id = bench.submit("a", 2)
    bench.submit("a", 1)
    bench.answer()
    bench.answer()
    await asyncio.sleep(0.05)
    assert await bench.futures.wait(request_id, 0.0) == Outcome(b"a.2")


async def test_one_bad_job_fails_alone() -> None:
    bench = Bench()
    bench.open("a", "b")
    bench.submit("a", 1)
    bench.answer()
    good, bad = bench.submit("a", 2), bench.submit("b", 1)
    bench.answer()
    bench.engine.answer([UserError("bad datum", field="data")])
    assert await bench.futures.wait(good, 0.0) == Outcome(b"a.2")
    assert (await bench.failure(bad))["error"] == "bad datum"


async def test_a_failed_batch_fails_each_of_its_requests() -> None:
    bench = Bench()
    bench.open("a")
    ids = [bench.submit("a", 1), bench.submit("a", 2)]
    bench.engine.answer(EngineDiedError("gone"))
    bench.engine.answer(EngineDiedError("gone"))
    for request_id in ids:
        assert (await bench.failure(request_id))["category"] == "server"


async def test_closing_a_lane_fails_its_queue_and_refuses_what_follows() -> None:
    bench = Bench()
    bench.open("a")
    bench.submit("a", 1)
    queued, waiting = bench.submit("a", 2), bench.submit("a", 9)
    bench.dispatcher.close_lane("a", GoneError("model lost"))
    for request_id in (queued, waiting):
        assert (await bench.failure(request_id))["error"] == "model lost"
    with pytest.raises(GoneError, match="model lost"):
        bench.submit("a", 10)


async def test_unloading_runs_after_everything_accepted() -> None:
    bench = Bench()
    bench.open("a")
    bench.submit("a", 1)
    bench.submit("a", 2)
    work = Work("control", UnloadAdapter("a"), lambda _: Outcome(b"{}"))
    bench.dispatcher.submit_last("a", work)
    with pytest.raises(GoneError, match="was unloaded"):
        bench.submit("a", 3)
    assert [bench.answer(), bench.answer()] == [["a.1"], ["a.2"]]
    assert bench.engine.calls[0][0] == UnloadAdapter("a")


async def test_too_much_pending_work_is_refused_without_using_up_the_number() -> None:
    bench = Bench(max_pending_requests=2)
    bench.open("a")
    bench.submit("a", 1)
    bench.submit("a", 2)
    with pytest.raises(OverloadedError) as caught:
        bench.submit("a", 3)
    assert caught.value.status == 429
    bench.answer()
    bench.submit("a", 3)
