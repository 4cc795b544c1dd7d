"""The engine process's loop, on a fake engine: order, sharing of time, failures, checkpoints."""

from __future__ import annotations

import json
import queue
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.server.fakes import FakeEngine
from tinsmith.core.errors import ServerError, TinsmithError, UserError
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import ForwardBackwardJob, SampleJob, SampleResult
from tinsmith.server.engine_process import EngineLoop, execute
from tinsmith.server.messages import (
    Call,
    CreateAdapter,
    LoadState,
    Reply,
    RunForwardBackward,
    SaveSamplerWeights,
    SaveState,
    Stop,
    UnloadAdapter,
    decode,
    encode,
)
from tinsmith.types import AdamOptimizerConfig, LoraConfig, SamplingParams


def sample_job(job_id: str, *, max_tokens: int = 3, num_samples: int = 1) -> SampleJob:
    params = SamplingParams(max_tokens=max_tokens)
    return SampleJob(job_id, None, [1, 2], num_samples, params)


def training_call(number: int, loss_fn: str = "cross_entropy") -> Call:
    return Call(number, RunForwardBackward([ForwardBackwardJob("a", [], loss_fn)]))


def run(engine: FakeEngine, *messages: object) -> list[Any]:
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    for message in messages:
        inbox.put(message)
    sent: list[Any] = []
    EngineLoop(cast("Engine", engine), inbox, sent.append).run()
    return sent


def test_calls_are_answered_in_order_and_stop_lets_them_finish() -> None:
    lora = LoraConfig(rank=4)
    sent = run(
        FakeEngine(),
        Call(1, CreateAdapter("a", lora, AdamOptimizerConfig())),
        training_call(2),
        Stop(),
    )
    assert [reply.call_id for reply in sent] == [1, 2]
    assert sent[0].result == lora


def test_training_and_sampling_share_the_time() -> None:
    engine = FakeEngine()
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    inbox.put(sample_job("s", max_tokens=5))
    for number in range(3):
        inbox.put(training_call(number))
    sent: list[Any] = []
    loop = threading.Thread(
        target=EngineLoop(cast("Engine", engine), inbox, sent.append).run, daemon=True
    )
    loop.start()
    while sum(isinstance(m, Reply) for m in sent) < 3 or not has_samples(sent):
        loop.join(0.001)
    inbox.put(Stop())
    loop.join(5)
    steps = [int(event.split("@")[1]) for event in engine.events]
    assert steps[0] <= 1
    assert steps[-1] >= 1  # sampler steps ran between training calls


def has_samples(sent: list[Any]) -> bool:
    return any(isinstance(message, list) for message in sent)


def test_a_call_that_raises_is_answered_with_an_error() -> None:
    (reply,) = run(FakeEngine(), training_call(1, "crash"), Stop())
    assert isinstance(reply.result, ServerError)
    assert "out of luck" in str(reply.result)


def test_a_sample_that_cannot_be_submitted_fails_alone() -> None:
    (results,) = run(FakeEngine(), sample_job("s", num_samples=1000), Stop())
    (result,) = results
    assert isinstance(result, SampleResult)
    assert isinstance(result.error, UserError)


def test_a_sampler_that_breaks_at_every_step_fails_each_sample_and_the_engine_lives() -> None:
    engine = FakeEngine()
    engine.sampler.breaks = True
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    inbox.put(sample_job("s1"))
    inbox.put(sample_job("s2"))
    sent: list[Any] = []
    loop = threading.Thread(
        target=EngineLoop(cast("Engine", engine), inbox, sent.append).run, daemon=True
    )
    loop.start()
    while len(sent) < 2:
        loop.join(0.001)
    inbox.put(training_call(7))
    inbox.put(Stop())
    loop.join(5)
    results = [result for answers in sent[:2] for result in answers]
    assert [result.job_id for result in results] == ["s1", "s2"]
    assert all("broken step" in str(result.error) for result in results)
    assert sent[2].call_id == 7


def test_messages_pickle_with_their_errors() -> None:
    reply = decode(encode(Reply(3, [UserError("bad", field="x", hint="mend it")])))
    assert isinstance(reply, Reply)
    (error,) = cast("list[TinsmithError]", reply.result)
    assert (type(error), error.field, str(error)) == (UserError, "x", "bad; mend it")


def test_a_checkpoint_appears_whole_and_its_name_is_taken_once(tmp_path: Path) -> None:
    engine = cast("Engine", FakeEngine())
    directory = tmp_path / "run" / "weights" / "first"
    execute(engine, SaveState("a", directory, overwrite=False, record={"n": 1}))
    assert json.loads((directory / "checkpoint.json").read_text()) == {"n": 1}
    with pytest.raises(UserError, match="a checkpoint of this name exists"):
        execute(engine, SaveState("b", directory, overwrite=False, record={"n": 2}))
    execute(engine, SaveState("b", directory, overwrite=True, record={"n": 2}))
    assert (directory / "state.json").read_text() == "b"
    assert [path.name for path in directory.parent.iterdir()] == ["first"]


def test_sampler_weights_note_their_snapshot(tmp_path: Path) -> None:
    directory = tmp_path / "sampler_weights" / "s"
    engine = cast("Engine", FakeEngine())
    assert execute(engine, SaveSamplerWeights("a", directory, {"n": 1})) == "snapshot-of-a"
    record = json.loads((directory / "checkpoint.json").read_text())
    assert record == {"n": 1, "snapshot_id": "snapshot-of-a"}


def test_loading_what_is_not_there_is_the_callers_mistake(tmp_path: Path) -> None:
    engine = cast("Engine", FakeEngine())
    with pytest.raises(UserError, match="no such checkpoint"):
        execute(engine, LoadState("a", tmp_path / "none", with_optimizer=True, create=True))
    execute(engine, UnloadAdapter("never there"))
