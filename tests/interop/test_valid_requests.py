"""Whatever is asked for in the allowed form ends in a result, or in a refusal of the sender's."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.service_process import PROTOBUF, ServiceProcess, WireClient, WireModel
from tests.interop.conftest import API_KEY
from tests.unit.types.strategies import MODEL_INPUTS, SAMPLING_PARAMS, datums
from tinsmith.types import AdamParams, Datum, ModelInput, SamplingParams
from tinsmith.types.codec import encode_forward_backward_request

pytestmark = pytest.mark.integration

NUM_EXAMPLES = 400 if os.environ.get("TINSMITH_SLOW") else 40
BOUNDED = settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,  # a real service: how long a request takes is not the property
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LOSSES = ("cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo")
NUMBERS = st.floats(-4, 4, width=32)


@pytest.fixture(scope="module")
def wire(service: ServiceProcess) -> Iterator[WireClient]:
    client = WireClient({**service.ready, "api_key": API_KEY})
    yield client
    client.http.close()


@pytest.fixture(scope="module")
def model(wire: WireClient) -> WireModel:
    return wire.create_model(rank=2)


@pytest.fixture(scope="module")
def sampler(wire: WireClient, model: WireModel) -> tuple[str, Iterator[int]]:
    path = model.save("save_weights_for_sampler", "valid")
    return wire.create_sampler(0, model_path=path), iter(range(10**6))


def end_of(wire: WireClient, status: int, answer: dict[str, object]) -> str:
    """How a request ended: "ok", or "refused: ..."; anything else fails the test."""
    assert status < 500, answer
    if status != 200:
        assert answer["category"] == "user", answer
        assert answer["message"]
        return f"refused: {answer['message']}"
    result = wire.wait(str(answer["request_id"]))
    if isinstance(result, dict) and "error" in result:
        assert result["category"] == "user", result
        return f"refused: {result['error']}"
    return "ok"


def forward_backward(model: WireModel, data: list[Datum], loss_fn: str) -> str:
    model.seq_id += 1
    body = encode_forward_backward_request(model.model_id, model.seq_id, data, loss_fn, {})
    headers = {"Content-Type": PROTOBUF}
    response = model.client.http.post("forward_backward", content=body, headers=headers)
    return end_of(model.client, response.status_code, response.json())


@st.composite
def proper_datums(draw: st.DrawFn, names: tuple[str, ...]) -> Datum:
    length = draw(st.integers(1, 12))
    tokens = st.lists(st.integers(0, 499), min_size=length, max_size=length)
    numbers = st.lists(NUMBERS, min_size=length, max_size=length)
    inputs: dict[str, object] = {"target_tokens": draw(tokens)}
    inputs |= {
        name: [1.0] * length if name == "sequence_ratio_mask" else draw(numbers) for name in names
    }
    return Datum(ModelInput.from_ints(draw(tokens)), inputs)  # type: ignore[arg-type]


@BOUNDED
@given(data=st.data(), loss_fn=st.sampled_from(LOSSES))
def test_proper_data_always_has_a_result(
    model: WireModel, data: st.DataObject, loss_fn: str
) -> None:
    names = ("weights",) if loss_fn == "cross_entropy" else ("logprobs", "advantages")
    names += ("sequence_ratio_mask",) if loss_fn == "gspo" else ()
    batch = data.draw(st.lists(proper_datums(names), min_size=1, max_size=4))
    assert forward_backward(model, batch, loss_fn) == "ok"


@BOUNDED
@given(batch=st.lists(datums(), max_size=3), loss_fn=st.sampled_from(LOSSES))
def test_data_of_any_content_is_answered(
    model: WireModel, batch: list[Datum], loss_fn: str
) -> None:
    assert forward_backward(model, batch, loss_fn)


@BOUNDED
@given(
    params=st.builds(
        AdamParams,
        learning_rate=st.floats(0, 10),
        beta1=st.floats(0, 0.999),
        beta2=st.floats(0, 0.999),
        eps=st.floats(1e-12, 1),
        weight_decay=st.floats(0, 1),
        grad_clip_norm=st.floats(0, 1e6),
    )
)
def test_optimizer_steps_of_any_size_are_answered(model: WireModel, params: AdamParams) -> None:
    model.seq_id += 1
    body = {"model_id": model.model_id, "seq_id": model.seq_id}
    adam = params.model_dump(mode="json")
    response = model.client.http.post("optim_step", json={**body, "adam_params": adam})
    assert end_of(model.client, response.status_code, response.json())


@BOUNDED
@given(data=st.data())
def test_samples_with_any_options_are_answered(
    wire: WireClient, sampler: tuple[str, Iterator[int]], data: st.DataObject
) -> None:
    sampler_id, numbers = sampler
    params: SamplingParams = data.draw(SAMPLING_PARAMS)
    short = params.model_copy(update={"max_tokens": min(params.max_tokens or 4, 8)})
    tokens = st.lists(st.integers(0, 499), min_size=1, max_size=12).map(ModelInput.from_ints)
    prompt: ModelInput = data.draw(tokens | MODEL_INPUTS)
    options: dict[str, object] = {
        "num_samples": data.draw(st.integers(1, 3)),
        "prompt_logprobs": data.draw(st.booleans()),
        "topk_prompt_logprobs": data.draw(st.integers(0, 3)),
        "topk_sample_logprobs": data.draw(st.integers(0, 3)),
        "prompt_alt_tokens_k": data.draw(st.integers(0, 3)),
    }
    response = wire.http.post(
        "asample",
        json={
            "sampling_session_id": sampler_id,
            "seq_id": next(numbers),
            "prompt": prompt.model_dump(mode="json"),
            "sampling_params": short.model_dump(mode="json"),
            **options,
        },
    )
    end_of(wire, response.status_code, response.json())
