import math

import numpy as np
import pytest
from hypothesis import given
from pydantic import BaseModel

from tests.unit.types.strategies import MODEL_INPUTS, SAMPLING_PARAMS
from tinsmith.core.errors import ConfigError, UserError
from tinsmith.types import (
    AdamParams,
    Checkpoint,
    CreateModelRequest,
    FutureRetrieveRequest,
    GetInfoResponse,
    LoadWeightsRequest,
    LoraConfig,
    ModelInput,
    OptimStepRequest,
    ParsedCheckpointTinkerPath,
    SampleRequest,
    SamplingParams,
    SaveWeightsRequest,
    TensorData,
    parse_request,
)

NAN, INF = math.nan, math.inf


@given(SAMPLING_PARAMS)
def test_sampling_params_round_trip_through_json(params: SamplingParams) -> None:
    assert SamplingParams.model_validate_json(params.model_dump_json()) == params


@given(MODEL_INPUTS, SAMPLING_PARAMS)
def test_sample_requests_round_trip_as_they_are_sent(
    prompt: ModelInput, params: SamplingParams
) -> None:
    request = SampleRequest(prompt=prompt, sampling_params=params, seq_id=0)
    body = request.model_dump(mode="json", exclude_none=True)
    assert parse_request(SampleRequest, body) == request


def test_defaults_are_the_protocols() -> None:
    assert AdamParams().model_dump() == {
        "learning_rate": 1e-4,
        "beta1": 0.9,
        "beta2": 0.95,
        "eps": 1e-12,
        "weight_decay": 0.0,
        "grad_clip_norm": 0.0,
    }
    assert SamplingParams().model_dump(exclude_none=True) == {
        "temperature": 1.0,
        "top_k": -1,
        "top_p": 1.0,
    }
    assert LoraConfig(rank=32).model_dump(exclude_none=True) == {
        "rank": 32,
        "train_unembed": True,
        "train_mlp": True,
        "train_attn": True,
    }


@pytest.mark.parametrize(
    ("settings", "bad", "message"),
    [
        *[
            (AdamParams, {name: value}, f"{name}={value}: must be 0 or more, and finite")
            for name in ("learning_rate", "weight_decay", "grad_clip_norm")
            for value in (-1.0, NAN, INF)
        ],
        *[
            (AdamParams, {name: value}, f"{name}={value}: must be in [0, 1)")
            for name in ("beta1", "beta2")
            for value in (-0.1, 1.0, NAN)
        ],
        *[
            (AdamParams, {"eps": value}, f"eps={value}: must be above 0, and finite")
            for value in (0.0, -1.0, INF, NAN)
        ],
        *[
            (LoraConfig, {"rank": value}, f"rank={value}: must be 1..256; try rank=32")
            for value in (0, -1, 257)
        ],
        *[
            (SamplingParams, {"temperature": v}, f"temperature={v}: must be 0 or more, and finite")
            for v in (-0.1, NAN, INF)
        ],
        *[(SamplingParams, {"top_p": v}, f"top_p={v}: must be in (0, 1]") for v in (0.0, 1.1, NAN)],
        *[
            (SamplingParams, {"top_k": v}, f"top_k={v}: must be -1 (off), or 1 or more")
            for v in (0, -2)
        ],
        *[
            (SamplingParams, {"max_tokens": v}, f"max_tokens={v}: must be 1 or more")
            for v in (0, -1)
        ],
        (SamplingParams, {"seed": 2**63}, f"seed={2**63}: must fit in 64 bits"),
        (SamplingParams, {"temp": 1}, "temp: unknown field"),
        (AdamParams, {"lr": 1}, "lr: unknown field"),
        (LoraConfig, {}, "rank: missing"),
    ],
)
def test_bad_values_are_refused_with_the_rule(settings: type, bad: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**bad)
    assert str(caught.value).startswith(message)
    assert caught.value.field == message.split("=")[0].split(":")[0]


@pytest.mark.parametrize(
    ("settings", "edge"),
    [
        (AdamParams, {"learning_rate": 0, "beta1": 0, "weight_decay": 0}),
        (LoraConfig, {"rank": 1}),
        (LoraConfig, {"rank": 256}),
        (SamplingParams, {"temperature": 0, "top_k": 1, "top_p": 1, "max_tokens": 1}),
    ],
)
def test_the_edges_are_allowed(settings: type, edge: dict) -> None:
    settings(**edge)


@pytest.mark.parametrize("stop", [None, "x", [], ["a", "b"], [1, 2], (3,), np.array([4])])
def test_forms_of_stop(stop: object) -> None:
    kept = SamplingParams(stop=stop).stop
    assert kept == (stop if stop is None or isinstance(stop, str) else list(stop))


@pytest.mark.parametrize("stop", ["", ["a", ""], ["a", 1], [-1], [2**31], [True], [1.0], 5, {"a"}])
def test_what_cannot_stop_is_refused(stop: object) -> None:
    with pytest.raises(ConfigError, match="stop"):
        SamplingParams(stop=stop)


def test_an_empty_stop_list_stays_on_the_wire() -> None:
    assert SamplingParams(stop=[]).model_dump(mode="json", exclude_none=True)["stop"] == []


