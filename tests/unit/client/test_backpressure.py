"""How much is on the wire at once, and how a client gives way to a busy service."""

import asyncio
import time
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.client.recording_server import RecordingServer, Reply
from tinsmith.client import RateLimitError, RetryConfig, ServiceClient, TrainingClient, backpressure
from tinsmith.client.backpressure import ByteBudget, SampleGate, prompt_bytes
from tinsmith.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    SamplingParams,
    TensorData,
)
from tinsmith.types.codec import decode_forward_backward_request

PROMPT = ModelInput.from_ints([1, 2, 3])
PARAMS = SamplingParams(max_tokens=1)
BUSY = Reply(429, {"detail": "busy"})


def datum(length: int) -> Datum:
    tokens = list(range(length))
    return Datum(
        model_input=ModelInput.from_ints(tokens),
        loss_fn_inputs={
            "target_tokens": TensorData(data=tokens, dtype="int64"),
            "weights": TensorData(data=[1.0] * length, dtype="float32"),
        },
    )


@given(
    limit=st.integers(1, 100),
    sizes=st.lists(st.integers(0, 150), max_size=20),
    cancelled=st.sets(st.integers(0, 19)),
)
def test_a_budget_is_kept_in_order_and_nothing_starves(
    limit: int, sizes: list[int], cancelled: set[int]
) -> None:
    entered: list[int] = []

    async def run() -> None:
        budget = ByteBudget(lambda: limit)
        used: list[int] = []

        async def work(number: int, size: int) -> None:
            async with budget.hold(size):
                entered.append(number)
                used.append(size)
                assert sum(used) <= limit or len([each for each in used if each]) <= 1
                await asyncio.sleep(0)
                used.remove(size)

        tasks = [asyncio.create_task(work(n, size)) for n, size in enumerate(sizes)]
        await asyncio.sleep(0)
        for number in cancelled:
            if number < len(tasks):
                tasks[number].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        async with budget.hold(limit):  # all of it was given back
            pass

    asyncio.run(run())
    assert entered == sorted(entered)
    assert set(range(len(sizes))) - cancelled <= set(entered)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr("tinsmith.client.backpressure.time.monotonic", lambda: self.now_s)
        monkeypatch.setattr("tinsmith.client.backpressure.random.random", lambda: 0.0)


def test_one_refusal_closes_the_gate_and_few_go_through_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    gate = SampleGate(lambda: 1000)
    assert gate._has_room(1)
    gate._num_submits = backpressure.MAX_SUBMITS
    assert not gate._has_room(1)
    gate._num_submits = backpressure.BUSY_SUBMITS
    assert gate._has_room(1)
    gate.turned_away(1, None)
    assert not gate._has_room(1)
    clock.now_s = 1.01
    assert not gate._has_room(1), "only ten at a time for ten seconds"
    gate._num_submits = backpressure.BUSY_SUBMITS - 1
    assert gate._has_room(50)
    assert not gate._has_room(51), "bytes count twenty times"
    gate._num_submits = 0
    assert gate._has_room(10_000), "alone, anything goes"
    gate._num_submits = 300
    clock.now_s = 10.01
    assert gate._has_room(1000)
    assert not gate._has_room(1001)


def test_large_samples_and_the_services_word_make_the_pause_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    gate = SampleGate(lambda: 10**9)
    gate.turned_away(backpressure.LARGE_BYTES + 1, None)
    clock.now_s = 4.9
    assert not gate._has_room(1)
    gate.turned_away(1, 30.0)
    gate.turned_away(1, 0.1)
    clock.now_s = 34.8
    assert not gate._has_room(1)
    clock.now_s = 35.0
    assert gate._has_room(1)


def test_a_prompt_is_weighed_by_its_chunks() -> None:
    chunks = [
        EncodedTextChunk(tokens=[1, 2, 3]),
        ImageChunk(data=b"12345", format="png"),
        DmelChunk(dmel=b"1234567"),
    ]
    assert prompt_bytes(ModelInput(chunks=chunks)) == 30 + 5 + 7


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backpressure, "SMALL_PAUSE_S", 0.05)
    monkeypatch.setattr(backpressure, "BUSY_S", 0.05)


def test_a_busy_service_is_asked_again_with_the_same_key_and_number(
    server: RecordingServer, service: ServiceClient, quick: None
) -> None:
    client = service.create_sampling_client(base_model="tinsmith/tiny").result(5)
    server.script("asample", BUSY, BUSY)
    client.sample(PROMPT, 1, PARAMS).result(10)
    sent = server.of("asample")
    assert len(sent) == 3
    assert len({request.headers["x-idempotency-key"] for request in sent}) == 1
    assert {request.json["seq_id"] for request in sent} == {0}
    assert sent[1].time_s - sent[0].time_s >= 0.05


