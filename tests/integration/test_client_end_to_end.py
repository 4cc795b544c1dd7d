"""The SDK against the real service: train, save, resume, sample, and be told what is wrong."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.integration.service_process import ServiceProcess, make_data
from tinsmith.client import (
    BadRequestError,
    RequestFailedError,
    ServiceClient,
    TinsmithError,
    TrainingClient,
)
from tinsmith.types import AdamParams, Datum, ForwardBackwardOutput, ModelInput, SamplingParams

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]

ADAM = AdamParams(learning_rate=5e-3)
GREEDY = SamplingParams(max_tokens=6, temperature=0.0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as process:
        yield process


@pytest.fixture
def service(running: ServiceProcess) -> Iterator[ServiceClient]:
    ready = running.ready
    with ServiceClient(base_url=ready["url"], api_key=ready["api_key"]) as service:
        yield service


@pytest.fixture
def training(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith/tiny", rank=8, seed=1).result(120)


def train(client: TrainingClient, steps: int, seed: int = 0) -> list[float]:
    """Pipelined steps: everything is submitted before anything is awaited."""
    data = make_data(seed=seed)
    futures = []
    for _ in range(steps):
        futures.append(client.forward_backward(data, "cross_entropy"))
        client.optim_step(ADAM)
    return [future.result(120).loss for future in futures]


def logprobs(output: ForwardBackwardOutput) -> np.ndarray:
    return np.concatenate([o["logprobs"].to_numpy() for o in output.loss_fn_outputs])


def test_the_loss_falls(training: TrainingClient) -> None:
    losses = train(training, 8)
    assert losses[-1] < 0.5 * losses[0]
    assert losses == sorted(losses, reverse=True)


def test_the_output_is_one_array_of_logprobs_a_datum(training: TrainingClient) -> None:
    data = make_data(3, length=5)
    output = training.forward(data, "cross_entropy").result(60)
    assert [o["logprobs"].to_numpy().shape for o in output.loss_fn_outputs] == [(5,)] * 3
    assert output.loss == pytest.approx(-logprobs(output).sum(), rel=1e-5)
    step = training.optim_step(ADAM).result(60)
    assert step.metrics is not None
    assert step.metrics["grad_norm"] == 0.0  # forward leaves no gradient


def test_chunks_give_what_one_request_gives(running: ServiceProcess) -> None:
    from tinsmith.client.chunking import ChunkLimits
    from tinsmith.client.connection import ServiceConfig

    class SmallChunks(ServiceConfig):
        @property
        def chunk_limits(self) -> ChunkLimits:
            return ChunkLimits(max_datums=2)

    outputs = []
    norms = []
    for chunks in (False, True):
        url, key = running.ready["url"], running.ready["api_key"]
        with ServiceClient(base_url=url, api_key=key) as service:
            client = service.create_lora_training_client("tinsmith/tiny", rank=8, seed=3).result(60)
            if chunks:
                client._connection.config = SmallChunks()
            outputs.append(client.forward_backward(make_data(7), "cross_entropy").result(60))
            metrics = client.optim_step(ADAM).result(60).metrics
            assert metrics is not None
            norms.append(metrics["grad_norm"])
    whole, chunked = outputs
    np.testing.assert_allclose(logprobs(whole), logprobs(chunked), rtol=1e-4, atol=1e-5)
    assert set(whole.metrics) == set(chunked.metrics)
    for name, value in whole.metrics.items():
        assert chunked.metrics[name] == pytest.approx(value, rel=1e-5)
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_training_resumes_exactly_where_it_was_saved(
    service: ServiceClient, training: TrainingClient
) -> None:
    train(training, 3)
    path = training.save_state("middle").result(60).path
    assert path == f"tinker://{training.model_id}/weights/middle"
    expected = train(training, 3, seed=1)
    resumed = service.create_training_client_from_state_with_optimizer(path).result(60)
    assert train(resumed, 3, seed=1) == expected
    fresh = service.create_training_client_from_state(path).result(60)
    losses = train(fresh, 3, seed=1)
    assert losses[0] == expected[0]
    assert losses[1:] != expected[1:]  # the optimizer starts afresh
    training.load_state_with_optimizer(path).result(60)
    assert train(training, 3, seed=1) == expected


def test_a_checkpoint_name_is_taken_once_unless_overwritten(training: TrainingClient) -> None:
    training.save_state("name").result(60)
    with pytest.raises(TinsmithError, match="name") as caught:
        training.save_state("name").result(60)
    assert caught.value.category == "user"
    training.save_state("name", overwrite=True).result(60)


def test_samples_follow_the_trained_weights_and_stay_with_their_snapshot(
    service: ServiceClient, training: TrainingClient
) -> None:
    data = make_data(1)
    prompt = ModelInput.from_ints(data[0].model_input.to_ints()[:8])
    targets = data[0].loss_fn_inputs["target_tokens"].to_numpy()
    before = training.save_weights_and_get_sampling_client()
    for _ in range(40):
        training.forward_backward(data, "cross_entropy")
        training.optim_step(ADAM)
    after = training.save_weights_and_get_sampling_client().result(120)
    learned = after.sample(prompt, 2, GREEDY).result(60)
    assert [sequence.tokens for sequence in learned.sequences] == [targets[7:13].tolist()] * 2
    assert all(sequence.sequence_id for sequence in learned.sequences)
    first = before.sample(prompt, 1, GREEDY).result(60)
    assert first.sequences[0].tokens != targets[7:13].tolist()
    # Saved under a name, the same weights say the same through another client.
    path = training.save_weights_for_sampler("final").result(60).path
    assert path is not None
    saved = service.create_sampling_client(path).result(60)
    assert saved.get_base_model() == "tinsmith/tiny"
    assert saved.sample(prompt, 1, GREEDY).result(60).sequences[0].tokens == (
        learned.sequences[0].tokens
    )


def test_the_sampler_and_the_trainer_agree_on_logprobs(training: TrainingClient) -> None:
    train(training, 3)
    data = make_data(1)
    tokens = [*data[0].model_input.to_ints(), int(data[0].loss_fn_inputs["target_tokens"].data[-1])]
    expected = logprobs(training.forward(data, "cross_entropy").result(60))
    sampling = training.save_weights_and_get_sampling_client().result(60)
    found = sampling.compute_logprobs(ModelInput.from_ints(tokens)).result(60)
    assert found[0] is None
    np.testing.assert_allclose(np.array(found[1:], np.float32), expected, atol=1e-4)


async def test_async_code_trains_two_adapters_and_samples_at_once(service: ServiceClient) -> None:
    one, two = await asyncio.gather(
        service.create_lora_training_client_async("tinsmith/tiny", rank=4, seed=1),
        service.create_lora_training_client_async("tinsmith/tiny", rank=16, seed=2),
    )
    base = await service.create_sampling_client_async(base_model="tinsmith/tiny")

    async def steps(client: TrainingClient, seed: int) -> list[float]:
        losses = []
        for _ in range(4):
            gradient = await client.forward_backward_async(make_data(seed=seed), "cross_entropy")
            step = await client.optim_step_async(ADAM)
            losses.append((await gradient).loss)
            await step
        return losses

    samples = [base.sample_async(ModelInput.from_ints([60, 61, 62]), 2, GREEDY) for _ in range(6)]
    first, second, *responses = await asyncio.gather(steps(one, 0), steps(two, 1), *samples)
    assert first[-1] < first[0]
    assert second[-1] < second[0]
    assert len({tuple(r.sequences[0].tokens) for r in responses}) == 1


def test_the_tokenizer_is_the_models(training: TrainingClient) -> None:
    tokenizer = training.get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Hello there")) == "Hello there"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"base_model": "tinsmith/tinny"}, "base_model"),
        ({"base_model": "/no/such/directory"}, "base_model"),
    ],
)
def test_what_cannot_be_created_is_refused_by_field(
    service: ServiceClient, arguments: dict[str, str], field: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        service.create_lora_training_client(**arguments).result(60)
    assert caught.value.field == field
    assert caught.value.category == "user"


def test_a_bad_request_fails_alone_and_says_why(training: TrainingClient) -> None:
    data = make_data(2)
    with pytest.raises(TinsmithError, match="cross_entropie") as unknown:
        training.forward_backward(data, "cross_entropie").result(60)
    assert unknown.value.category == "user"
    assert unknown.value.field == "loss_fn"
    vocabulary = 10**6
    bad = Datum(ModelInput.from_ints([vocabulary, 1]), {"target_tokens": [1, 2], "weights": [1, 1]})
    with pytest.raises((BadRequestError, RequestFailedError), match=str(vocabulary)) as token:
        training.forward_backward([data[0], bad], "cross_entropy").result(60)
    assert token.value.category == "user"
    assert train(training, 2)[1] > 0  # the lane goes on


def test_an_answer_waits_for_no_delayed_acknowledgement(service: ServiceClient) -> None:
    times_s = []
    for _ in range(20):
        start_s = time.perf_counter()
        service.get_server_capabilities().result(30)
        times_s.append(time.perf_counter() - start_s)
    # Nagle's algorithm on either side makes every one take 40 ms; a busy machine only some.
    assert min(times_s) < 0.03


def test_a_wrong_key_is_refused(running: ServiceProcess) -> None:
    with (
        ServiceClient(base_url=running.ready["url"], api_key="wrong") as service,
        pytest.raises(TinsmithError, match="key") as caught,
    ):
        service.get_server_capabilities().result(30)
    assert caught.value.category == "user"


def test_an_engine_that_dies_is_reported(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path) as process:
        ready = process.ready
        with ServiceClient(base_url=ready["url"], api_key=ready["api_key"]) as service:
            client = service.create_lora_training_client("tinsmith/tiny", rank=4).result(60)
            train(client, 1)
            for pid in process.engine_pids:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(TinsmithError) as caught:
                train(client, 2)
            assert caught.value.category == "server"
            assert "engine" in str(caught.value)
