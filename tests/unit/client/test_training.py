from typing import Any

import numpy as np
import pytest

from tests.unit.client.recording_server import DROP, RecordingServer, Reply
from tinsmith.client import (
    APIFuture,
    BadRequestError,
    RequestFailedError,
    ServiceClient,
    TrainingClient,
)
from tinsmith.core.errors import DataError, UserError
from tinsmith.types import AdamParams, Datum, ImageAssetPointerChunk, ModelInput, SamplingParams
from tinsmith.types.codec import decode_forward_backward_request

ADAM = AdamParams(learning_rate=1e-3)
BAD = Datum(  # cannot travel in a training request
    model_input=ModelInput(
        chunks=[ImageAssetPointerChunk(format="png", location="x", expected_tokens=1)]
    ),
    loss_fn_inputs={"target_tokens": [1]},
)


def datum(*tokens: int) -> Datum:
    return Datum(
        model_input=ModelInput.from_ints(list(tokens)),
        loss_fn_inputs={"target_tokens": list(tokens), "weights": [1.0] * len(tokens)},
    )


def values(output: object) -> list[list[float]]:
    outputs = output.loss_fn_outputs  # type: ignore[attr-defined]
    return [list(o["logprobs"].to_numpy()) for o in outputs]


def test_the_optimizer_step_is_submitted_while_the_gradient_is_computed(
    server: RecordingServer, training: TrainingClient
) -> None:
    server.hold("forward_backward")
    gradient = training.forward_backward([datum(1, 2)], "cross_entropy")
    step = training.optim_step(ADAM)
    server.wait_for("optim_step")
    assert not gradient.done()
    assert step.result(5).metrics == {"grad_norm": 1.0}
    assert not gradient.done()
    server.release("forward_backward")
    assert values(gradient.result(5)) == [[1.0, 2.0]]


def test_several_steps_go_out_in_order_without_waiting(
    server: RecordingServer, training: TrainingClient
) -> None:
    server.hold("forward_backward")
    futures: list[APIFuture[object]] = []
    for i in range(4):
        futures.append(training.forward_backward([datum(i)], "cross_entropy"))  # type: ignore[arg-type]
        futures.append(training.optim_step(ADAM))  # type: ignore[arg-type]
    futures.append(training.save_state("end"))  # type: ignore[arg-type]
    server.wait_for("save_weights")
    expected = [("forward_backward", 1), ("optim_step", 2)]
    expected = [(path, seq_id + 2 * i) for i in range(4) for path, seq_id in expected]
    assert server.seq_ids() == [*expected, ("save_weights", 9)]
    server.release("forward_backward")
    for future in futures:
        future.result(5)


def test_the_request_on_the_wire_is_what_was_asked(
    server: RecordingServer, training: TrainingClient
) -> None:
    config = {"clip_low_threshold": 0.8, "loss_id": "x"}
    training.forward([datum(5, 6)], "ppo", config).result(5)
    training.forward_backward([datum(7)], "cross_entropy").result(5)
    first, second = (decode_forward_backward_request(r.body) for r in server.of("forward_backward"))
    assert (first.model_id, first.seq_id, first.forward_only) == ("S:train:0", 1, True)
    assert (first.loss_fn, dict(first.loss_fn_config)) == ("ppo", config)
    assert first.data[0].model_input.to_ints() == [5, 6]
    assert (second.seq_id, second.forward_only) == (2, False)
    assert server.of("forward_backward")[0].headers["content-type"] == "application/x-protobuf"
    types = [r.headers["x-tinker-request-type"] for r in server.of("retrieve_future")]
    assert types == ["CreateModel", "Forward", "ForwardBackward"]


@pytest.mark.parametrize("parallel", [True, False])
def test_a_large_batch_travels_in_chunks_and_comes_back_as_one(
    server: RecordingServer, parallel: bool
) -> None:
    server.config = {"fwdbwd_max_chunk_len": 2, "parallel_fwdbwd_chunks": parallel}
    server.metrics = lambda request: {
        "loss:sum": float(len(request.data)),
        "x:mean": float(request.seq_id),
        "step:unique": float(request.seq_id),
    }
    with ServiceClient(base_url=server.url) as service:
        training = service.create_lora_training_client("tinsmith/tiny").result(10)
        gradient = training.forward_backward([datum(i) for i in range(5)], "cross_entropy")
        step = training.optim_step(ADAM)
        output = gradient.result(10)
        step.result(10)
    assert values(output) == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    assert output.metrics == {
        "loss:sum": 5.0,
        "x:mean": pytest.approx((1 * 2 + 2 * 2 + 3 * 1) / 5),
        "step:unique": 1.0,
        "step:unique_1": 2.0,
        "step:unique_2": 3.0,
    }
    arrived = server.seq_ids()
    assert sorted(arrived[:3]) == [("forward_backward", i) for i in (1, 2, 3)]
    if not parallel:
        assert arrived[:3] == sorted(arrived[:3])
    assert arrived[3] == ("optim_step", 4)