def test_many_samples_and_a_busy_service_make_no_storm(
    server: RecordingServer, service: ServiceClient, quick: None
) -> None:
    client = service.create_sampling_client(base_model="tinsmith/tiny").result(5)
    server.script("asample", *[BUSY] * 30)
    for future in [client.sample(PROMPT, 1, PARAMS) for _ in range(60)]:
        future.result(30)
    sent = server.of("asample")
    assert len(sent) == 90, "each refusal costs one more request, not one of every waiting sample"
    assert sorted({request.json["seq_id"] for request in sent}) == list(range(60))


def test_without_retries_a_busy_service_is_an_error_at_once(
    server: RecordingServer, service: ServiceClient
) -> None:
    once = RetryConfig(enable_retry_logic=False)
    client = service.create_sampling_client(base_model="tinsmith/tiny", retry_config=once).result(5)
    server.script("asample", Reply(429, {"detail": "busy"}, headers={"retry-after": "7"}))
    with pytest.raises(RateLimitError, match="busy") as caught:
        client.sample(PROMPT, 1, PARAMS).result(5)
    assert caught.value.retry_after_s == 7.0
    assert len(server.of("asample")) == 1


@pytest.mark.parametrize(("config", "most"), [({}, 3), ({"sample_max_concurrent_requests": 2}, 2)])
def test_the_smaller_of_both_limits_on_samples_in_flight_counts(
    server: RecordingServer, config: dict[str, Any], most: int
) -> None:
    server.config = config
    server.hold("asample")
    with ServiceClient(base_url=server.url) as service:
        client = service.create_sampling_client(
            base_model="tinsmith/tiny", retry_config=RetryConfig(max_connections=3)
        ).result(5)
        futures = [client.sample(PROMPT, 1, PARAMS) for _ in range(6)]
        server.wait_for("asample", most)
        server.wait_for("retrieve_future", most)
        assert len(server.of("asample")) == most
        server.release("asample")
        for future in futures:
            future.result(5)


def test_passes_travel_compressed_where_the_service_wants_it(server: RecordingServer) -> None:
    server.config = {"proto_compress_fwdbwd": True}
    bodies: list[bytes] = []
    usual = server._forward_backward

    def unpacked(request: Any) -> Reply:
        bodies.append(request.body)
        request.body = zstandard.ZstdDecompressor().decompress(request.body)
        return usual(request)

    server._forward_backward = unpacked  # type: ignore[method-assign]
    with ServiceClient(base_url=server.url) as service:
        training = service.create_lora_training_client("tinsmith/tiny").result(5)
        training.forward_backward([datum(2000)], "cross_entropy").result(5)
    (sent,) = server.of("forward_backward")
    assert sent.headers["content-encoding"] == "zstd"
    assert len(bodies[0]) < len(sent.body)
    assert decode_forward_backward_request(sent.body).seq_id == 1


def test_chunks_beyond_the_dispatch_budget_wait_for_those_before_them(
    server: RecordingServer,
) -> None:
    server.config = {"fwdbwd_max_chunk_len": 1, "fwdbwd_dispatch_bytes_semaphore_size": 1}
    active: list[int] = []
    usual = server._forward_backward

    def slow(request: Any) -> Reply:
        active.append(1)
        time.sleep(0.01)
        assert len(active) == 1
        active.pop()
        return usual(request)

    server._forward_backward = slow  # type: ignore[method-assign]
    with ServiceClient(base_url=server.url) as service:
        training = service.create_lora_training_client("tinsmith/tiny").result(5)
        output = training.forward_backward([datum(3)] * 5, "cross_entropy").result(5)
    assert len(output.loss_fn_outputs) == 5


def test_a_large_result_is_fetched_when_there_is_room(
    server: RecordingServer, training: TrainingClient
) -> None:
    announced = Reply(200, {"status": "complete_metadata", "response_payload_size": 10**9})
    server.script("retrieve_future", announced)
    output = training.forward_backward([datum(3)], "cross_entropy").result(5)
    assert len(output.loss_fn_outputs) == 1
    asked = [r.json["allow_metadata_only"] for r in server.of("retrieve_future")][-2:]
    assert asked == [True, False]


@pytest.mark.parametrize("is_wanted", [True, False])
def test_an_abandoned_sample_is_cancelled_where_the_service_wants_to_know(
    server: RecordingServer, service: ServiceClient, is_wanted: bool
) -> None:
    client = service.create_sampling_client(base_model="tinsmith/tiny").result(5)
    server.script("client/dynamic_config", Reply(200, {"sample_cancel_enabled": is_wanted}))
    server.script("cancel_future", Reply(204, b""))
    server.hold("asample")
    future = client.sample(PROMPT, 1, PARAMS)
    server.wait_for("retrieve_future")
    assert future.cancel()
    server.wait_for("client/dynamic_config")
    if is_wanted:
        server.wait_for("cancel_future")
        assert server.of("cancel_future")[0].json["request_id"].startswith("r")
    server.release("asample")
    client.sample(PROMPT, 1, PARAMS).result(5)
    assert len(server.of("cancel_future")) == is_wanted
