"""Results in JSON for clients that read no protobuf: the same values, for those who ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import TypeAdapter

from tinsmith.core.errors import ServerError
from tinsmith.core.jsonio import loads
from tinsmith.server.app import make_app
from tinsmith.server.config import ServerConfig
from tinsmith.server.futures import PROTOBUF_TYPE, SAMPLE_TYPE, TRAINING_TYPE, Outcome
from tinsmith.server.json_results import as_json, takes_protobuf
from tinsmith.server.service import Service
from tinsmith.types import (
    ForwardBackwardOutput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)
from tinsmith.types.codec import encode_forward_backward_output, encode_sample_response

OUTPUT = ForwardBackwardOutput(
    loss_fn_output_type="ArrayRecord",
    loss_fn_outputs=[
        {"logprobs": TensorData.from_numpy(np.array([-0.1, -np.inf], np.float32))},
        {"logprobs": TensorData.from_numpy(np.array([[-1.5], [-2.5], [0.0]], np.float32))},
    ],
    metrics={"loss:sum": 3.25},
)
RESPONSE = SampleResponse(
    sequences=[
        SampledSequence(
            "stop",
            tokens=[3, 4],
            logprobs=[-0.3, -np.inf],
            topk_logprobs_np=TopkLogprobs(
                np.array([[3, 1], [4, 0]]), np.array([[-0.3, -1.0], [-0.1, -99999.0]])
            ),
        ),
        SampledSequence("length", tokens=[5], logprobs=[-1.7]),
    ],
    prompt_logprobs_np=np.array([np.nan, -0.1], np.float32),
    topk_prompt_logprobs_np=TopkLogprobs(
        np.array([[0, 0], [7, 8]]), np.array([[-99999.0, -99999.0], [-0.5, -0.6]])
    ),
    target_prompt_logprobs=TensorData.from_numpy(np.array([[-0.7, 0.0]], np.float32)),
    prompt_alt_tokens=PromptAltTokens(
        TensorData.from_numpy(np.array([[9, 8]])),
        TensorData.from_numpy(np.array([[-0.2, -0.4]], np.float32)),
    ),
    prompt_cache_hit_tokens=1,
)


def test_a_training_result_reads_back_as_what_it_was() -> None:
    stored = Outcome(encode_forward_backward_output(OUTPUT), TRAINING_TYPE)
    found = as_json(stored)
    assert found.media_type == "application/json"
    assert ForwardBackwardOutput.model_validate(loads(found.body)) == OUTPUT


def test_a_metric_that_json_lacks_goes_by_its_name() -> None:
    output = OUTPUT.model_copy(update={"metrics": {"a:sum": np.inf, "b:sum": -np.inf}})
    stored = Outcome(encode_forward_backward_output(output), TRAINING_TYPE)
    told = loads(as_json(stored).body)
    assert told["metrics"] == {"a:sum": "Infinity", "b:sum": "-Infinity"}
    assert ForwardBackwardOutput.model_validate(told) == output


def test_a_sample_has_the_same_values() -> None:
    told = loads(as_json(Outcome(encode_sample_response(RESPONSE), SAMPLE_TYPE)).body)
    first, second = told["sequences"]
    assert (first["stop_reason"], second["stop_reason"]) == ("stop", "length")
    assert (first["tokens"], second["tokens"]) == ([3, 4], [5])
    near = [pytest.approx(float(np.float32(value)), abs=0) for value in (-0.3, -1.7)]
    assert first["logprobs"] == [near[0], "-Infinity"]
    assert second["logprobs"] == [near[1]]
    table = [[tuple(pair) for pair in row] for row in first["topk_logprobs"]]
    assert table == RESPONSE.sequences[0].topk_logprobs
    assert told["prompt_logprobs"] == RESPONSE.prompt_logprobs
    assert told["prompt_logprobs"][0] is None
    assert told["topk_prompt_logprobs"][0] is None
    rows = [tuple(pair) for pair in told["topk_prompt_logprobs"][1]]
    assert rows == (RESPONSE.topk_prompt_logprobs or [])[1]
    tensor = TypeAdapter(TensorData).validate_python
    assert tensor(told["target_prompt_logprobs"]) == RESPONSE.target_prompt_logprobs
    assert RESPONSE.prompt_alt_tokens is not None
    assert tensor(told["prompt_alt_tokens"]["tokens"]) == RESPONSE.prompt_alt_tokens.tokens
    assert tensor(told["prompt_alt_tokens"]["logprobs"]) == RESPONSE.prompt_alt_tokens.logprobs
    assert told["prompt_cache_hit_tokens"] == 1


def test_other_binary_results_are_refused() -> None:
    with pytest.raises(ServerError, match="no JSON form"):
        as_json(Outcome(b"", PROTOBUF_TYPE))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, True),
        ("", True),
        ("*/*", True),
        ("application/json", False),
        ("application/json, text/plain; q=0.5", False),
        ("application/x-protobuf, application/json", True),
        ("application/json, Application/X-Protobuf; q=0.1", True),
        ("application/protobuf", True),
        ("application/*", True),
    ],
)
def test_the_accept_header_decides(accept: str | None, expected: bool) -> None:
    assert takes_protobuf(accept) is expected


async def test_the_same_result_is_fetched_in_both_forms(tmp_path: Path) -> None:
    async with Service.running(ServerConfig(state_dir=tmp_path)) as service:
        transport = httpx.ASGITransport(make_app(service))
        binary = encode_sample_response(RESPONSE)
        request_id = service.futures.create()
        service.futures.complete(request_id, Outcome(binary, SAMPLE_TYPE))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:

            async def fetch(**headers: str) -> httpx.Response:
                body: dict[str, Any] = {"request_id": request_id}
                url = "/api/v1/retrieve_future"
                return await client.post(url, json=body, headers=headers)

            for headers in ({}, {"Accept": "application/x-protobuf, application/json"}):
                answer = await fetch(**headers)
                assert (answer.headers["content-type"], answer.content) == (PROTOBUF_TYPE, binary)
            answer = await fetch(Accept="application/json")
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["sequences"][0]["tokens"] == [3, 4]
