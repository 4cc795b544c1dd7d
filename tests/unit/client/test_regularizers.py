"""forward_backward_custom with regularizers: what is sent, what comes back, what moves when."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.client.recording_server import RecordingServer, Reply
from tinsmith.client import BadRequestError, TrainingClient, UnsupportedError
from tinsmith.core.errors import ConfigError, UserError
from tinsmith.regularizers import (
    KL,
    L1,
    CustomLossOptions,
    DualAscent,
    Entropy,
    LinearWeight,
    Regularizer,
    RegularizerError,
)
from tinsmith.types import AdamParams, Datum, ModelInput
from tinsmith.types.codec import decode_forward_backward_request

ADAM = AdamParams(learning_rate=1e-3)


def datum(*tokens: int) -> Datum:
    """The recording server's logprobs are the targets themselves."""
    inputs = {"target_tokens": list(tokens)}
    return Datum(model_input=ModelInput.from_ints(list(tokens)), loss_fn_inputs=inputs)


def mean(data: Any, logprobs: list[torch.Tensor]) -> Any:
    return torch.cat(logprobs).mean(), {"mine": 5.0}


def sent_weights(server: RecordingServer) -> list[list[float]]:
    requests = [decode_forward_backward_request(r.body) for r in server.of("forward_backward")]
    return [
        d.loss_fn_inputs["weights"].to_numpy().tolist()
        for request in requests
        if not request.forward_only
        for d in request.data
    ]


@pytest.mark.parametrize("execution", ["parallel", "sequential"])
def test_weights_on_the_wire_are_minus_the_gradient_of_the_total(
    server: RecordingServer, training: TrainingClient, execution: Any
) -> None:
    """As the golden composite, with positive numbers: mean + 0.01 * L1 over three targets."""
    output = training.forward_backward_custom(
        [datum(1, 2), datum(6)],
        mean,
        regularizers=[Regularizer(L1(), 0.01)],
        track_grad_norms=True,
        options=CustomLossOptions(execution=execution),
    ).result(10)
    (one, two) = sent_weights(server)
    np.testing.assert_allclose([*one, *two], -(1 / 3 + 0.01), rtol=1e-6)
    assert output.loss_total == pytest.approx(3.09)
    assert output.regularizers["l1_sparsity"].contribution == pytest.approx(0.09)
    assert output.total_grad_norm == pytest.approx((1 / 3 + 0.01) * np.sqrt(3))
    assert output.metrics["loss:sum"] == output.loss_total
    assert output.metrics["mine"] == 5.0
    assert output.metrics["reg/l1_sparsity/value"] == 9.0
    assert output.forward_backward is not None
    assert output.forward_backward.loss == output.loss_total
    assert [o["logprobs"].tolist() for o in output.loss_fn_outputs] == [[1.0, 2.0], [6.0]]


def test_what_a_call_cannot_do_is_refused_before_anything_is_sent(
    server: RecordingServer, training: TrainingClient, golden: Callable[[str, Any], None]
) -> None:
    terms = [Regularizer(Entropy(), 1.0, distribution="full"), Regularizer(L1(), 1.0)]
    wide = [Regularizer(KL(lambda data: []), 1.0, "near", distribution=20)]
    told: dict[str, str] = {}
    for name, regularizers in (("the whole vocabulary", terms), ("the likeliest tokens", wide)):
        with pytest.raises(UnsupportedError) as unsupported:
            training.forward_backward_custom([datum(1)], mean, regularizers=regularizers).result(10)
        assert unsupported.value.field == "regularizers"
        told[name] = str(unsupported.value).replace(server.url, "http://service")
    for wrong in ("logprobs", 2, None):
        with pytest.raises(ConfigError) as refused:
            training.forward_backward_custom(  # type: ignore[call-overload]
                [datum(1)], mean, regularizers=[Regularizer(L1(), 1.0)], track_grad_norms=wrong
            )
        assert refused.value.field == "track_grad_norms"
        told[f"track_grad_norms={wrong!r}"] = str(refused.value)
    assert not server.of("forward_backward")
    golden("regularizer_call_errors.json", told)


