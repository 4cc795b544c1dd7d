"""`SamplingClient.stream`: which services it may ask, and answers that go wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.client.recording_server import DROP, RecordingServer, Reply
from tinsmith.client import (
    APIConnectionError,
    APIResponseValidationError,
    BadRequestError,
    RequestFailedError,
    RetryConfig,
    SampledTokens,
    SamplingClient,
    ServiceClient,
    UnsupportedError,
)
from tinsmith.types import ModelInput, SamplingParams

PROMPT = ModelInput.from_ints([1, 2, 3])
PARAMS = SamplingParams(max_tokens=4)
QUICK = RetryConfig(retry_delay_base=0.01, retry_delay_max=0.02)
START = {"type": "start", "request_id": "r", "sequence_ids": ["r-0"]}
END = {"type": "end"}
PATH = "ext/stream_sample"


def tokens(*ids: int, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"type": "tokens", "index": index, "tokens": ids, "logprobs": [-1.0] * len(ids), **more}


def lines(*events: Any) -> Reply:
    body = "".join(e if isinstance(e, str) else json.dumps(e) + "\n" for e in events)
    return Reply(body=body.encode(), content_type="application/x-ndjson")


@pytest.fixture
def sampling(server: RecordingServer, service: ServiceClient) -> SamplingClient:
    server.script("get_server_capabilities", Reply(body={**CAPABLE}))
    future = service.create_sampling_client(base_model="tinsmith/tiny", retry_config=QUICK)
    return future.result(10)


CAPABLE = {"supported_models": [], "extensions": ["other", "stream_sample"]}


def test_a_service_without_the_extension_is_said_to_have_none(
    server: RecordingServer, service: ServiceClient
) -> None:
    plain = service.create_sampling_client(base_model="tinsmith/tiny").result(10)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=r"does not offer .*'stream_sample'; use sample"):
            next(plain.stream(PROMPT, PARAMS))
    assert len(server.of("get_server_capabilities")) == 1, "it is asked once"
    assert not server.of(PATH)
    assert not server.of("asample"), "and no other way is taken in silence"


def test_the_request_has_what_a_sample_has_and_no_number(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.script(PATH, lines(START, tokens(5, stop_reason="stop"), END))
    assert list(sampling.stream(PROMPT, PARAMS)) == [SampledTokens(0, [5], [-1.0], "stop")]
    (request,) = server.of(PATH)
    assert "seq_id" not in request.json
    assert request.json["sampling_session_id"] == "S:sample:0"
    assert request.json["num_samples"] == 1
    assert request.headers["accept"] == "application/x-ndjson"


async def test_sync_and_async_readers_get_the_same(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    events = ["\n", START, tokens(5), "\n", {"type": "news"}, tokens(6, 7, index=1), END]
    server.script(PATH, lines(*events), lines(*events))
    expected = [SampledTokens(0, [5], [-1.0]), SampledTokens(1, [6, 7], [-1.0, -1.0])]
    stream = sampling.stream(PROMPT, PARAMS, 2)
    assert stream.request_id is None
    assert [piece async for piece in stream] == expected
    assert (stream.request_id, stream.sequence_ids) == ("r", ["r-0"])
    assert list(sampling.stream(PROMPT, PARAMS, 2)) == expected  # also inside a running loop


def test_busy_and_dropped_connections_are_tried_again(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.script(PATH, Reply(429, {"message": "busy"}), DROP, lines(START, tokens(5), END))
    assert len(list(sampling.stream(PROMPT, PARAMS))) == 1
    assert len(server.of(PATH)) == 3


def test_a_refusal_is_the_refusal_that_sample_has(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.script(PATH, Reply(400, {"message": "max_tokens: too many", "field": "max_tokens"}))
    with pytest.raises(BadRequestError, match="too many") as caught:
        next(sampling.stream(PROMPT, PARAMS))
    assert caught.value.field == "max_tokens"


def test_a_failure_comes_after_the_tokens_before_it_and_stays(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    failure = {"type": "error", "error": "x", "message": "not finite", "category": "user"}
    server.script(PATH, lines(START, tokens(5), failure))
    stream = sampling.stream(PROMPT, PARAMS)
    assert next(stream).tokens == [5]
    for _ in range(2):
        with pytest.raises(RequestFailedError, match="not finite") as caught:
            next(stream)
        assert (caught.value.request_id, caught.value.category) == ("r", "user")


@pytest.mark.parametrize(
    ("events", "error", "message"),
    [
        ([START], APIConnectionError, "broke off before its end"),
        ([START, "{half"], APIConnectionError, "broke off before its end"),
        ([START, "no json\n"], APIResponseValidationError, "not JSON"),
        ([START, "[1]\n"], APIResponseValidationError, "breaks the protocol"),
        ([START, tokens(5, index=1)], APIResponseValidationError, "of sequence 1"),
        ([START, tokens(5, logprobs=[])], APIResponseValidationError, "1 tokens and 0 logprobs"),
        ([START, tokens(5, stop_reason="odd")], APIResponseValidationError, "stop_reason"),
    ],
)
def test_answers_that_break_the_protocol_are_named(
    server: RecordingServer,
    sampling: SamplingClient,
    events: list[Any],
    error: type[Exception],
    message: str,
) -> None:
    server.script(PATH, lines(*events))
    with pytest.raises(error, match=message):
        list(sampling.stream(PROMPT, PARAMS))


async def test_cancelling_the_reader_closes_the_stream(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.script(PATH, Reply(delay_s=0.5))
    stream = sampling.stream(PROMPT, PARAMS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(stream)
    assert [piece async for piece in stream] == []
