"""Custom losses against the real service: they train what the built-in losses train."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.integration.service_process import ServiceProcess, make_data
from tinsmith.client import ServiceClient, TrainingClient
from tinsmith.types import AdamParams, Datum, ForwardBackwardOutput

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]

ADAM = AdamParams(learning_rate=5e-3)
Returned = tuple[torch.Tensor, dict[str, float]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory: Path = tmp_path_factory.mktemp("service")
    with ServiceProcess(directory) as process:
        yield process


@pytest.fixture
def service(running: ServiceProcess) -> Iterator[ServiceClient]:
    ready = running.ready
    with ServiceClient(base_url=ready["url"], api_key=ready["api_key"]) as service:
        yield service


def make_client(service: ServiceClient) -> TrainingClient:
    """Adapters of one seed are equal."""
    return service.create_lora_training_client("tinsmith/tiny", rank=8, seed=5).result(120)


def logprobs(output: ForwardBackwardOutput) -> list[np.ndarray]:
    return [o["logprobs"].to_numpy() for o in output.loss_fn_outputs]


def weights_of(datum: Datum) -> torch.Tensor:
    return datum.loss_fn_inputs["weights"].to_torch()


def cross_entropy(data: list[Datum], given: list[torch.Tensor]) -> Returned:
    losses = [-(weights_of(d) * x).sum() for d, x in zip(data, given, strict=True)]
    return torch.stack(losses).sum(), {"mine/num_datums": len(data)}


def preference(data: list[Datum], given: list[torch.Tensor]) -> Returned:
    """-log sigmoid(chosen - rejected) of consecutive pairs."""
    sums = torch.stack([x.sum() for x in given])
    margins = sums[::2] - sums[1::2]
    return -torch.nn.functional.logsigmoid(margins).sum(), {"margin": margins.mean().item()}


def step(client: TrainingClient) -> dict[str, float]:
    metrics = client.optim_step(ADAM).result(60).metrics
    assert metrics is not None
    return metrics


def test_a_custom_cross_entropy_trains_what_the_built_in_one_trains(service: ServiceClient) -> None:
    data = make_data(6, seed=2)
    for datum in data:  # uneven weights, so that a mistake in one shows
        weights = np.linspace(0.0, 2.0, datum.model_input.length, dtype=np.float32)
        datum.loss_fn_inputs["weights"] = type(datum.loss_fn_inputs["weights"]).from_numpy(weights)
    plain, custom = make_client(service), make_client(service)
    for _ in range(3):
        expected = plain.forward_backward(data, "cross_entropy").result(60)
        got = custom.forward_backward_custom(data, cross_entropy).result(60)
        assert got.loss == pytest.approx(expected.loss, rel=1e-5)
        assert got.metrics["surrogate_loss:sum"] == pytest.approx(expected.loss, rel=1e-5)
        assert got.metrics["mine/num_datums"] == 6
        assert got.metrics["tokens:sum"] == expected.metrics["tokens:sum"]
        for one, other in zip(logprobs(got), logprobs(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        norms = [step(client)["grad_norm"] for client in (plain, custom)]
        assert norms[0] > 0
        assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_a_loss_over_pairs_has_the_gradient_of_its_closed_form(service: ServiceClient) -> None:
    data = make_data(4, seed=3)
    by_hand, custom = make_client(service), make_client(service)
    output = by_hand.forward(data, "cross_entropy").result(60)
    before = [x.astype(np.float64).sum() for x in logprobs(output)]
    margins = np.array(before[::2]) - np.array(before[1::2])
    pull = 1.0 / (1.0 + np.exp(margins))  # d loss / d margin = -sigmoid(-margin)
    weighted = [
        Datum(
            model_input=datum.model_input,
            loss_fn_inputs={
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "weights": np.full(
                    datum.model_input.length, pull[i // 2] * (1 - 2 * (i % 2)), np.float32
                ),
            },
        )
        for i, datum in enumerate(data)
    ]
    by_hand.forward_backward(weighted, "cross_entropy").result(60)
    got = custom.forward_backward_custom(data, preference).result(60)
    assert got.loss == pytest.approx(np.log1p(np.exp(-margins)).sum(), rel=1e-4)
    assert got.metrics["margin"] == pytest.approx(margins.mean(), rel=1e-4)
    norms = [step(client)["grad_norm"] for client in (by_hand, custom)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    after = [client.forward(data, "cross_entropy").result(60) for client in (by_hand, custom)]
    for one, other in zip(logprobs(after[0]), logprobs(after[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_preferences_are_learnt_in_pipelined_steps(service: ServiceClient) -> None:
    client = make_client(service)
    data = make_data(4, seed=4)
    outputs = []
    for _ in range(5):
        outputs.append(client.forward_backward_custom(data, preference))
        client.optim_step(ADAM)
    results = [output.result(60) for output in outputs]
    margins = [result.metrics["margin"] for result in results]
    assert margins == sorted(margins)
    assert results[-1].loss < 0.5 * results[0].loss


def test_a_failed_custom_loss_leaves_training_as_if_it_had_not_been(service: ServiceClient) -> None:
    def broken(data: list[Datum], given: list[torch.Tensor]) -> Returned:
        raise RuntimeError("no reward")

    data = make_data(3, seed=6)
    plain, custom = make_client(service), make_client(service)
    failed = custom.forward_backward_custom(data, broken)
    cancelled = custom.forward_backward_custom(data, cross_entropy)
    cancelled.cancel()
    outputs = [client.forward_backward(data, "cross_entropy") for client in (plain, custom)]
    metrics = [step(client) for client in (plain, custom)]
    with pytest.raises(RuntimeError, match="no reward"):
        failed.result(60)
    assert outputs[0].result(60).loss == pytest.approx(outputs[1].result(60).loss, rel=1e-5)
    assert metrics[1]["grad_norm"] == pytest.approx(metrics[0]["grad_norm"], rel=1e-5)
    after = [client.forward(data, "cross_entropy").result(60).loss for client in (plain, custom)]
    assert after[1] == pytest.approx(after[0], rel=1e-5)


def test_a_custom_distillation_of_sparse_targets_is_the_built_in_one(
    service: ServiceClient,
) -> None:
    generator = torch.Generator().manual_seed(0)
    plain, custom = make_client(service), make_client(service)
    built_in, own, teachers = [], [], []
    for datum in make_data(3, seed=8):
        length, width = datum.model_input.length, 8
        targets = torch.zeros(length, width, dtype=torch.int64)
        teacher = torch.zeros(length, width)
        for row in range(0, length, 4):  # most positions have no teacher: the targets travel sparse
            targets[row, :2] = torch.randint(1, 40, (2,), generator=generator)
            teacher[row, :2] = torch.tensor([0.7, 0.3])
        inputs = {"target_tokens": targets, "weights": teacher}
        built_in.append(Datum(model_input=datum.model_input, loss_fn_inputs=inputs))
        own.append(Datum(model_input=datum.model_input, loss_fn_inputs={"target_tokens": targets}))
        teachers.append(teacher)
    assert own[0].loss_fn_inputs["target_tokens"].is_sparse

    def distillation(data: list[Datum], given: list[torch.Tensor]) -> Returned:
        losses = [-(teacher * x).sum() for teacher, x in zip(teachers, given, strict=True)]
        return torch.stack(losses).sum(), {}

    for _ in range(2):
        expected = plain.forward_backward(built_in, "cross_entropy").result(60)
        got = custom.forward_backward_custom(own, distillation).result(60)
        assert got.loss == pytest.approx(expected.loss, rel=1e-5)
        norms = [step(client)["grad_norm"] for client in (plain, custom)]
        assert norms[0] > 0
        assert norms[1] == pytest.approx(norms[0], rel=1e-5)
