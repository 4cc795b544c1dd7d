"""TrainingClient of the official package against our service, value by value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.integration.service_process import BASE_MODEL
from tests.interop.conftest import Warm
from tests.interop.official_data import outputs_of, random_data, with_advantages

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration

# With a large epsilon a step is proportional to the gradient, which makes it a test of gradients.
PLAIN_STEP = {"learning_rate": 0.05, "eps": 1.0}
LOSSES = [
    ("cross_entropy", {}),
    ("importance_sampling", {}),
    ("ppo", {}),
    ("ppo", {"clip_low_threshold": 0.6, "clip_high_threshold": 1.1}),
    ("cispo", {}),
    ("cispo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.3}),
    ("dro", {"beta": 0.3}),
]


def check_logprobs(trainer: tinker.TrainingClient, twin, data: list, *, atol: float) -> None:
    """The service's model and the twin say the same of every target."""
    found = outputs_of(trainer.forward(data, "cross_entropy").result())
    for ours, datum in zip(found, data, strict=True):
        np.testing.assert_allclose(ours, twin.logprobs(datum).detach().numpy(), atol=atol, rtol=0)


@pytest.mark.parametrize(("loss_fn", "config"), LOSSES)
def test_losses_and_gradients_equal_float64(warm: Warm, loss_fn: str, config: dict) -> None:
    trainer, twin = warm.fork(), warm.twin()
    plain = random_data(5, seed=1)
    learner = [twin.logprobs(datum).detach().numpy() for datum in plain]
    data = plain if loss_fn == "cross_entropy" else with_advantages(plain, learner, seed=2)
    evaluated = trainer.forward(data, loss_fn, config).result()
    output = trainer.forward_backward(data, loss_fn, config).result()
    for result in (evaluated, output):
        loss = twin.loss(data, loss_fn, config)
        assert result.metrics["loss:sum"] == pytest.approx(loss.item(), abs=1e-3)
        for ours, theirs in zip(outputs_of(result), learner, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    params = tinker.AdamParams(**PLAIN_STEP)
    metrics = trainer.optim_step(params).result().metrics
    twin.loss(data, loss_fn, config).backward()
    norm = twin.step(params)
    assert metrics is not None
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    before = np.concatenate(learner)
    after = np.concatenate([twin.logprobs(datum).detach().numpy() for datum in plain])
    assert np.abs(after - before).max() > 0.05  # the step is large enough to be seen
    check_logprobs(trainer, twin, plain, atol=3e-4)


def test_optim_step_is_torchs_adamw(warm: Warm) -> None:
    trainer, twin = warm.fork(), warm.twin()
    data = random_data(4, seed=3)
    for step in range(3):
        params = tinker.AdamParams(
            learning_rate=4e-3 / (step + 1),
            beta1=0.8,
            beta2=0.9,
            eps=1e-6,
            weight_decay=0.2,
            grad_clip_norm=(0.0, 0.5, 1e6)[step],
        )
        gradients = trainer.forward_backward(data, "cross_entropy")
        stepped = trainer.optim_step(params)  # sent before the gradient is there
        loss = twin.loss(data, "cross_entropy")
        loss.backward()
        norm = twin.step(params)
        assert gradients.result().metrics["loss:sum"] == pytest.approx(loss.item(), abs=2e-3)
        assert stepped.result().metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    check_logprobs(trainer, twin, data, atol=2e-3)


def test_gradients_add_up_until_the_step_and_losses_are_sums(warm: Warm) -> None:
    together, apart = warm.fork(), warm.fork()
    data = random_data(6, seed=4)
    params = tinker.AdamParams(**PLAIN_STEP)
    whole = together.forward_backward(data, "cross_entropy").result()
    parts = [apart.forward_backward(data[i : i + 2], "cross_entropy") for i in (0, 2, 4)]
    losses = [part.result().metrics["loss:sum"] for part in parts]
    assert whole.metrics["loss:sum"] == pytest.approx(sum(losses), abs=1e-4)
    twice = together.forward(data + data, "cross_entropy").result()
    assert twice.metrics["loss:sum"] == pytest.approx(2 * whole.metrics["loss:sum"], abs=1e-4)
    norms = [
        trainer.optim_step(params).result().metrics["grad_norm"] for trainer in (together, apart)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    found = [outputs_of(t.forward(data, "cross_entropy").result()) for t in (together, apart)]
    # Three passes and one round differently in float32, and AdamW's first step divides each entry
    # of the gradient by its own size: logprobs of size 30 agree to some 1e-5.
    np.testing.assert_allclose(*(np.concatenate(each) for each in found), atol=1e-4)
    # the gradient is spent: a step without a new one moves nothing but by the moments
    still = tinker.AdamParams(learning_rate=0.0)
    assert together.optim_step(still).result().metrics["grad_norm"] == 0.0


def test_a_call_of_three_thousand_datums_travels_in_chunks_and_comes_back_whole(
    warm: Warm,
) -> None:
    trainer, small = warm.fork(), warm.fork()
    distinct = random_data(30, seed=5, max_length=4)
    one = small.forward_backward(distinct, "cross_entropy").result()
    many = trainer.forward_backward(distinct * 100, "cross_entropy").result()
    # Cancelling terms of both signs: the tolerance is of the terms, not of the sum.
    scale = 100 * sum(np.abs(lp).sum() for lp in outputs_of(one))
    assert abs(many.metrics["loss:sum"] - 100 * one.metrics["loss:sum"]) < 1e-5 * scale
    assert many.metrics["tokens:sum"] == 100 * one.metrics["tokens:sum"]
    expected, found = outputs_of(one), outputs_of(many)
    assert len(found) == 3000
    for index, logprobs in enumerate(found):
        np.testing.assert_allclose(logprobs, expected[index % 30], atol=1e-4)
    params = tinker.AdamParams(learning_rate=0.0)
    norm = trainer.optim_step(params).result().metrics["grad_norm"]
    assert norm == pytest.approx(100 * small.optim_step(params).result().metrics["grad_norm"], 1e-4)


def test_several_targets_a_position_dense_and_sparse(warm: Warm) -> None:
    trainer, twin = warm.fork(), warm.twin()
    rng = np.random.default_rng(6)
    targets = rng.integers(5, 500, (9, 12))
    weights = rng.random((9, 12)).astype(np.float32)
    weights[:, 3:] = 0.0
    prompt = tinker.ModelInput.from_ints(rng.integers(5, 500, 9).tolist())
    dense = tinker.Datum(prompt, {"target_tokens": targets, "weights": weights})
    listed = torch.from_numpy(targets * (weights != 0))
    inputs = {"target_tokens": listed, "weights": torch.from_numpy(weights)}
    sparse = tinker.Datum(prompt, inputs)
    assert sparse.loss_fn_inputs["weights"].sparse_crow_indices is not None
    expected = twin.loss([dense], "cross_entropy").item()
    for datum in (dense, sparse):
        output = trainer.forward_backward([datum], "cross_entropy").result()
        assert output.metrics["loss:sum"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        outputs_of(trainer.forward([dense], "cross_entropy").result())[0],
        twin.logprobs(dense).detach().numpy(),
        atol=1e-4,
    )


def test_save_state_and_the_three_ways_to_load_it(warm: Warm) -> None:
    client, trainer = warm.client, warm.fork()
    data = random_data(4, seed=7)

    def step(model: tinker.TrainingClient) -> float:
        gradients = model.forward_backward(data, "cross_entropy")
        model.optim_step(tinker.AdamParams(learning_rate=5e-3)).result()
        return gradients.result().metrics["loss:sum"]

    for _ in range(2):
        step(trainer)
    path = trainer.save_state("middle", user_metadata={"step": "2"}).result().path
    assert path == f"tinker://{trainer.model_id}/weights/middle"
    onward = [step(trainer) for _ in range(3)]
    resumed = client.create_training_client_from_state_with_optimizer(path).result()
    assert resumed.model_id != trainer.model_id
    assert resumed.get_info().lora_rank == trainer.get_info().lora_rank == 8
    assert [step(resumed) for _ in range(3)] == pytest.approx(onward, rel=1e-5)
    fresh = client.create_training_client_from_state(path).result()
    restarted = [step(fresh) for _ in range(3)]
    assert restarted[0] == pytest.approx(onward[0], rel=1e-5)  # the weights are the same
    assert restarted[2] != pytest.approx(onward[2], rel=1e-3)  # and the moments are not
    with pytest.warns(FutureWarning):
        trainer.load_state_with_optimizer(path).result()
    assert [step(trainer) for _ in range(3)] == pytest.approx(onward, rel=1e-5)
    with pytest.warns(FutureWarning):
        trainer.load_state(path).result()
    assert [step(trainer) for _ in range(3)] == pytest.approx(restarted, rel=1e-5)


def test_a_saved_name_is_not_written_over_by_chance(warm: Warm) -> None:
    trainer = warm.fork()
    trainer.save_state("once").result()
    with pytest.raises((tinker.RequestFailedError, tinker.BadRequestError)) as caught:
        trainer.save_state("once").result(timeout=20)
    assert "once" in str(caught.value)
    assert trainer.save_state("once", overwrite=True).result().path.endswith("/weights/once")


@pytest.mark.parametrize("kind", ["snapshot", "inflight"])
def test_saved_weights_are_the_ones_that_are_sampled(warm: Warm, kind: str) -> None:
    trainer = warm.fork()
    (datum,) = random_data(1, seed=8)
    tokens = [*datum.model_input.to_ints(), datum.loss_fn_inputs["target_tokens"].data[-1]]
    prompt = tinker.ModelInput.from_ints(tokens)

    def trained() -> np.ndarray:
        return outputs_of(trainer.forward([datum], "cross_entropy").result())[0]

    def sampled(sampler: tinker.SamplingClient) -> np.ndarray:
        return np.array(sampler.compute_logprobs(prompt).result()[1:], float)

    first = trainer.save_weights_and_get_sampling_client(kind=kind).result()
    before = trained()
    np.testing.assert_allclose(sampled(first), before, atol=1e-4)
    trainer.forward_backward([datum], "cross_entropy").result()
    trainer.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
    path = trainer.save_weights_for_sampler("later").result().path
    second = trainer.save_weights_and_get_sampling_client(kind=kind).result()
    after = trained()
    assert np.abs(after - before).max() > 0.05
    np.testing.assert_allclose(sampled(second), after, atol=1e-4)
    np.testing.assert_allclose(
        sampled(trainer.create_sampling_client(path).result()), after, atol=1e-4
    )
    if kind == "snapshot":
        np.testing.assert_allclose(sampled(first), before, atol=1e-4)
    else:
        np.testing.assert_allclose(sampled(first), after, atol=1e-4)


def test_two_models_train_side_by_side_as_each_would_alone(warm: Warm) -> None:
    data = random_data(8, seed=9)
    alone = warm.fork()
    pair = [warm.fork(), warm.fork()]
    params = [tinker.AdamParams(learning_rate=rate, weight_decay=0.3) for rate in (5e-3, 5e-2)]
    expected = [
        (alone.forward_backward(data[:4], "cross_entropy"), alone.optim_step(params[0]))
        for _ in range(3)
    ]
    mixed = []
    for _ in range(3):
        for index, model in enumerate(pair):
            half = data[4 * index : 4 * index + 4]
            mixed.append(model.forward_backward(half, "cross_entropy"))
            model.optim_step(params[index])
    losses = [each[0].result().metrics["loss:sum"] for each in expected]
    found = [each.result().metrics["loss:sum"] for each in mixed[::2]]
    assert found == pytest.approx(losses, rel=1e-4)


def test_lora_options_reach_the_model(warm: Warm) -> None:
    client = warm.client
    data = random_data(2, seed=10)
    same = [client.create_lora_training_client(BASE_MODEL, rank=4, seed=3) for _ in range(2)]
    other = client.create_lora_training_client(BASE_MODEL, rank=4, seed=4)
    attention = client.create_lora_training_client(
        BASE_MODEL, rank=2, seed=3, train_mlp=False, train_unembed=False
    )
    params = tinker.AdamParams(learning_rate=1e-2)
    norms = []
    for model in [each.result() for each in (*same, other, attention)]:
        assert model.get_info().model_data.model_name == BASE_MODEL
        model.forward_backward(data, "cross_entropy")
        norms.append(model.optim_step(params).result().metrics["grad_norm"])
    assert norms[0] == norms[1]  # the seed decides
    assert len(set(norms)) == 3
    assert attention.result().get_info().lora_rank == 2
    tokenizer = attention.result().get_tokenizer()
    assert tokenizer.decode(tokenizer.encode("Hello, smith!")) == "Hello, smith!"