def test_a_refused_submission_fails_alone_and_the_next_takes_the_next_number(
    server: RecordingServer, training: TrainingClient
) -> None:
    refusal = Reply(400, {"message": "loss_fn='x': unknown", "field": "loss_fn", "hint": "try y"})
    server.script("forward_backward", refusal)
    refused = training.forward_backward([datum(1)], "x")
    step = training.optim_step(ADAM)
    with pytest.raises(BadRequestError, match=r"loss_fn='x': unknown.*try y") as caught:
        refused.result(5)
    assert caught.value.field == "loss_fn"
    step.result(5)
    assert server.seq_ids() == [("forward_backward", 1), ("optim_step", 2)]


@pytest.mark.parametrize("parallel", [True, False])
def test_a_chunk_that_is_refused_fails_the_call_and_the_others_are_still_sent(
    server: RecordingServer, parallel: bool
) -> None:
    server.config = {"fwdbwd_max_chunk_len": 1, "parallel_fwdbwd_chunks": parallel}
    with ServiceClient(base_url=server.url) as service:
        training = service.create_lora_training_client("tinsmith/tiny").result(10)
        server.script("forward_backward", Reply(400, {"message": "no"}))
        with pytest.raises(BadRequestError):
            training.forward_backward([datum(1), datum(2), datum(3)], "cross_entropy").result(5)
        training.optim_step(ADAM).result(5)
    assert len(server.of("forward_backward")) == 3


def test_a_request_that_failed_later_leaves_the_client_usable(
    server: RecordingServer, training: TrainingClient
) -> None:
    gradient = training.forward_backward([datum(1)], "cross_entropy")
    gradient.result(5)
    server.script("retrieve_future", Reply(body={"error": "datum 0: NaN", "category": "user"}))
    with pytest.raises(RequestFailedError, match="datum 0: NaN") as caught:
        training.forward_backward([datum(1)], "cross_entropy").result(5)
    assert caught.value.category == "user"
    training.optim_step(ADAM).result(5)


def test_a_dropped_submission_is_sent_again_with_its_number(
    server: RecordingServer, training: TrainingClient
) -> None:
    server.script("optim_step", DROP)
    training.optim_step(ADAM).result(10)
    first, second = server.of("optim_step")
    assert first.body == second.body
    assert first.headers["x-idempotency-key"] == second.headers["x-idempotency-key"]


def test_the_data_is_taken_when_the_call_is_made(
    server: RecordingServer, training: TrainingClient
) -> None:
    weights = np.array([1.0, 2.0], np.float32)
    data = [
        Datum(
            model_input=ModelInput.from_ints([1, 2]),
            loss_fn_inputs={"target_tokens": [2, 3], "weights": weights},
        )
    ]
    gradient = training.forward_backward(data, "cross_entropy")
    weights[:] = 9.0
    gradient.result(5)
    sent = decode_forward_backward_request(server.of("forward_backward")[0].body)
    assert list(sent.data[0].loss_fn_inputs["weights"].to_numpy()) == [1.0, 2.0]


def test_no_data_is_refused_before_anything_is_sent(
    server: RecordingServer, training: TrainingClient
) -> None:
    with pytest.raises(ValueError, match="No data provided"):
        training.forward_backward([], "cross_entropy")
    training.optim_step(ADAM).result(5)
    assert server.seq_ids() == [("optim_step", 1)]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (None, "data: a NoneType; must be a list"),
        ("text", "data: a str; must be a list"),
        (datum(1), "data: a Datum; must be a list"),
        ([datum(1), {"model_input": [1]}], r"data\[1\]: a dict; must be a Datum"),
    ],
)
def test_data_of_another_type_is_refused_by_name(
    server: RecordingServer, training: TrainingClient, data: Any, what: str
) -> None:
    for call in (
        lambda: training.forward_backward(data, "cross_entropy"),
        lambda: training.forward_backward_custom(data, lambda data, logprobs: (logprobs[0], {})),
    ):
        with pytest.raises(UserError, match=what):
            call()
    assert server.of("forward_backward") == []


