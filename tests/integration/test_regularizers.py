"""Regularizers against the real service: the gradient it gets, and what it does to a model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.integration.service_process import ServiceProcess, make_data
from tinsmith.client import ServiceClient, TrainingClient
from tinsmith.regularizers import KL, L1, Entropy, KLEstimate, PolicyReference, Regularizer
from tinsmith.types import AdamParams, Datum, ModelInput, TensorData

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]

ADAM = AdamParams(learning_rate=1e-3)
VOCABULARY = 2048  # of the bundled model


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


def mean_nll(data: Any, logprobs: list[torch.Tensor]) -> Any:
    return -torch.cat(logprobs).mean(), {}


def whole_vocabulary(num_positions: int = 5) -> Datum:
    """Every token is a target at every position: the logprobs are the distribution."""
    targets = np.tile(np.arange(VOCABULARY), (num_positions, 1))
    return Datum(
        model_input=ModelInput.from_ints(list(range(40, 40 + num_positions))),
        loss_fn_inputs={"target_tokens": targets},
    )


def test_the_adapter_gets_the_gradient_of_the_composite(service: ServiceClient) -> None:
    """mean NLL + 0.01 * L1 is a cross-entropy with weights 1 / N + 0.01."""
    data = make_data(4, seed=4)
    count = sum(datum.model_input.length for datum in data)
    by_hand = [
        Datum(
            model_input=datum.model_input,
            loss_fn_inputs={
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "weights": np.full(datum.model_input.length, 1 / count + 0.01, np.float32),
            },
        )
        for datum in data
    ]
    plain, composed = make_client(service), make_client(service)
    for _ in range(2):
        expected = plain.forward_backward(by_hand, "cross_entropy").result(60)
        output = composed.forward_backward_custom(
            data, mean_nll, regularizers=[Regularizer(L1(), 0.01)], track_grad_norms=True
        ).result(60)
        assert output.loss_total == pytest.approx(expected.loss, rel=1e-5)
        assert output.total_grad_norm == pytest.approx((1 / count + 0.01) * np.sqrt(count))
        norms = [
            (client.optim_step(ADAM).result(60).metrics or {})["grad_norm"]
            for client in (plain, composed)
        ]
        assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_an_entropy_bonus_raises_entropy(service: ServiceClient) -> None:
    client = make_client(service)
    entropies = []
    for _ in range(5):
        output = client.forward_backward_custom(
            [whole_vocabulary()], regularizers=[Regularizer(Entropy(), 1.0)]
        )
        client.optim_step(ADAM)
        entropies.append(output.result(60).regularizers["entropy"].custom["entropy"])
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.1
    assert entropies[-1] < np.log(VOCABULARY)


def test_kl_to_the_start_keeps_the_model_near_it(service: ServiceClient) -> None:
    """Both runs learn to say token 7; the one that is held moves less."""
    datum = whole_vocabulary()
    start: dict[str, list[torch.Tensor]] = {}

    def say_seven(data: Any, logprobs: list[torch.Tensor]) -> Any:
        start.setdefault("logprobs", [x.detach().clone() for x in logprobs])
        return -logprobs[0][:, 7].mean(), {}

    moved, learnt = {}, {}
    for weight in (0.0, 2.0):
        client = make_client(service)
        term = Regularizer(KL(lambda data: start["logprobs"]), weight)
        outputs = []
        for _ in range(12):
            outputs.append(client.forward_backward_custom([datum], say_seven, regularizers=[term]))
            client.optim_step(ADAM)
        losses = [output.result(60).base_loss for output in outputs]
        moved[weight] = outputs[-1].result(60).regularizers["kl"].value
        assert losses[0] is not None
        assert losses[-1] is not None
        learnt[weight] = losses[0].value - losses[-1].value
    assert learnt[0.0] > learnt[2.0] > 0
    assert 0 < moved[2.0] < moved[0.0] / 4


def test_the_base_model_is_a_reference_that_a_new_adapter_equals(service: ServiceClient) -> None:
    client = make_client(service)
    sampler = service.create_sampling_client(base_model="tinsmith/tiny").result(60)
    tokens = list(range(60, 80))
    data = [
        Datum(
            model_input=ModelInput.from_ints(tokens[start:-1]),
            loss_fn_inputs={"target_tokens": TensorData.from_numpy(np.array(tokens[start + 1 :]))},
        )
        for start in (0, 7)
    ]
    term = Regularizer(KLEstimate(PolicyReference(sampler), "k2", reduction="sum"), 1.0)
    values = []
    for _ in range(2):
        output = client.forward_backward_custom(data, mean_nll, regularizers=[term])
        client.optim_step(ADAM)
        values.append(output.result(60).regularizers["kl_estimate"].value)
    # Equal weights, and logprobs of 31 tokens to float32's rounding by two ways of computing them.
    assert values[0] < 1e-6
    assert values[1] > 1e-3
