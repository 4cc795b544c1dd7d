import contextvars
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.client.recording_server import DROP, RecordingServer, Reply
from tinsmith.client import (
    BadRequestError,
    RequestFailedError,
    ServiceClient,
    TrainingClient,
)
from tinsmith.client.custom_loss import forward_data, surrogate_of
from tinsmith.client.errors import APIResponseValidationError
from tinsmith.core.errors import DataError, MissingExtraError, UserError
from tinsmith.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    ForwardBackwardRequest,
    ModelInput,
    TensorData,
)
from tinsmith.types.codec import decode_forward_backward_request

ADAM = AdamParams(learning_rate=1e-3)
Returned = tuple[torch.Tensor, dict[str, float]]


def datum(*tokens: int, **inputs: object) -> Datum:
    return Datum(
        model_input=ModelInput.from_ints(list(tokens)),
        loss_fn_inputs={"target_tokens": list(tokens), **inputs},  # type: ignore[arg-type]
    )


def squares(data: list[Datum], logprobs: list[torch.Tensor]) -> Returned:
    """The recording server's logprobs are the targets themselves."""
    return sum(x.square().sum() for x in logprobs), {"mine": 3.0}  # type: ignore[return-value]


def passes(server: RecordingServer) -> list[ForwardBackwardRequest]:
    return [decode_forward_backward_request(r.body) for r in server.of("forward_backward")]


def weights(request: ForwardBackwardRequest) -> list[list[float]]:
    return [d.loss_fn_inputs["weights"].to_numpy().tolist() for d in request.data]


def test_the_gradient_of_the_loss_travels_as_weights_of_a_cross_entropy(
    server: RecordingServer, training: TrainingClient
) -> None:
    data = [datum(1, 2, weights=[0.5, 1.0], advantages=[9.0, 9.0]), datum(3)]
    output = training.forward_backward_custom(data, squares).result(10)
    forward, backward = passes(server)
    assert (forward.seq_id, forward.loss_fn, forward.forward_only) == (1, "cross_entropy", True)
    assert (backward.seq_id, backward.loss_fn, backward.forward_only) == (2, "cross_entropy", False)
    assert weights(forward) == [[0.5, 1.0], [0.0]]
    assert weights(backward) == [[-2.0, -4.0], [-6.0]]
    assert [set(d.loss_fn_inputs) for d in forward.data + backward.data] == [
        {"target_tokens", "weights"}
    ] * 4
    assert output.metrics == {"loss:sum": 14.0, "surrogate_loss:sum": 1.0, "mine": 3.0}
    assert output.loss == 14.0
    assert [o["logprobs"].tolist() for o in output.loss_fn_outputs] == [[1.0, 2.0], [3.0]]


def test_the_loss_sees_the_whole_batch_as_it_was_given(
    server: RecordingServer,
) -> None:
    server.config = {"fwdbwd_max_chunk_len": 2}
    seen: list[object] = []

    def pairwise(data: list[Datum], logprobs: list[torch.Tensor]) -> Returned:
        seen.append(data)
        margins = [(a - b).sum() for a, b in zip(logprobs[::2], logprobs[1::2], strict=True)]
        return torch.stack(margins).prod(), {"margin": torch.stack(margins).mean()}  # type: ignore[dict-item]

    with ServiceClient(base_url=server.url) as service:
        training = service.create_lora_training_client("tinsmith/tiny").result(10)
        data = [datum(5), datum(2), datum(9), datum(4)]
        output = training.forward_backward_custom(data, pairwise).result(10)
        training.optim_step(ADAM).result(5)
    assert seen == [data]
    requests = sorted(passes(server), key=lambda request: request.seq_id)
    assert [(r.seq_id, r.forward_only) for r in requests] == [
        (1, True),
        (2, True),
        (3, False),
        (4, False),
    ]
    assert [w for r in requests[2:] for w in weights(r)] == [[-5.0], [5.0], [-3.0], [3.0]]
    assert server.of("optim_step")[0].json["seq_id"] == 5
    assert output.metrics["margin"] == 4.0
    assert output.metrics["surrogate_loss:sum"] == 2.0  # 1 from each chunk
    assert len(output.loss_fn_outputs) == 4