def test_data_may_come_from_a_generator(training: TrainingClient) -> None:
    output = training.forward((datum(i) for i in (1, 2)), "cross_entropy")  # type: ignore[arg-type]
    assert len(output.result(10).loss_fn_outputs) == 2


def test_a_loss_is_named_by_a_text_and_set_by_a_dict(training: TrainingClient) -> None:
    loss: Any = lambda data, logprobs: (logprobs[0], {})
    settings: Any = [1.0]
    with pytest.raises(UserError, match="a function goes to forward_backward_custom"):
        training.forward_backward([datum(1)], loss)
    with pytest.raises(UserError, match="loss_fn_config: a list"):
        training.forward_backward([datum(1)], "ppo", settings)


def test_a_datum_that_cannot_be_sent_uses_up_no_number(
    server: RecordingServer, training: TrainingClient
) -> None:
    with pytest.raises(DataError, match=r"data\[1\]") as caught:
        training.forward_backward([datum(1), BAD], "cross_entropy")
    assert caught.value.datum_index == 1
    training.optim_step(ADAM).result(5)
    assert server.seq_ids() == [("optim_step", 1)]


def test_an_error_in_a_later_chunk_says_where_its_indices_begin(server: RecordingServer) -> None:
    server.config = {"fwdbwd_max_chunk_len": 2, "parallel_fwdbwd_chunks": False}
    where = "datum indices here count from datum 2 of the call"
    with ServiceClient(base_url=server.url) as service:
        training = service.create_lora_training_client("tinsmith/tiny").result(10)
        with pytest.raises(DataError, match=where) as caught:
            training.forward_backward([datum(1), datum(2), datum(3), BAD], "cross_entropy")
        assert caught.value.datum_index == 3
        server.script("retrieve_future", *[Reply(body={"error": "data[0]", "category": "user"})])
        with pytest.raises(RequestFailedError) as failed:
            training.forward_backward([datum(1)], "cross_entropy").result(5)
        assert failed.value.hint is None
        ok = Reply(body={"request_id": "r1"})
        server.script("forward_backward", ok, Reply(400, {"message": "data[0]: bad", "hint": "h"}))
        with pytest.raises(BadRequestError, match=f"h; {where}"):
            training.forward_backward([datum(1), datum(2), datum(3)], "cross_entropy").result(5)


def test_optim_step_takes_exactly_one_set_of_parameters(
    server: RecordingServer, training: TrainingClient
) -> None:
    with pytest.raises(UserError, match="exactly one"):
        training.optim_step()
    with pytest.raises(UserError, match="such as AdamParams"):
        training.optim_step({"learning_rate": 1e-3})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="exactly one"):
        training.optim_step(ADAM, adam_params=ADAM)
    training.optim_step(adam_params=ADAM).result(5)
    body = server.of("optim_step")[0].json
    assert body["adam_params"]["learning_rate"] == 1e-3
    assert (body["model_id"], body["seq_id"], body["type"]) == ("S:train:0", 1, "optim_step")


def test_saving_and_loading_say_what_the_protocol_says(
    server: RecordingServer, training: TrainingClient
) -> None:
    saved = training.save_state("a", ttl_seconds=3600, overwrite=True).result(5)
    assert saved.path == "tinker://S:train:0/weights/a"
    training.load_state(saved.path).result(5)
    training.load_state_with_optimizer(saved.path).result(5)
    sampler = training.save_weights_for_sampler("b").result(5)
    assert sampler.path == "tinker://S:train:0/sampler_weights/b"
    save = server.of("save_weights")[0].json
    assert save == {
        "path": "a",
        "ttl_seconds": 3600,
        "overwrite": True,
        "model_id": "S:train:0",
        "seq_id": 1,
        "type": "save_weights",
    }
    assert [r.json["optimizer"] for r in server.of("load_weights")] == [False, True]
    assert [r.json["seq_id"] for r in server.of("load_weights")] == [2, 3]
    assert server.of("save_weights_for_sampler")[0].json["seq_id"] == 4


