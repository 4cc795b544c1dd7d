"""forward_backward_custom of the official package: losses of one's own move the weights right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import tinsmith
from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.conftest import API_KEY, Connect, Warm
from tests.interop.official_data import outputs_of, random_data
from tinsmith.regularizers import L1, Regularizer

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration

PARAMS = {"learning_rate": 0.05, "eps": 1.0}


def own_cross_entropy(data: list, logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict]:
    """Cross-entropy written by the user; its surrogate's weights are the weights, signs and all."""
    loss = torch.zeros(())
    for datum, lp in zip(data, logprobs, strict=True):
        loss = loss - (datum.loss_fn_inputs["weights"].to_torch() * lp).sum()
    return loss, {"mine": 3.5}


def test_own_cross_entropy_moves_weights_exactly_as_the_built_in(warm: Warm) -> None:
    built_in, own = warm.fork(), warm.fork()
    data = random_data(5, seed=21)
    assert min(min(d.loss_fn_inputs["weights"].data) for d in data) < 0  # negative ones too
    expected = built_in.forward_backward(data, "cross_entropy").result()
    found = own.forward_backward_custom(data, own_cross_entropy).result()
    assert found.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], abs=1e-3)
    assert found.metrics["mine"] == 3.5
    params = tinker.AdamParams(**PARAMS)
    norms = [m.optim_step(params).result().metrics["grad_norm"] for m in (built_in, own)]
    assert norms[0] == norms[1]
    after = [outputs_of(m.forward(data, "cross_entropy").result()) for m in (built_in, own)]
    for theirs, ours in zip(*after, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_loss_over_pairs_equals_autograd(warm: Warm) -> None:
    trainer, twin = warm.fork(), warm.twin()
    data = random_data(4, seed=22)

    def preference(_: list, logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict]:
        gaps = [logprobs[i].sum() - logprobs[i + 1].sum() for i in (0, 2)]
        losses = [-torch.nn.functional.logsigmoid(0.1 * gap) for gap in gaps]
        return torch.stack(losses).sum(), {}

    output = trainer.forward_backward_custom(data, preference).result()
    loss, _ = preference(data, [twin.logprobs(datum) for datum in data])
    assert output.metrics["loss:sum"] == pytest.approx(loss.item(), abs=1e-4)
    params = tinker.AdamParams(**PARAMS)
    loss.backward()
    norm = twin.step(params)
    metrics = trainer.optim_step(params).result().metrics
    assert metrics is not None
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for ours, datum in zip(
        outputs_of(trainer.forward(data, "cross_entropy").result()), data, strict=True
    ):
        np.testing.assert_allclose(ours, twin.logprobs(datum).detach().numpy(), atol=3e-4)


def test_a_loss_over_several_targets_equals_autograd(warm: Warm) -> None:
    trainer, twin = warm.fork(), warm.twin()
    rng = np.random.default_rng(23)
    prompt = tinker.ModelInput.from_ints(rng.integers(5, 500, 7).tolist())
    data = [tinker.Datum(prompt, {"target_tokens": rng.integers(5, 500, (7, 3))})]

    def squared(_: list, logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict]:
        return sum((lp.exp() ** 2).sum() * 100 for lp in logprobs), {}  # type: ignore[return-value]

    output = trainer.forward_backward_custom(data, squared).result()
    loss, _ = squared(data, [twin.logprobs(data[0])])
    loss.backward()
    assert output.metrics["loss:sum"] == pytest.approx(loss.item(), rel=1e-4)
    params = tinker.AdamParams(**PARAMS)
    metrics = trainer.optim_step(params).result().metrics
    assert metrics is not None
    assert metrics["grad_norm"] == pytest.approx(twin.step(params), rel=1e-4)


def cross_entropy(data: list, logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict]:
    """As the how-to page's quick start writes it."""
    return -torch.cat(logprobs).mean(), {}


def test_the_quick_start_has_the_loss_of_our_client(
    connect: Connect, service: ServiceProcess
) -> None:
    """The part that the official client has: the base loss alone; ours adds the L1 term."""
    tokens = list(b"A regularizer is a term of the loss.")
    inputs = {"target_tokens": tokens[1:], "weights": np.ones(len(tokens) - 1, np.float32)}
    official = connect().create_lora_training_client(BASE_MODEL, rank=8, seed=6).result()
    prompt = tinker.ModelInput.from_ints(tokens[:-1])
    found = official.forward_backward_custom(
        [tinker.Datum(model_input=prompt, loss_fn_inputs=inputs)], cross_entropy
    ).result()
    with tinsmith.ServiceClient(base_url=service.ready["url"], api_key=API_KEY) as client:
        training = client.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=6)
        datum = tinsmith.Datum(
            model_input=tinsmith.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs
        )
        output = (
            training.result()
            .forward_backward_custom(
                [datum],
                cross_entropy,
                regularizers=[Regularizer(L1(), weight=0.01, name="l1_sparsity")],
                track_grad_norms=True,
            )
            .result()
        )
    assert output.base_loss is not None
    assert found.metrics["loss:sum"] == pytest.approx(output.base_loss.value, rel=1e-6)
    # All logprobs are negative, so that L1 is the mean loss times their number.
    l1 = 0.01 * output.base_loss.value * (len(tokens) - 1)
    assert output.regularizers["l1_sparsity"].contribution == pytest.approx(l1, rel=1e-5)
    assert output.loss_total == pytest.approx(output.base_loss.value + l1, rel=1e-5)


