import asyncio
from typing import Any

import numpy as np
import pytest

from tests.unit.client.recording_server import DROP, RecordingServer, Reply
from tinsmith.client import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    BadRequestError,
    RequestFailedError,
    RetryConfig,
    SamplingClient,
    ServiceClient,
)
from tinsmith.core.errors import UserError
from tinsmith.types import (
    ModelInput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    SamplingParams,
    TensorData,
    TopkLogprobs,
)

PROMPT = ModelInput.from_ints([1, 2, 3])
PARAMS = SamplingParams(max_tokens=4, temperature=0.0)
QUICK = RetryConfig(retry_delay_base=0.01, retry_delay_max=0.02)


@pytest.fixture
def sampling(service: ServiceClient) -> SamplingClient:
    future = service.create_sampling_client(base_model="tinsmith/tiny", retry_config=QUICK)
    return future.result(10)


def test_a_sample_is_asked_for_and_comes_back(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    response = sampling.sample(PROMPT, 2, PARAMS).result(5)
    assert [s.tokens for s in response.sequences] == [[3, 2, 1], [3, 2, 1]]
    assert [s.sequence_id for s in response.sequences] == ["q0", "q1"]
    body = server.of("asample")[0].json
    assert body["sampling_session_id"] == "S:sample:0"
    assert body["prompt"]["chunks"] == [{"type": "encoded_text", "tokens": [1, 2, 3]}]
    assert (body["num_samples"], body["seq_id"]) == (2, 0)
    assert body["sampling_params"]["temperature"] == 0.0
    assert "stop" not in body["sampling_params"]
    sampling.sample(PROMPT, 1, PARAMS).result(5)
    assert server.of("asample")[1].json["seq_id"] == 1


def test_a_switched_off_stop_stays_on_the_wire(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    sampling.sample(PROMPT, 1, SamplingParams(max_tokens=4, stop=[])).result(5)
    assert server.of("asample")[0].json["sampling_params"]["stop"] == []


def test_prompt_logprobs_have_none_for_the_first_token(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    response = sampling.sample(PROMPT, 1, PARAMS, include_prompt_logprobs=True).result(5)
    assert response.prompt_logprobs == [None, -1.0, -1.0]
    assert sampling.compute_logprobs(PROMPT).result(5) == [None, -1.0, -1.0]
    body = server.of("asample")[1].json
    assert (body["num_samples"], body["prompt_logprobs"]) == (1, True)
    assert body["sampling_params"]["max_tokens"] == 1


async def test_many_samples_are_in_flight_at_once(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.hold("asample")
    futures = [sampling.sample(PROMPT, 1, PARAMS) for _ in range(40)]
    await asyncio.to_thread(server.wait_for, "asample", 40)
    assert not any(future.done() for future in futures)
    server.release("asample")
    responses = await asyncio.gather(*futures)
    assert len(responses) == 40
    assert sorted(r.json["seq_id"] for r in server.of("asample")) == list(range(40))


async def test_no_more_are_in_flight_than_allowed(
    server: RecordingServer, service: ServiceClient
) -> None:
    config = RetryConfig(max_connections=3)
    sampling = await service.create_sampling_client(base_model="tinsmith/tiny", retry_config=config)
    server.hold("asample")
    futures = [sampling.sample(PROMPT, 1, PARAMS) for _ in range(8)]
    await asyncio.to_thread(server.wait_for, "asample", 3)
    await asyncio.sleep(0.1)
    assert len(server.of("asample")) == 3
    server.release("asample")
    await asyncio.gather(*futures)


def test_backpressure_and_drops_are_tried_again_under_the_same_number(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    busy = Reply(429, headers={"retry-after-ms": "5"})
    server.script("asample", *[busy] * 15, DROP)
    sampling.sample(PROMPT, 1, PARAMS).result(10)
    bodies = {request.body for request in server.of("asample")}
    assert len(server.of("asample")) == 17
    assert len(bodies) == 1
    assert server.of("asample")[0].headers["x-tinker-sampling-backpressure"] == "1"


def test_a_lost_sample_is_drawn_again_under_a_new_number(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.script("retrieve_future", Reply(410, {"detail": "gone"}))
    sampling.sample(PROMPT, 1, PARAMS).result(10)
    assert [r.json["seq_id"] for r in server.of("asample")] == [0, 1]


def test_without_retries_everything_is_sent_once(
    server: RecordingServer, service: ServiceClient
) -> None:
    config = RetryConfig(enable_retry_logic=False)
    sampling = service.create_sampling_client(
        base_model="tinsmith/tiny", retry_config=config
    ).result(10)
    server.script("asample", Reply(503))
    with pytest.raises(APIError):
        sampling.sample(PROMPT, 1, PARAMS).result(5)
    server.script("retrieve_future", Reply(410))
    with pytest.raises(RequestFailedError):
        sampling.sample(PROMPT, 1, PARAMS).result(5)
    assert len(server.of("asample")) == 2


def test_a_refusal_or_failure_is_not_tried_again(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.script("asample", Reply(400, {"message": "top_k=0: must be -1 or above 0"}))
    with pytest.raises(BadRequestError, match="top_k=0"):
        sampling.sample(PROMPT, 1, PARAMS).result(5)
    server.script("retrieve_future", Reply(body={"error": "Prompt too long", "category": "user"}))
    with pytest.raises(RequestFailedError, match="Prompt too long"):
        sampling.sample(PROMPT, 1, PARAMS).result(5)
    assert len(server.of("asample")) == 2


async def test_samples_that_make_no_progress_fail_instead_of_waiting_for_ever(
    server: RecordingServer, service: ServiceClient
) -> None:
    sampling = await service.create_sampling_client(
        base_model="tinsmith/tiny", retry_config=RetryConfig(progress_timeout=0.6)
    )
    await sampling.sample(PROMPT, 1, PARAMS)
    await asyncio.sleep(0.7)  # idle time is not lack of progress
    await sampling.sample(PROMPT, 1, PARAMS)
    server.hold("asample")
    with pytest.raises(APIConnectionError, match=r"No progress made in 0.6s"):
        await sampling.sample(PROMPT, 1, PARAMS)


async def test_giving_up_a_sample_stops_polling(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.hold("asample")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sampling.sample(PROMPT, 1, PARAMS), 0.2)
    await asyncio.sleep(0.4)
    polls = len(server.of("retrieve_future"))
    await asyncio.sleep(0.5)
    assert len(server.of("retrieve_future")) == polls


async def test_the_async_twins_await_to_the_result(
    server: RecordingServer, service: ServiceClient
) -> None:
    sampling = await service.create_sampling_client_async(model_path="tinker://a/sampler_weights/b")
    assert (await sampling.sample_async(PROMPT, 1, PARAMS)).sequences[0].tokens == [3, 2, 1]
    assert await sampling.compute_logprobs_async(PROMPT) == [None, -1.0, -1.0]
    assert await sampling.get_base_model_async() == "tinsmith/tiny"
    assert "samplers/S:sample:0" in server.paths()  # only the service knows the base model
    assert server.of("create_sampling_session")[0].json == {
        "session_id": "S",
        "sampling_session_seq_id": 0,
        "model_path": "tinker://a/sampler_weights/b",
        "type": "create_sampling_session",
    }


def test_what_cannot_be_sampled_is_refused_before_anything_is_sent(
    server: RecordingServer, service: ServiceClient
) -> None:
    with pytest.raises(UserError, match="needs model_path or base_model"):
        service.create_sampling_client()
    with pytest.raises(UserError, match="must start with tinker://"):
        service.create_sampling_client(model_path="runs/x")
    assert server.requests == []


def test_a_prompt_of_another_type_is_refused_by_name(sampling: SamplingClient) -> None:
    prompt: Any = [1, 2]
    for call in (sampling.sample, sampling.stream):
        with pytest.raises(UserError, match=r"prompt: a list; must be a ModelInput"):
            call(prompt, num_samples=1, sampling_params=SamplingParams(max_tokens=1))


def test_a_base_model_that_the_weights_are_not_of_is_refused(
    server: RecordingServer, service: ServiceClient
) -> None:
    path = "tinker://S:train:0/sampler_weights/w"
    assert service.create_sampling_client(path, "tinsmith/tiny").result(10) is not None
    with pytest.raises(UserError, match="base_model='other': these weights are of 'tinsmith/tiny'"):
        service.create_sampling_client(path, "other").result(10)


def test_a_sampling_client_says_what_it_is(sampling: SamplingClient) -> None:
    assert repr(sampling) == (
        "SamplingClient(sampling_session_id='S:sample:0', base_model='tinsmith/tiny')"
    )


def test_the_options_of_a_sample_travel(server: RecordingServer, sampling: SamplingClient) -> None:
    table = TopkLogprobs(np.full((3, 2), 5, np.int32), np.zeros((3, 2), np.float32))
    tokens = TensorData.from_numpy(np.zeros((2, 4), np.int64))
    logprobs = TensorData.from_numpy(np.zeros((2, 4), np.float32))

    def full(response: SampleResponse) -> SampleResponse:
        sequences = [
            SampledSequence(
                stop_reason=one.stop_reason,
                sequence_id=one.sequence_id,
                tokens_np=one.tokens_np,
                topk_logprobs_np=table,
            )
            for one in response.sequences
        ]
        return SampleResponse(
            sequences=sequences,
            prompt_logprobs_np=response.prompt_logprobs_np,
            topk_prompt_logprobs_np=table,
            target_prompt_logprobs=logprobs,
            prompt_alt_tokens=PromptAltTokens(tokens, logprobs),
        )

    server.sampled = full
    ids = np.full((2, 5), -1, np.int64)
    ids[1, 4] = 9
    response = sampling.sample(
        PROMPT,
        1,
        PARAMS,
        include_prompt_logprobs=True,
        topk_prompt_logprobs=2,
        topk_sample_logprobs=2,
        target_prompt_logprobs=TensorData.from_numpy_sparse(ids, pad_value=-1),
        prompt_alt_tokens_k=4,
        prompt_logprobs_last_n=1,
    ).result(5)
    assert response.prompt_logprobs == [None, None, -1.0]
    assert response.prompt_alt_tokens == PromptAltTokens(tokens, logprobs)
    assert response.sequences[0].topk_logprobs_np == table
    body = server.of("asample")[0].json
    assert body["target_prompt_logprobs"] == {
        "data": [9],
        "dtype": "int64",
        "shape": [2, 5],
        "sparse_crow_indices": [0, 0, 1],
        "sparse_col_indices": [4],
    }
    names = ("topk_prompt_logprobs", "topk_sample_logprobs", "prompt_alt_tokens_k")
    assert [body[name] for name in names] == [2, 2, 4]
    assert (body["prompt_logprobs_last_n"], body["record_stability_info"]) == (1, False)


async def test_the_end_of_a_prompt_can_be_scored_alone(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    assert await sampling.compute_logprobs(PROMPT, 1) == [None, None, -1.0]
    assert await sampling.compute_logprobs_async(PROMPT, prompt_logprobs_last_n=2) == [
        None,
        -1.0,
        -1.0,
    ]
    assert "prompt_logprobs_last_n" in server.of("asample")[0].json


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"prompt_alt_tokens_k": -1}, "prompt_alt_tokens_k=-1: must be 0 or more"),
        ({"topk_sample_logprobs": -1}, "topk_sample_logprobs=-1: must be 0 or more"),
        ({"prompt_logprobs_last_n": 1}, "no prompt logprobs to leave out"),
        (
            {"include_prompt_logprobs": True, "prompt_logprobs_last_n": 0},
            "prompt_logprobs_last_n=0: must be 1 or more",
        ),
        (
            {"target_prompt_logprobs": TensorData.from_numpy(np.zeros((2, 1), np.float32))},
            r"float32 of shape \[2, 1\]; must be int64",
        ),
        (
            {"target_prompt_logprobs": TensorData.from_numpy(np.zeros(2, np.int64))},
            r"int64 of shape \[2\]; must be int64 of shape \[len\(prompt\) - 1, k\]",
        ),
        ({"target_prompt_logprobs": [[1]]}, "a list; must be a TensorData"),
    ],
)
def test_an_option_that_nobody_could_answer_is_refused_at_once(
    server: RecordingServer,
    sampling: SamplingClient,
    options: dict[str, object],
    complaint: str,
) -> None:
    with pytest.raises(UserError, match=complaint):
        sampling.sample(PROMPT, 1, PARAMS, **options)  # type: ignore[arg-type]
    assert server.of("asample") == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"topk_prompt_logprobs": 2}, "topk_prompt_logprobs was asked for"),
        ({"topk_sample_logprobs": 2}, "topk_sample_logprobs was asked for"),
        ({"prompt_alt_tokens_k": 2}, "prompt_alt_tokens_k was asked for"),
        (
            {"target_prompt_logprobs": TensorData.from_numpy(np.zeros((2, 1), np.int64))},
            "target_prompt_logprobs was asked for",
        ),
    ],
)
def test_a_service_that_ignores_an_option_is_told_on(
    sampling: SamplingClient, options: dict[str, object], complaint: str
) -> None:
    with pytest.raises(APIResponseValidationError, match=f"{complaint} and did not come"):
        sampling.sample(PROMPT, 1, PARAMS, **options).result(5)  # type: ignore[arg-type]


def test_logprobs_of_what_should_be_left_out_are_refused(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    server.sampled = lambda response: SampleResponse(
        sequences=response.sequences, prompt_logprobs_np=np.array([np.nan, -1.0, -1.0], np.float32)
    )
    with pytest.raises(APIResponseValidationError, match="logprobs before that came"):
        sampling.compute_logprobs(PROMPT, 1).result(5)
    assert sampling.compute_logprobs(PROMPT, 2).result(5) == [None, -1.0, -1.0]


async def test_without_stuck_detection_samples_wait_for_as_long_as_it_takes(
    server: RecordingServer, service: ServiceClient
) -> None:
    config = RetryConfig(progress_timeout=0.2, enable_stuck_detection=False)
    sampling = await service.create_sampling_client(base_model="tinsmith/tiny", retry_config=config)
    server.hold("asample")
    future = sampling.sample(PROMPT, 1, PARAMS)
    await asyncio.sleep(0.5)
    assert not future.done()
    server.release("asample")
    assert (await future).sequences[0].tokens == [3, 2, 1]