def test_the_options_of_saving_and_loading_travel(
    server: RecordingServer, training: TrainingClient
) -> None:
    training.save_state("a", 7200, True, {"k": "v"}).result(5)
    training.save_weights_for_sampler("b", ttl_seconds=3600, user_metadata={"k": "v"}).result(5)
    exported = training.save_weights_external("e", 3600, ["age1x"]).result(5)
    assert exported.path == "tinker://S:train:0/external_weights/e"
    training.load_state("tinker://a/weights/b", weights_access_token="t").result(5)
    assert server.of("save_weights")[0].json == {
        "model_id": "S:train:0",
        "path": "a",
        "seq_id": 1,
        "ttl_seconds": 7200,
        "overwrite": True,
        "user_metadata": {"k": "v"},
        "type": "save_weights",
    }
    assert server.of("save_weights_for_sampler")[0].json == {
        "model_id": "S:train:0",
        "path": "b",
        "kind": "snapshot",
        "seq_id": 2,
        "ttl_seconds": 3600,
        "user_metadata": {"k": "v"},
        "type": "save_weights_for_sampler",
    }
    assert server.of("save_weights_external")[0].json == {
        "model_id": "S:train:0",
        "path": "e",
        "seq_id": 3,
        "ttl_seconds": 3600,
        "age_encryption_recipients": ["age1x"],
        "type": "save_weights_external",
    }
    assert server.of("load_weights")[0].json == {
        "model_id": "S:train:0",
        "seq_id": 4,
        "path": "tinker://a/weights/b",
        "optimizer": False,
        "weights_access_token": "t",
        "type": "load_weights",
    }


def test_a_sampling_client_may_follow_the_weights_and_record_what_it_sampled(
    server: RecordingServer, training: TrainingClient
) -> None:
    sampling = training.save_weights_and_get_sampling_client(
        kind="inflight", record_stability_info=True
    ).result(5)
    assert server.of("save_weights_for_sampler")[0].json["kind"] == "inflight"
    sampling.sample(ModelInput.from_ints([1]), 1, SamplingParams(max_tokens=1)).result(5)
    assert server.of("asample")[0].json["record_stability_info"] is True


def test_a_sampling_client_of_the_current_weights_keeps_its_place_in_the_order(
    server: RecordingServer, training: TrainingClient
) -> None:
    step = training.optim_step(ADAM)
    sampling = training.save_weights_and_get_sampling_client("ignored").result(5)
    step.result(5)
    assert server.seq_ids() == [("optim_step", 1), ("save_weights_for_sampler", 2)]
    body = server.of("save_weights_for_sampler")[0].json
    assert "path" not in body
    assert body["sampling_session_seq_id"] == 0
    assert sampling.sampling_session_id == "S:sample:0"
    assert sampling.get_base_model() == "tinsmith/tiny"


async def test_the_async_twins_await_to_a_future_of_the_result(training: TrainingClient) -> None:
    gradient = await training.forward_backward_async([datum(3)], "cross_entropy")
    step = await training.optim_step_async(ADAM)
    assert values(await gradient) == [[3.0]]
    assert (await step).metrics == {"grad_norm": 1.0}
    assert values(await (await training.forward_async([datum(4)], "cross_entropy"))) == [[4.0]]
    assert (await (await training.save_state_async("x"))).path.endswith("/x")
    assert (await (await training.save_weights_for_sampler_async("y"))).path
    await (await training.load_state_async("tinker://a/weights/b"))
    await (await training.load_state_with_optimizer_async("tinker://a/weights/b"))
    assert (await training.get_info_async()).model_id == "S:train:0"
    sampling = await training.save_weights_and_get_sampling_client_async()
    assert sampling.sampling_session_id == "S:sample:0"


async def test_blocking_calls_work_inside_a_running_loop(training: TrainingClient) -> None:
    assert values(training.forward_backward([datum(3)], "cross_entropy").result(5)) == [[3.0]]


def test_what_is_trained_is_known_without_asking(
    server: RecordingServer, training: TrainingClient
) -> None:
    before = len(server.requests)
    assert training.get_info().model_data.tokenizer_id == "tinsmith/tiny"
    assert repr(training) == "TrainingClient(model_id='S:train:0', base_model='tinsmith/tiny')"
    assert len(server.requests) == before
