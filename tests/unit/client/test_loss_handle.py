"""Custom losses made once: tracing, upload where the service runs them, else a run here."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.unit.client.recording_server import RecordingServer
from tests.unit.client.test_custom_loss import datum, passes, weights
from tinsmith.client import LossHandle, ServiceClient
from tinsmith.core.errors import DataError, UserError
from tinsmith.types import CustomLossInput

RANKS = {"logprobs": 1, "scale": 1}
CAPTURED = torch.ones(2)


def scaled(logprobs: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, dict]:
    loss = (logprobs.square() * scale).sum()
    return loss, {"custom/first:sum": logprobs[0], "custom/size:mean": logprobs.abs().sum()}


@pytest.fixture
def service(server: RecordingServer) -> Iterator[ServiceClient]:
    with ServiceClient(base_url=server.url) as service:
        yield service


def scaled_data() -> list[Any]:
    return [datum(1, 2, scale=torch.tensor([1.0, 3.0])), datum(4, scale=torch.tensor([0.5]))]


def test_a_service_that_runs_losses_gets_the_graph_once_and_then_its_id(
    server: RecordingServer, service: ServiceClient
) -> None:
    server.config = {"custom_loss_server_side": True}
    handle = service.create_custom_loss(scaled, RANKS).result(10)
    assert service.create_custom_loss(scaled, RANKS).result(10) == handle
    (sent,) = server.of("create_custom_loss")
    assert sent.json["inputs"] == [{"name": n, "rank": 1} for n in ("logprobs", "scale")]
    assert (sent.json["name"], sent.json["custom_loss_seq_id"]) == ("scaled", 0)
    operations = [(node["op"], node["target"]) for node in sent.json["graph"]["nodes"]]
    assert operations == [
        ("placeholder", "logprobs"),
        ("placeholder", "scale"),
        ("call_method", "square"),
        ("call_function", "operator.mul"),
        ("call_method", "sum"),
        ("call_function", "operator.getitem"),
        ("call_method", "abs"),
        ("call_method", "sum"),
        ("output", "output"),
    ]
    training = service.create_lora_training_client("tinsmith/tiny").result(10)
    training.forward_backward_custom(scaled_data(), handle).result(10)
    (request,) = passes(server)
    assert (request.loss_fn, request.loss_fn_config) == ("custom", {"loss_id": "loss-0"})
    assert not request.forward_only
    assert request.data == scaled_data()


def test_any_other_service_gets_the_same_loss_computed_here(
    server: RecordingServer, service: ServiceClient
) -> None:
    handle = service.create_custom_loss(scaled, RANKS).result(10)
    assert handle.loss_id is None
    assert server.of("create_custom_loss") == []
    training = service.create_lora_training_client("tinsmith/tiny").result(10)
    output = training.forward_backward_custom(scaled_data(), handle).result(10)
    _, backward = passes(server)
    # The recording server's logprobs are the targets: d(sum scale * lp^2) = 2 * scale * lp.
    assert weights(backward) == [[-2.0, -12.0], [-4.0]]
    assert output.loss == 1.0 + 12.0 + 8.0
    assert output.metrics["custom/first:sum"] == 1.0 + 4.0
    assert output.metrics["custom/size:mean"] == (3.0 + 4.0) / 2


def test_a_handle_says_what_it_reads(service: ServiceClient) -> None:
    handle = service.create_custom_loss(scaled, RANKS).result(10)
    assert handle.inputs[1] == CustomLossInput(name="scale", rank=1)
    assert handle.input_names == ("scale",)
    assert handle.session_id == "S"


def branch(logprobs: torch.Tensor) -> Any:
    return (logprobs.sum() if logprobs.sum() > 0 else logprobs.mean()), {}


def to_host(logprobs: torch.Tensor) -> Any:
    return logprobs.sum(), {"custom/x:sum": logprobs.sum().item()}


def captured(logprobs: torch.Tensor) -> Any:
    return (logprobs * CAPTURED).sum(), {}


def bare_metric(logprobs: torch.Tensor) -> Any:
    return logprobs.sum(), {"loss:sum": logprobs.sum()}


def wrong_first(lp: torch.Tensor) -> Any:
    return lp.sum(), {}


def defaulted(logprobs: torch.Tensor, weights: int = 1) -> Any:
    return logprobs.sum(), {}


@pytest.mark.parametrize(
    ("fn", "ranks", "said"),
    [
        (branch, {"logprobs": 1}, "no branch"),
        (to_host, {"logprobs": 1}, "'item' is not among"),
        (captured, {"logprobs": 1}, "op='get_attr'"),
        (bare_metric, {"logprobs": 1}, "'loss:sum'"),
        (wrong_first, {"lp": 1}, "first parameter must be logprobs"),
        (defaulted, {"logprobs": 1, "weights": 1}, "'weights' must be positional"),
        (scaled, {"logprobs": 1}, "rank of each parameter"),
        (scaled, {"logprobs": 0, "scale": 1}, "rank=0 of 'logprobs'"),
        (scaled, {"logprobs": 1, "scale": 3}, "rank"),
    ],
)
def test_what_a_custom_loss_may_not_do_is_said_at_the_call(
    server: RecordingServer,
    service: ServiceClient,
    fn: Callable[..., Any],
    ranks: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(UserError, match=said):
        service.create_custom_loss(fn, ranks)
    assert server.requests == []


def test_data_that_lacks_what_the_loss_reads_is_not_sent(
    server: RecordingServer, service: ServiceClient
) -> None:
    server.config = {"custom_loss_server_side": True}
    handle = service.create_custom_loss(scaled, RANKS).result(10)
    training = service.create_lora_training_client("tinsmith/tiny").result(10)
    for bad, said in (
        (datum(1, 2), r"data\[1\].loss_fn_inputs.scale: missing"),
        (datum(1, 2, scale=torch.ones(2, 2)), "rank 2, the loss 'scaled' declares 1"),
    ):
        with pytest.raises(DataError, match=said):
            training.forward_backward_custom([scaled_data()[0], bad], handle)
    assert passes(server) == []


def test_a_handle_of_another_session_is_refused(service: ServiceClient) -> None:
    handle = service.create_custom_loss(scaled, RANKS).result(10)
    training = service.create_lora_training_client("tinsmith/tiny").result(10)
    foreign = LossHandle(handle.name, handle.inputs, "T", handle.graph)
    with pytest.raises(UserError, match="belongs to session 'T'"):
        training.forward_backward_custom(scaled_data(), foreign)


def test_every_kind_of_argument_survives_the_trip(service: ServiceClient) -> None:
    def everything(logprobs: torch.Tensor) -> Any:
        kept = logprobs[..., 1:3].reshape((2, 1)).to(torch.float64)
        bounded = torch.clamp(kept, -math.inf, 0.5).sum(dim=[0, 1])
        return bounded, {"custom/last:mean": logprobs[-1]}

    handle = service.create_custom_loss(everything, {"logprobs": 1}).result(10)
    given = torch.tensor([9.0, 0.25, 0.75, 2.0], requires_grad=True)
    loss, metrics = handle.run([datum(9, 0, 1, 2)], [given])
    loss.backward()
    assert loss.item() == 0.75
    assert metrics == {"custom/last:mean": 2.0}
    assert given.grad is not None
    assert given.grad.tolist() == [0.0, 1.0, 0.0, 0.0]