def test_later_calls_wait_for_the_gradient_and_the_event_loop_does_not(
    server: RecordingServer, training: TrainingClient
) -> None:
    release = threading.Event()
    threads: list[str] = []

    def slow(
        data: list[Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        threads.append(threading.current_thread().name)
        assert release.wait(10)
        return logprobs[0].sum(), {}

    output = training.forward_backward_custom([datum(1)], slow)
    step = training.optim_step(ADAM)
    server.wait_for("retrieve_future", 2)
    time.sleep(0.1)
    assert server.seq_ids() == [("forward_backward", 1)]
    assert threads != ["tinsmith-client"]
    release.set()
    step.result(5)
    output.result(5)
    assert server.seq_ids() == [
        ("forward_backward", 1),
        ("forward_backward", 2),
        ("optim_step", 3),
    ]


def test_the_step_after_it_is_submitted_while_the_gradient_is_computed(
    server: RecordingServer, training: TrainingClient
) -> None:
    forwarded = threading.Event()

    def loss(
        data: list[Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        server.hold("forward_backward")
        forwarded.set()
        return logprobs[0].sum(), {}

    output = training.forward_backward_custom([datum(1)], loss)
    step = training.optim_step(ADAM)
    assert forwarded.wait(5)
    step.result(5)
    assert not output.done()
    server.release("forward_backward")
    output.result(5)


def test_a_loss_that_raises_fails_its_call_and_leaves_the_client_as_it_was(
    server: RecordingServer, training: TrainingClient
) -> None:
    def broken(
        data: list[Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        raise KeyError("reward")

    failed = training.forward_backward_custom([datum(1)], broken)
    step = training.optim_step(ADAM)
    with pytest.raises(KeyError, match="reward"):
        failed.result(5)
    step.result(5)
    assert training.forward_backward_custom([datum(2)], squares).result(5).loss == 4.0
    assert server.seq_ids() == [
        ("forward_backward", 1),
        ("optim_step", 2),
        ("forward_backward", 3),
        ("forward_backward", 4),
    ]


@pytest.mark.parametrize("when", ["before the forward pass", "in the forward pass", "in the loss"])
def test_a_cancelled_custom_loss_adds_no_gradient_and_leaves_no_gap(
    server: RecordingServer, training: TrainingClient, when: str
) -> None:
    is_called, release = threading.Event(), threading.Event()

    def loss(
        data: list[Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        is_called.set()
        assert release.wait(10)
        return logprobs[0].sum(), {}

    if when == "in the forward pass":
        server.hold("forward_backward")
    future = training.forward_backward_custom([datum(1)], loss)
    step = training.optim_step(ADAM)
    if when == "in the forward pass":
        server.wait_for("retrieve_future", 2)
    elif when == "in the loss":
        assert is_called.wait(5)
    assert future.cancel()
    step.result(5)
    release.set()
    if when == "in the forward pass":
        server.release("forward_backward")
    training.save_state("after").result(5)
    sent = server.seq_ids()
    assert [seq_id for _, seq_id in sent] == list(range(1, len(sent) + 1))
    assert [path for path, _ in sent if path != "forward_backward"] == [
        "optim_step",
        "save_weights",
    ]
    assert all(request.forward_only for request in passes(server))


def test_a_refused_or_failed_pass_fails_the_call_only(
    server: RecordingServer, training: TrainingClient
) -> None:
    server.script("forward_backward", Reply(400, {"message": "no"}))
    with pytest.raises(BadRequestError):
        training.forward_backward_custom([datum(1)], squares).result(5)
    server.script("retrieve_future", Reply(body={"error": "out of memory", "category": "server"}))
    with pytest.raises(RequestFailedError, match="out of memory"):
        training.forward_backward_custom([datum(1)], squares).result(5)
    server.script("forward_backward", DROP)
    assert training.forward_backward_custom([datum(1)], squares).result(10).loss == 1.0
    training.optim_step(ADAM).result(5)


async def test_it_is_awaited_like_the_others_and_runs_in_the_callers_context(
    training: TrainingClient,
) -> None:
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where")
    where.set("here")

    def loss(
        data: list[Datum], logprobs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        assert where.get() == "here"
        return logprobs[0].sum(), {}

    future = await training.forward_backward_custom_async([datum(1)], loss)
    assert (await future).loss == 1.0
    with torch.no_grad():
        assert (await training.forward_backward_custom([datum(2)], squares)).loss == 4.0


def test_a_loss_that_calls_its_own_client_is_told_instead_of_waiting_for_ever(
    service: ServiceClient, training: TrainingClient
) -> None:
    other = service.create_lora_training_client("tinsmith/tiny").result(10)

    def loss(data: list[Datum], logprobs: list[torch.Tensor]) -> Returned:
        assert other.forward(data, "cross_entropy").result(5)
        for call in (
            lambda: training.forward(data, "cross_entropy"),
            lambda: training.optim_step(ADAM),
            lambda: training.forward_backward_custom(data, squares),
        ):
            with pytest.raises(UserError, match="called by the loss_fn that this client waits for"):
                call()
        return logprobs[0].sum(), {}

    training.forward_backward_custom([datum(1)], loss).result(10)
    training.optim_step(ADAM).result(5)


def test_what_is_no_loss_is_refused(training: TrainingClient) -> None:
    cases = [
        (lambda data, x: x[0].sum(), "must return a loss and metrics"),
        (lambda data, x: (x[0].sum(), [1.0]), "must return a loss and metrics"),
        (lambda data, x: (x[0].detach().sum(), {}), "does not depend on the logprobs"),
        (lambda data, x: (1.0, {}), "does not depend on the logprobs"),
        (
            lambda data, x: (torch.ones(1, requires_grad=True).sum(), {}),
            "does not depend on the logprobs",
        ),
    ]
    for loss, complaint in cases:
        with pytest.raises(UserError, match=complaint):
            training.forward_backward_custom([datum(1)], loss).result(5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"data\[1\]: its gradient is not finite") as caught:
        training.forward_backward_custom(
            [datum(1), datum(0)], lambda data, x: (x[0].sum() + x[1].log().sum(), {})
        ).result(5)
    assert caught.value.datum_index == 1


def test_what_cannot_be_sent_is_refused_at_once(
    server: RecordingServer, training: TrainingClient
) -> None:
    with pytest.raises(UserError, match="No data provided"):
        training.forward_backward_custom([], squares)
    nothing = Datum(model_input=ModelInput.from_ints([1]))
    with pytest.raises(DataError, match=r"data\[1\].loss_fn_inputs: target_tokens is missing"):
        training.forward_backward_custom([datum(1), nothing], squares)
    with pytest.raises(UserError, match="loss_type_input='logits'"):
        training.forward_backward_custom([datum(1)], squares, loss_type_input="logits")
    training.optim_step(ADAM).result(5)
    assert server.seq_ids() == [("optim_step", 1)]


def test_without_torch_the_extra_is_named(
    training: TrainingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tinsmith\[engine\]"'):
        training.forward_backward_custom([datum(1)], squares)


def sparse_targets() -> TensorData:
    dense = np.zeros((6, 8), np.int64)
    dense[1, 3], dense[4, 0], dense[4, 7] = 5, 6, 7
    targets = TensorData.from_numpy_sparse(dense)
    assert targets.is_sparse
    return targets


def test_sparse_targets_without_weights_get_sparse_weights_of_zero() -> None:
    given = Datum(
        model_input=ModelInput.from_ints([1] * 6),
        loss_fn_inputs={"target_tokens": sparse_targets()},
    )
    (sent,) = forward_data([given])
    assert sent.loss_fn_inputs["weights"].is_sparse
    assert sent.loss_fn_inputs["weights"].to_numpy().shape == (6, 8)
    assert not sent.loss_fn_inputs["weights"].to_numpy().any()


def test_weights_of_sparse_targets_are_exact_wherever_the_loss_looked() -> None:
    given = Datum(
        model_input=ModelInput.from_ints([1] * 6),
        loss_fn_inputs={"target_tokens": sparse_targets()},
    )
    logprobs = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    output = {"logprobs": TensorData.from_numpy(logprobs)}
    listed = surrogate_of([given], [output], lambda data, x: (x[0][4].square().sum(), {}))
    expected = np.zeros((6, 8), np.float32)
    expected[4] = -2 * logprobs[4]
    assert np.array_equal(listed.data[0].loss_fn_inputs["weights"].to_numpy(), expected)
    everywhere = surrogate_of([given], [output], lambda data, x: (x[0].square().sum(), {}))
    assert np.array_equal(everywhere.data[0].loss_fn_inputs["weights"].to_numpy(), -2 * logprobs)


def test_a_datum_that_the_loss_leaves_out_has_no_gradient() -> None:
    outputs = [{"logprobs": TensorData.from_numpy(np.ones(1, np.float32))}] * 2
    surrogate = surrogate_of(
        [datum(1), datum(2)], outputs, lambda data, x: (x[1].exp().sum().reshape(1), {})
    )
    assert surrogate.data[0].loss_fn_inputs["weights"].tolist() == [0.0]
    assert surrogate.data[1].loss_fn_inputs["weights"].tolist() == [pytest.approx(-np.e)]
    assert surrogate.loss == pytest.approx(np.e)


@pytest.mark.parametrize("stop", [SystemExit(3), KeyboardInterrupt()])
def test_a_loss_that_ends_the_program_fails_its_call_and_stalls_no_other(
    server: RecordingServer, training: TrainingClient, stop: BaseException
) -> None:
    def loss(data: list[Datum], logprobs: list[torch.Tensor]) -> Returned:
        raise stop

    future = training.forward_backward_custom([datum(1)], loss)
    with pytest.raises(type(stop)):
        future.result(10)
    assert training.optim_step(ADAM).result(10).metrics is not None
    assert training.forward_backward_custom([datum(3)], squares).result(10).loss == 9.0


@pytest.mark.parametrize("value", ["high", torch.ones(2), None])
def test_a_metric_that_is_no_number_is_named(training: TrainingClient, value: object) -> None:
    future = training.forward_backward_custom(
        [datum(1)],
        lambda data, logprobs: (logprobs[0].sum(), {"mine": value}),  # type: ignore[dict-item]
    )
    with pytest.raises(UserError, match="'mine' is not a number"):
        future.result(10)


def spread_outputs(*widths: int) -> list[dict[str, TensorData]]:
    """Of one-position datums: a logprob, and those of the likeliest tokens 10, 11, ..."""
    return [
        {
            "logprobs": TensorData.from_numpy(np.full(1, -2, np.float32)),
            "distribution_tokens": TensorData.from_numpy(10 + np.arange(width)[None]),
            "distribution_logprobs": TensorData.from_numpy(np.full((1, width), -1, np.float32)),
        }
        for width in widths
    ]


def test_tokens_of_a_distribution_become_targets_where_they_have_a_gradient() -> None:
    def loss(data: Any, logprobs: Any, seen: Any) -> Any:
        return logprobs[0].sum() + seen.logprobs[1][0, 1] * 3, {}

    surrogate = surrogate_of(
        [datum(1), datum(2)], spread_outputs(2, 2), loss, with_distributions=True
    )
    first, second = (d.loss_fn_inputs for d in surrogate.data)
    assert (first["target_tokens"].tolist(), first["weights"].tolist()) == ([1], [-1.0])
    assert second["target_tokens"].tolist() == [[2, 10, 11]]
    assert second["weights"].tolist() == [[0.0, 0.0, -3.0]]
    answer = ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord",
        loss_fn_outputs=[
            {"logprobs": TensorData.from_numpy(np.array([-2], np.float32))},
            {"logprobs": TensorData.from_numpy(np.array([[-2, -1, -1]], np.float32))},
        ],
        metrics={},
    )
    told = surrogate.described(answer).loss_fn_outputs
    assert [output["logprobs"].tolist() for output in told] == [[-2.0], [-2.0]]


def test_a_distribution_that_did_not_come_or_has_no_finite_gradient_is_refused() -> None:
    outputs = spread_outputs(1)
    lacking = [{"logprobs": outputs[0]["logprobs"]}]
    with pytest.raises(
        APIResponseValidationError, match="logprobs and distribution_logprobs of 1 datums"
    ):
        surrogate_of([datum(1)], lacking, lambda *_: 1 / 0, with_distributions=True)

    def steep(data: Any, logprobs: Any, seen: Any) -> Any:
        return (seen.logprobs[0] + 1).sqrt().sum(), {}

    with pytest.raises(DataError, match=r"data\[0\]: its gradient is not finite"):
        surrogate_of([datum(1)], outputs, steep, with_distributions=True)
