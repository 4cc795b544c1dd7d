"""Sampling beyond one answer: in-flight weights and streams, over HTTP with the real engine."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.service_process import (
    BASE_MODEL,
    ServiceProcess,
    WireClient,
    WireModel,
    make_data,
)
from tinsmith.client import ClientClosedError, RequestFailedError, SamplingClient, ServiceClient
from tinsmith.types import AdamParams, ModelInput, SamplingParams

pytestmark = pytest.mark.integration

PROMPT = [50, 51, 52, 53]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service"), "--model", BASE_MODEL) as running:
        yield running


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[WireClient]:
    client = WireClient(service.ready)
    yield client
    client.post(f"sessions/{client.session_id}/finish", reason={"type": "success"})
    client.http.close()


@pytest.fixture
def sdk(service: ServiceProcess) -> Iterator[ServiceClient]:
    ready = service.ready
    with ServiceClient(base_url=ready["url"], api_key=ready["api_key"]) as sdk:
        yield sdk


def publish(model: WireModel, number: int, kind: str = "inflight") -> str:
    """A nameless save; the id of its sampling session."""
    promise = model.submit("save_weights_for_sampler", sampling_session_seq_id=number, kind=kind)
    return model.client.json_result(promise["request_id"])["sampling_session_id"]


def logprobs(client: WireClient, sampler_id: str, seq_id: int) -> np.ndarray:
    promise = client.asample(sampler_id, PROMPT, seq_id=seq_id, prompt_logprobs=True)
    found = client.samples(promise["request_id"]).prompt_logprobs_np
    assert found is not None
    return found[1:]


def test_inflight_sessions_move_to_newer_weights_and_snapshots_stay(client: WireClient) -> None:
    model, other = client.create_model(0), client.create_model(1)
    first = publish(model, 0)
    frozen = publish(model, 1, "snapshot")  # the same weights: one snapshot, two sessions
    foreign = publish(other, 2)
    before = logprobs(client, first, 0)
    np.testing.assert_array_equal(logprobs(client, frozen, 0), before)
    model.train_step(make_data())
    np.testing.assert_array_equal(logprobs(client, first, 1), before)  # until the next save
    second = publish(model, 3)
    after = logprobs(client, second, 0)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_array_equal(logprobs(client, first, 2), after)
    np.testing.assert_array_equal(logprobs(client, frozen, 1), before)
    np.testing.assert_array_equal(logprobs(client, foreign, 0), before)
    client.json_result(client.post("unload_model", model_id=model.model_id)["request_id"])
    np.testing.assert_array_equal(logprobs(client, first, 3), after)  # the last ones published


def test_a_sample_ends_on_the_weights_it_was_accepted_with(client: WireClient) -> None:
    model = client.create_model()
    sampler = publish(model, 0)
    options: dict[str, Any] = {"num_samples": 2, "params": {"max_tokens": 300, "stop": []}}
    alone = client.samples(client.asample(sampler, PROMPT, seq_id=0, **options)["request_id"])
    promise = client.asample(sampler, PROMPT, seq_id=1, **options)
    for _ in range(3):
        model.train_step(make_data())
    publish(model, 1)
    moved = client.samples(client.asample(sampler, PROMPT, seq_id=2, **options)["request_id"])
    crowded = client.samples(promise["request_id"])
    for found, expected in zip(crowded.sequences, alone.sequences, strict=True):
        assert found.tokens == expected.tokens
        # Batch mates change the last bits; the newer weights would change the first.
        np.testing.assert_allclose(found.logprobs_np, expected.logprobs_np, atol=1e-4)
    assert moved.sequences[0].tokens != alone.sequences[0].tokens


def test_the_sdks_inflight_clients_follow_the_training(sdk: ServiceClient) -> None:
    trainer = sdk.create_lora_training_client(BASE_MODEL, rank=8, seed=1).result(60)
    prompt = ModelInput.from_ints(PROMPT)
    first = trainer.save_weights_and_get_sampling_client(kind="inflight").result()
    seen = [first.compute_logprobs(prompt).result()]
    for _ in range(2):
        trainer.forward_backward(make_data(), "cross_entropy")
        trainer.optim_step(AdamParams(learning_rate=1e-2))
        latest = trainer.save_weights_and_get_sampling_client(kind="inflight").result()
        seen.append(latest.compute_logprobs(prompt).result())
        assert first.compute_logprobs(prompt).result() == seen[-1]
    assert seen[0] != seen[1] != seen[2]


def test_a_named_save_cannot_be_inflight(client: WireClient) -> None:
    body = {"path": "a", "kind": "inflight"}
    refused = client.create_model().submit("save_weights_for_sampler", expect=400, **body)
    assert refused["field"] == "kind"
    assert "a checkpoint never changes" in refused["message"]


LONG = SamplingParams(max_tokens=1500, temperature=1.0, stop=[])
DRAWN = SamplingParams(max_tokens=40, temperature=1.0, seed=5, stop=[])


def stream_body(sampler_id: str, **options: Any) -> dict[str, Any]:
    params = {"max_tokens": 8, "temperature": 0.0} | options.pop("params", {})
    prompt = ModelInput.from_ints(PROMPT).model_dump(mode="json")
    return {
        "sampling_session_id": sampler_id,
        "prompt": prompt,
        "sampling_params": params,
        "num_samples": 1,
        **options,
    }


def test_a_stream_on_the_wire_tells_what_the_result_holds(client: WireClient) -> None:
    assert "stream_sample" in client.http.get("get_server_capabilities").json()["extensions"]
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    body = stream_body(sampler, num_samples=2, params={"temperature": 1.0, "seed": 3, "stop": []})
    answer = client.http.post("ext/stream_sample", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    start, *tokens, end = [json.loads(line) for line in answer.text.splitlines() if line]
    assert (start["type"], end) == ("start", {"type": "end"})
    assert len(start["sequence_ids"]) == 2
    response = client.samples(start["request_id"])
    for index, sequence in enumerate(response.sequences):
        mine = [event for event in tokens if event["index"] == index]
        assert [token for event in mine for token in event["tokens"]] == sequence.tokens
        assert [value for event in mine for value in event["logprobs"]] == sequence.logprobs
        assert mine[-1]["stop_reason"] == "length"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"seq_id": 1}, "seq_id"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"topk_sample_logprobs": 1}, "topk_sample_logprobs"),
        ({"params": {"max_tokens": 10**6}}, "sampling_params.max_tokens"),
        ({"sampling_session_id": None}, "sampling_session_id"),
        ({"record_stability_info": True}, "record_stability_info"),
    ],
)
def test_what_a_stream_cannot_tell_is_refused(
    client: WireClient, options: dict[str, Any], field: str
) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    refused = client.post("ext/stream_sample", expect=400, **stream_body(sampler, **options))
    assert refused["field"] == field


def test_a_dropped_connection_cancels_the_sample(client: WireClient) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    # More sequences than there are rows, so the last of them wait for room.
    body = stream_body(sampler, num_samples=80, params=LONG.model_dump(exclude_none=True))
    with client.http.stream("POST", "ext/stream_sample", json=body) as answer:
        start = json.loads(next(answer.iter_lines()))
    failure = client.failure(start["request_id"])
    assert "was cancelled" in failure["error"]
    short = client.asample(sampler, PROMPT, seq_id=0)  # its rows are free again
    assert client.samples(short["request_id"]).sequences[0].tokens


def test_cancel_future_ends_a_stream(client: WireClient) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    body = stream_body(sampler, params=LONG.model_dump(exclude_none=True))
    with client.http.stream("POST", "ext/stream_sample", json=body) as answer:
        lines = answer.iter_lines()
        request_id = json.loads(next(lines))["request_id"]
        client.http.post("cancel_future", json={"request_id": request_id})
        last = [json.loads(line) for line in lines if line][-1]
    assert (last["type"], last["category"], last["field"]) == ("error", "user", "request_id")


@pytest.fixture
def sampling(sdk: ServiceClient) -> SamplingClient:
    return sdk.create_sampling_client(base_model=BASE_MODEL).result(60)


def gathered(pieces: list[Any], count: int) -> list[list[int]]:
    return [[token for p in pieces if p.index == i for token in p.tokens] for i in range(count)]


async def test_the_sdk_streams_what_it_samples(sampling: SamplingClient) -> None:
    prompt = ModelInput.from_ints(PROMPT)
    response = await sampling.sample(prompt, 3, DRAWN)
    expected = [sequence.tokens for sequence in response.sequences]
    with sampling.stream(prompt, DRAWN, 3) as stream:
        assert gathered(list(stream), 3) == expected
        assert list(stream) == []
        assert len(stream.sequence_ids) == 3
    async with sampling.stream(prompt, DRAWN, 3) as stream:
        assert gathered([piece async for piece in stream], 3) == expected


def test_a_stream_that_is_left_is_cancelled(client: WireClient, sampling: SamplingClient) -> None:
    """However it is left: closed, out of its block, or simply let go."""
    request_ids: list[str] = []
    prompt = ModelInput.from_ints(PROMPT)
    with sampling.stream(prompt, LONG) as stream:
        for _ in stream:
            break
        request_ids.append(stream.request_id or "")
    stream = sampling.stream(prompt, LONG)
    next(stream)
    request_ids.append(stream.request_id or "")
    stream.close()
    assert list(stream) == []
    for _ in (stream := sampling.stream(prompt, LONG)):
        break
    request_ids.append(stream.request_id or "")
    del stream, _
    gc.collect()
    for request_id in request_ids:
        assert "was cancelled" in client.failure(request_id)["error"]


def test_refusals_failures_and_the_clients_end_reach_the_reader(
    client: WireClient, sdk: ServiceClient, sampling: SamplingClient
) -> None:
    prompt = ModelInput.from_ints(PROMPT)
    with pytest.raises(ValueError, match="max_tokens"):
        next(sampling.stream(prompt, SamplingParams(max_tokens=10**6)))
    stream = sampling.stream(prompt, LONG)
    next(stream)
    client.http.post("cancel_future", json={"request_id": stream.request_id})
    with pytest.raises(RequestFailedError, match="was cancelled") as caught:
        list(stream)
    assert (caught.value.category, caught.value.request_id) == ("user", stream.request_id)
    stream = sampling.stream(prompt, LONG)
    next(stream)
    sdk.close()
    with pytest.raises(ClientClosedError):
        list(stream)


def test_a_stopping_service_ends_its_streams(tmp_path: Path, tiny_dir: Path) -> None:
    with ServiceProcess(tmp_path, "--model", BASE_MODEL) as running:
        client = WireClient(running.ready)
        sampler = client.create_sampler(0, base_model=BASE_MODEL)
        body = stream_body(sampler, params=LONG.model_dump(exclude_none=True))
        with client.http.stream("POST", "ext/stream_sample", json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.process.terminate()
            last = [json.loads(line) for line in lines if line][-1]
        assert (last["type"], last["category"]) == ("error", "server")
        assert "stopping" in last["message"]
        assert running.stop() == 0
