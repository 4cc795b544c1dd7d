"""Graphs kept on the service: the numbers of two passes, with one forward; refusals on the wire."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.service_process import PROTOBUF, ServiceProcess, WireClient, make_data
from tinsmith.client import ServiceClient, TrainingClient
from tinsmith.regularizers import L1, L2, Entropy, Regularizer
from tinsmith.types import AdamParams, AdapterTerm, Datum
from tinsmith.types.codec import encode_forward_backward_request

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as process:
        yield process


@pytest.fixture
def wire(running: ServiceProcess) -> Iterator[WireClient]:
    client = WireClient(running.ready)
    yield client
    client.http.close()


@pytest.fixture
def service(running: ServiceProcess) -> Iterator[ServiceClient]:
    ready = running.ready
    with ServiceClient(base_url=ready["url"], api_key=ready["api_key"]) as service:
        yield service


def make_client(service: ServiceClient) -> TrainingClient:
    """Adapters of one seed are equal."""
    return service.create_lora_training_client("tinsmith/tiny", rank=8, seed=5).result(120)


def spread(data: Any, logprobs: list[torch.Tensor]) -> Any:
    """A loss that no weights fixed beforehand can express."""
    flat = torch.cat(logprobs)
    return flat.var() - flat.mean(), {"mean:unused": 1.0}


def paths_of(client: TrainingClient) -> list[str]:
    """What the client sends from here on."""
    sent: list[str] = []
    transport = client._connection.transport

    async def spied() -> Any:
        found = await transport()
        if not hasattr(found, "spied"):
            send = found.send

            async def recorded(request: Any) -> Any:
                sent.append(request.path.partition("?")[0])
                return await send(request)

            found.send = recorded
            found.spied = True
        return found

    client._connection.transport = spied  # type: ignore[method-assign]
    return sent


def without_graphs(client: TrainingClient) -> TrainingClient:
    """The same client on a service that announces nothing."""

    async def offers(name: str) -> bool:
        return False

    client._connection.offers = offers  # type: ignore[method-assign]
    return client


def test_the_client_takes_the_kept_graph_and_trains_as_with_two_passes(
    running: ServiceProcess,
) -> None:
    """Three steps end in the same weights, to the bit: the logprobs afterwards are equal."""
    data = make_data(6, seed=3)
    ready = running.ready
    found = []
    for two_passes in (False, True):
        with ServiceClient(base_url=ready["url"], api_key=ready["api_key"]) as service:
            client = make_client(service)
            if two_passes:
                without_graphs(client)
            outputs = []
            for _ in range(3):
                outputs.append(client.forward_backward_custom(data, spread))
                client.optim_step(AdamParams(learning_rate=1e-2))
            metrics = [output.result(60).metrics for output in outputs]
            after = client.forward(data, "cross_entropy").result(60)
            found.append((metrics, [o["logprobs"].tolist() for o in after.loss_fn_outputs]))
    for one, two in zip(found[0][0], found[1][0], strict=True):
        assert one.keys() == two.keys()
        assert one == pytest.approx(two, rel=1e-5, abs=1e-6)
    assert found[0][1] == found[1][1]


def test_the_extension_is_announced_and_used(service: ServiceClient) -> None:
    assert "retained_forward" in service.get_server_capabilities().result(60).extensions
    client = make_client(service)
    sent = paths_of(client)
    client.forward_backward_custom(make_data(2), spread).result(60)
    assert [path for path in sent if "forward" in path or "backward" in path] == [
        "ext/retained_forward",
        "ext/retained_backward",
    ]


def test_norms_by_the_parameters_are_those_of_the_gradients_that_steps_see(
    service: ServiceClient,
) -> None:
    """The total's is what optim_step finds; the L1 term's what a step on it alone finds."""
    data = make_data(3, seed=2)
    terms = [Regularizer(L1(), 0.5, "l1"), Regularizer(L2(), 0.25, "l2")]
    client = make_client(service)
    client.forward_backward(data, "cross_entropy")  # B leaves zero, so that A has a gradient
    client.optim_step(AdamParams(learning_rate=1e-2))
    output = client.forward_backward_custom(
        data, spread, regularizers=terms, track_grad_norms="parameters"
    ).result(60)
    frozen = AdamParams(learning_rate=0.0)
    total = client.optim_step(frozen).result(60).metrics["grad_norm"]
    assert output.total_grad_norm == pytest.approx(total, rel=1e-5)
    for term in terms:
        alone = [Regularizer(term.fn, 1.0, term.name)]
        client.forward_backward_custom(data, regularizers=alone).result(60)
        norm = client.optim_step(frozen).result(60).metrics["grad_norm"]
        told = output.regularizers[term.name]
        assert told.grad_norm == pytest.approx(norm, rel=1e-5)
        assert told.grad_norm_weighted == pytest.approx(term.weight * norm, rel=1e-5)
        assert output.metrics[f"reg/{term.name}/grad_norm"] == told.grad_norm
    client.forward_backward_custom(data, spread).result(60)
    norm = client.optim_step(frozen).result(60).metrics["grad_norm"]
    assert output.base_loss is not None
    assert output.base_loss.grad_norm == pytest.approx(norm, rel=1e-5)


def test_the_accumulated_norm_is_that_of_the_step_to_come(service: ServiceClient) -> None:
    """Of all calls since the last step, plain ones and terms on the adapter included."""
    client = make_client(service)
    l1 = [Regularizer(L1(), 0.5, "l1")]
    client.forward_backward(make_data(2, seed=1), "cross_entropy")
    client.add_adapter_terms([AdapterTerm(kind="weight_decay", weight=0.5)])
    outputs = [
        client.forward_backward_custom(
            make_data(3, seed=seed), spread, regularizers=l1, track_grad_norms="parameters"
        ).result(60)
        for seed in (2, 3)
    ]
    first, second = (output.accumulated_grad_norm for output in outputs)
    assert client.regularizer_state.accumulated_grad_norm == second
    norm = (client.optim_step(AdamParams(learning_rate=0.0)).result(60).metrics or {})["grad_norm"]
    assert second == pytest.approx(norm, rel=1e-5)
    assert first != pytest.approx(norm, rel=1e-2)
    assert outputs[1].total_grad_norm != pytest.approx(norm, rel=1e-2)
    client._lane._vocab_size = 2**19  # then each datum travels alone
    wide = [Regularizer(Entropy(), 0.5, distribution="full")]
    cut = client.forward_backward_custom(
        make_data(3, seed=2), spread, regularizers=wide, track_grad_norms="parameters"
    ).result(60)
    assert cut.accumulated_grad_norm == pytest.approx(cut.total_grad_norm, rel=1e-5)


def test_norms_by_the_parameters_are_absent_where_no_graph_is_kept(service: ServiceClient) -> None:
    client = without_graphs(make_client(service))
    output = client.forward_backward_custom(
        make_data(2), regularizers=[Regularizer(L1(), 1.0, "l1")], track_grad_norms="parameters"
    ).result(60)
    assert output.total_grad_norm is None
    assert output.accumulated_grad_norm is None
    assert output.regularizers["l1"].grad_norm is None
    assert not [name for name in output.metrics if name.endswith("grad_norm")]


def test_terms_on_the_parameters_train_without_data(service: ServiceClient) -> None:
    """Decay alone, at a small rate, shrinks the norm that the next decay finds."""
    client = make_client(service)
    terms = [AdapterTerm(kind="weight_decay", weight=0.5), AdapterTerm(kind="anchor", weight=1.0)]
    first = client.add_adapter_terms(terms).result(60)
    step = client.optim_step(AdamParams(learning_rate=1e-3)).result(60)
    assert first.terms[1].value == 0  # where it began
    assert first.total == pytest.approx(0.5 * first.terms[0].value)
    assert step.metrics is not None
    assert step.metrics["grad_norm"] == pytest.approx(first.total_grad_norm, rel=1e-5)
    second = client.add_adapter_terms(terms).result(60)
    assert second.terms[0].value < first.terms[0].value
    assert second.terms[1].value > 0


def post(wire: WireClient, model: Any, path: str, data: Sequence[Datum], *, forward: bool) -> Any:
    body = encode_forward_backward_request(
        model.model_id, model._next(None), list(data), "cross_entropy", {}, forward_only=forward
    )
    return wire.http.post(path, content=body, headers={"Content-Type": PROTOBUF})


def test_refusals_on_the_wire(wire: WireClient) -> None:
    model = wire.create_model()
    data = make_data(2)

    def failure(path: str) -> dict[str, Any]:
        answer = post(wire, model, path, data, forward=False)
        assert answer.status_code == 200, answer.text
        return wire.failure(answer.json()["request_id"])

    promise = post(wire, model, "ext/retained_forward?distribution=3", data, forward=True).json()
    seq_id = model.seq_id
    output = wire.output(promise["request_id"])
    assert output.metrics["graph_bytes:sum"] > 0
    tokens = output.loss_fn_outputs[0]["distribution_tokens"].to_numpy()
    logprobs = output.loss_fn_outputs[0]["distribution_logprobs"].to_numpy()
    assert tokens.shape == logprobs.shape == (16, 3)
    assert (np.diff(logprobs, axis=1) <= 0).all()
    model.optim_step()
    told = failure(f"ext/retained_backward?graph={seq_id}")
    assert (told["category"], told["field"]) == ("user", "graph")
    assert told["message"] == f"graph={seq_id}: is not kept: optim_step changed the weights"
    for path, field in {
        "ext/retained_backward": "graph",
        "ext/retained_backward?graph=x": "graph",
        "ext/retained_backward?graph=1&on_missing=maybe": "on_missing",
        "ext/retained_backward?graph=1&other=1": "other",
        "ext/retained_forward?distribution=0": "distribution",
        "ext/retained_forward?distribution=most": "distribution",
    }.items():
        refused = post(wire, model, path, data, forward="forward?" in path)
        assert refused.status_code == 400, (path, refused.text)
        assert refused.json()["field"].startswith(field), (path, refused.text)
        model.seq_id -= 1  # refused before its number was read
    assert model.loss(data) > 0  # the lane goes on


def test_a_service_without_room_is_worked_with_in_two_passes(tmp_path: Path) -> None:
    with (
        ServiceProcess(tmp_path, "--max-graph-bytes", "0") as process,
        ServiceClient(base_url=process.ready["url"], api_key=process.ready["api_key"]) as service,
    ):
        client = make_client(service)
        sent = paths_of(client)
        output = client.forward_backward_custom(
            make_data(2), regularizers=[Regularizer(L1(), 1.0, "l1")], track_grad_norms="parameters"
        ).result(60)
        assert output.total_grad_norm is None
        assert [path for path in sent if "forward" in path] == [
            "ext/retained_forward",
            "forward_backward",
        ]