def test_without_them_the_call_is_the_plain_one(training: TrainingClient) -> None:
    plain = training.forward_backward_custom([datum(1)], mean).result(10)
    assert type(plain).__name__ == "ForwardBackwardOutput"
    assert set(plain.metrics) == {"loss:sum", "surrogate_loss:sum", "mine"}
    composed = training.forward_backward_custom([datum(1)], mean, regularizers=[]).result(10)
    assert (composed.loss_total, composed.regularizers) == (1.0, {})
    tracked: Any = training.forward_backward_custom(  # type: ignore[call-overload]
        [datum(1)], mean, track_grad_norms=True
    ).result(10)
    assert tracked.total_grad_norm == tracked.base_loss.grad_norm == 1.0


async def test_the_twin_takes_them_too(training: TrainingClient) -> None:
    future = await training.forward_backward_custom_async(
        [datum(2)], regularizers=[Regularizer(L1(), 3.0)]
    )
    assert (await future).loss_total == 6.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"regularizers": [mean]}, ConfigError, r"regularizers\[0\]: a function"),
        (
            {"regularizers": [Regularizer(L1(), 1.0), Regularizer(L1(), 2.0)]},
            ConfigError,
            "two are named 'l1_sparsity'",
        ),
        ({"loss_fn": None, "regularizers": []}, UserError, "there must be a loss"),
        ({"loss_fn": None}, UserError, "there must be a loss"),
        ({"options": CustomLossOptions(share=0.5)}, ConfigError, "base_reduction=None"),
    ],
)
def test_a_bad_call_is_refused_before_anything_is_sent(
    server: RecordingServer,
    training: TrainingClient,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        training.forward_backward_custom([datum(1)], **({"loss_fn": mean} | arguments))
    assert server.of("forward_backward") == []


def test_a_term_that_fails_sends_no_gradient_and_the_client_goes_on(
    server: RecordingServer, training: TrainingClient
) -> None:
    def broken(data: Any, logprobs: Any) -> Any:
        raise LookupError("no label")

    terms = [Regularizer(broken, 1.0)]
    with pytest.raises(RegularizerError, match=r"'broken'\]: LookupError: no label"):
        training.forward_backward_custom([datum(1)], mean, regularizers=terms).result(10)
    assert sent_weights(server) == []
    training.optim_step(ADAM).result(10)
    assert training.regularizer_state.step == 1


def test_a_term_must_not_wait_for_the_client_that_waits_for_it(training: TrainingClient) -> None:
    def calls(data: Any, logprobs: list[torch.Tensor]) -> Any:
        training.optim_step(ADAM)
        return logprobs[0].sum(), {}

    terms = [Regularizer(calls, 1.0)]
    with pytest.raises(RegularizerError, match="OptimStep: called by the loss_fn"):
        training.forward_backward_custom([datum(1)], mean, regularizers=terms).result(10)


def test_steps_sent_ahead_see_schedule_and_state_of_their_own_time(
    training: TrainingClient,
) -> None:
    """Five steps are submitted before the first is computed; each has the weight of its step."""
    gate = threading.Event()

    def waits(data: Any, logprobs: list[torch.Tensor]) -> Any:
        assert gate.wait(20)
        return logprobs[0].sum(), {}

    terms = [
        Regularizer(waits, 1.0, "scheduled", schedule=LinearWeight(4)),
        Regularizer(L1(), 1.0, "dual", state=DualAscent(1.0, rate=0.5)),  # its value is 2
    ]
    futures = []
    for _ in range(5):
        futures.append(training.forward_backward_custom([datum(2)], regularizers=terms))
        training.optim_step(ADAM)
    gate.set()
    outputs = [future.result(20) for future in futures]
    assert [o.regularizers["scheduled"].weight for o in outputs] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [o.regularizers["dual"].weight for o in outputs] == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_a_step_that_the_service_refuses_moves_nothing(
    server: RecordingServer, training: TrainingClient
) -> None:
    terms = [Regularizer(L1(), 1.0, state=DualAscent(1.0, rate=0.5))]
    training.forward_backward_custom([datum(2)], regularizers=terms).result(10)
    server.script("optim_step", Reply(400, {"message": "no"}))
    with pytest.raises(BadRequestError, match="no"):
        training.optim_step(ADAM).result(10)
    assert training.regularizer_state.state_dict() == {"step": 0, "terms": {}}
    training.optim_step(ADAM).result(10)
    assert training.regularizer_state.state_dict() == {
        "step": 1,
        "terms": {"l1_sparsity": {"kind": "dual_ascent", "multiplier": 1.5}},
    }