def test_a_nested_mistake_is_named_by_its_path() -> None:
    body = {"session_id": "s", "model_seq_id": 0, "base_model": "b", "lora_config": {"rank": 0}}
    with pytest.raises(ConfigError, match=r"^lora_config\.rank=0: must be 1\.\.256; try rank=32$"):
        parse_request(CreateModelRequest, body)
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [-1]}]}
    with pytest.raises(UserError, match=r"^prompt\.chunks\.0\.tokens: token id -1") as caught:
        parse_request(SampleRequest, {"prompt": prompt, "sampling_params": {}})
    assert caught.value.field == "prompt.chunks.0.tokens"
    with pytest.raises(UserError, match="target_prompt_logprobs"):
        parse_request(
            SampleRequest,
            {
                "prompt": {"chunks": []},
                "sampling_params": {},
                "target_prompt_logprobs": {"data": [1], "dtype": "int8"},
            },
        )


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"^session_id: missing \(and 2 more\)"):
        parse_request(CreateModelRequest, {})


def test_the_rich_request_of_the_protocol_is_read() -> None:
    body = {
        "num_samples": 2,
        "prompt": {"chunks": [{"tokens": [5, 6, 7], "type": "encoded_text"}]},
        "sampling_params": {"max_tokens": 3, "stop": ["\n"], "temperature": 0.7},
        "sampling_session_id": "S:sample:0",
        "seq_id": 0,
        "prompt_logprobs": None,
        "target_prompt_logprobs": {
            "data": [9],
            "dtype": "int64",
            "shape": [3, 5],
            "sparse_crow_indices": [0, 1, 1, 1],
            "sparse_col_indices": [4],
        },
        "prompt_logprobs_last_n": 2,
        "record_stability_info": True,
        "type": "sample",
    }
    request = parse_request(SampleRequest, body)
    assert request.prompt.to_ints() == [5, 6, 7]
    assert request.prompt_logprobs is False
    assert request.target_prompt_logprobs == TensorData([9], "int64", [3, 5], [0, 1, 1, 1], [4])
    sent = request.model_dump(mode="json", exclude_none=True)
    assert sent["target_prompt_logprobs"] == body["target_prompt_logprobs"]


@pytest.mark.parametrize("name", ["optim_params", "adam_params", "optimizer_params"])
def test_an_optimizer_step_is_read_under_each_of_its_names(name: str) -> None:
    body = {"model_id": "m", "seq_id": 2, "type": "optim_step", name: {"learning_rate": 0.5}}
    request = parse_request(OptimStepRequest, body)
    assert request.optim_params.learning_rate == 0.5
    assert "adam_params" in request.model_dump(by_alias=True)


def test_responses_ignore_what_they_do_not_know() -> None:
    body = {"model_id": "m", "model_data": {"arch": "llama", "new": 1}, "newer": True}
    assert GetInfoResponse.model_validate(body).model_data.arch == "llama"
    checkpoint = {
        "checkpoint_id": "weights/a",
        "checkpoint_type": "training",
        "time": "2026-01-01T00:00:00Z",
        "tinker_path": "tinker://r/weights/a",
    }
    assert Checkpoint.model_validate(checkpoint).public is False


@pytest.mark.parametrize(
    ("segment", "kind"),
    [("weights", "training"), ("sampler_weights", "sampler"), ("external_weights", "external")],
)
def test_a_checkpoints_address_comes_apart(segment: str, kind: str) -> None:
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(f"tinker://s:train:0/{segment}/a")
    assert (parsed.training_run_id, parsed.checkpoint_type) == ("s:train:0", kind)
    assert parsed.checkpoint_id == f"{segment}/a"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "weights/a",
        "tinker://r/weights",
        "tinker://r/other/a",
        "tinker://r/weights/a/b",
        "tinker:///weights/a",
        "tinker://r/weights/",
        "http://r/weights/a",
    ],
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(UserError, match="path="):
        ParsedCheckpointTinkerPath.from_tinker_path(address)


def test_a_top_k_that_no_array_can_hold_is_refused_by_name() -> None:
    assert SamplingParams(top_k=2**63 - 1).top_k == 2**63 - 1
    with pytest.raises(ValueError, match="top_k"):
        SamplingParams(top_k=2**63)


@pytest.mark.parametrize("value", ["false", "true", 1, 0, "no"])
@pytest.mark.parametrize(
    ("request_type", "field", "rest"),
    [
        (SaveWeightsRequest, "overwrite", {"model_id": "m"}),
        (LoadWeightsRequest, "optimizer", {"path": "p"}),
        (FutureRetrieveRequest, "allow_metadata_only", {"request_id": "r"}),
        (LoraConfig, "train_mlp", {"rank": 4}),
        (
            SampleRequest,
            "prompt_logprobs",
            {"prompt": {"chunks": []}, "sampling_params": {}},
        ),
    ],
)
def test_a_flag_is_true_or_false_and_no_text(
    request_type: type[BaseModel], field: str, rest: dict[str, object], value: object
) -> None:
    with pytest.raises(ConfigError, match=f"{field}=.*valid boolean"):
        parse_request(request_type, {**rest, field: value})


def test_prompt_logprobs_may_be_null() -> None:
    body = {"prompt": {"chunks": []}, "sampling_params": {}, "prompt_logprobs": None}
    assert SampleRequest.model_validate(body).prompt_logprobs is False
