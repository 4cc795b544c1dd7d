"""A stream's events: order, gathering while nobody reads, the one end, and giving up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinsmith.core.errors import UserError
from tinsmith.engine.jobs import SampledToken
from tinsmith.server import sample_streams
from tinsmith.server.sample_streams import SampleStream


def make_stream() -> tuple[SampleStream, list[str]]:
    given_up: list[str] = []
    return SampleStream("r", ["r-0", "r-1"], lambda: given_up.append("r")), given_up


async def events(stream: SampleStream) -> list[dict[str, Any]]:
    text = b"".join([chunk async for chunk in stream.lines()])
    return [json.loads(line) for line in text.splitlines()]


async def test_tokens_that_wait_together_travel_together_by_sequence() -> None:
    stream, given_up = make_stream()
    for sample, token in ((0, 5), (1, 6), (0, 7)):
        stream.add(SampledToken("r", sample, token, -0.5))
    stream.add(SampledToken("r", 0, 8, -0.25, "stop"))
    stream.finish(None)
    stream.finish(UserError("too late"))
    stream.close()
    assert await events(stream) == [
        {"type": "start", "request_id": "r", "sequence_ids": ["r-0", "r-1"]},
        {
            "type": "tokens",
            "index": 0,
            "tokens": [5, 7, 8],
            "logprobs": [-0.5, -0.5, -0.25],
            "stop_reason": "stop",
        },
        {"type": "tokens", "index": 1, "tokens": [6], "logprobs": [-0.5], "stop_reason": None},
        {"type": "end"},
    ]
    assert not given_up


async def test_what_was_read_is_not_told_again() -> None:
    stream, _ = make_stream()
    lines = stream.lines()
    stream.add(SampledToken("r", 0, 5, -0.5))
    assert (await anext(lines)).count(b"\n") == 2
    stream.add(SampledToken("r", 0, 6, -0.5, "length"))
    assert json.loads(await anext(lines))["tokens"] == [6]
    stream.finish(UserError("bad luck", field="prompt", hint="try again"))
    last = json.loads(await anext(lines))
    assert (last["type"], last["category"], last["field"]) == ("error", "user", "prompt")
    assert "bad luck" in last["message"]
    with pytest.raises(StopAsyncIteration):
        await anext(lines)


async def test_a_silent_service_says_that_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_streams, "HEARTBEAT_S", 0.0)
    stream, _ = make_stream()
    lines = stream.lines()
    await anext(lines)
    assert await anext(lines) == b"\n"


async def test_a_stream_closed_before_its_end_gives_up_once() -> None:
    stream, given_up = make_stream()
    stream.close()
    stream.close()
    assert given_up == ["r"]