def leaky(
    logprobs: torch.Tensor, weights: torch.Tensor, temperature: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of one datum; uses slices, comparisons, constants and a rank-0 input."""
    ratio = torch.exp(torch.clamp((logprobs + 5.0) / temperature, max=2.0))
    kept = torch.where(weights > 0, ratio * weights, 0.1 * ratio)
    loss = kept.sum() + kept[1:].mean() - torch.nn.functional.logsigmoid(logprobs).mean()
    return loss, {"custom/kept:sum": kept.sum(), "custom/ratio:mean": ratio.mean()}


def with_temperature(data: list) -> list:
    return [
        tinker.Datum(
            d.model_input,
            {**d.loss_fn_inputs, "temperature": torch.tensor(1.5 + 0.5 * i)},
        )
        for i, d in enumerate(data)
    ]


def summed(data: list, logprobs: list[torch.Tensor]) -> tuple[torch.Tensor, dict]:
    """The same loss in the form that runs on the client."""
    parts = [
        leaky(lp, *(d.loss_fn_inputs[k].to_torch() for k in ("weights", "temperature")))
        for d, lp in zip(data, logprobs, strict=True)
    ]
    return torch.stack([loss for loss, _ in parts]).sum(), {
        "kept": sum(m["custom/kept:sum"].item() for _, m in parts),
        "ratio": sum(m["custom/ratio:mean"].item() for _, m in parts) / len(parts),
    }


def test_an_uploaded_loss_has_the_values_and_gradients_of_the_callable(warm: Warm) -> None:
    uploaded, called = warm.fork(), warm.fork()
    data = with_temperature(random_data(5, seed=24))
    ranks = {"logprobs": 1, "weights": 1, "temperature": 0}
    handle = warm.client.create_custom_loss(leaky, ranks).result()
    assert handle.loss_id is not None, "the service must offer to run it"
    for _ in range(2):
        found = uploaded.forward_backward_custom(data, handle).result()
        expected = called.forward_backward_custom(data, summed).result()
        assert found.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)
        assert found.metrics["custom/kept:sum"] == pytest.approx(expected.metrics["kept"], rel=1e-5)
        assert found.metrics["custom/ratio:mean"] == pytest.approx(
            expected.metrics["ratio"], rel=1e-5
        )
        for ours, theirs in zip(outputs_of(found), outputs_of(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        params = tinker.AdamParams(**PARAMS)
        norms = [m.optim_step(params).result().metrics["grad_norm"] for m in (uploaded, called)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        assert norms[0] > 0


def test_a_loss_id_of_nothing_fails_the_one_request(warm: Warm) -> None:
    trainer = warm.fork()
    data = random_data(1, seed=25)
    with pytest.raises(tinker.BadRequestError, match=r"loss_fn_config.loss_id"):
        trainer.forward_backward(data, "custom", {"loss_id": "loss-1"}).result()
    trainer.forward_backward(data, "cross_entropy").result()
