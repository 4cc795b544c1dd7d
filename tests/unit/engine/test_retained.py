"""Graphs kept between forward and backward: the numbers of two passes, and never of old weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.unit.engine.random_models import VOCAB_SIZE
from tests.unit.engine.training_reference import add_trained_adapter
from tests.unit.engine.training_reference import run as run_all
from tinsmith.core.errors import TinsmithError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import (
    EngineLimits,
    ForwardBackwardJob,
    OptimStepJob,
    RetainGraph,
    UseGraph,
)
from tinsmith.engine.retained import RetainedGraphs
from tinsmith.types import AdamParams, Datum, ForwardBackwardOutput, ModelInput

LENGTHS = (17, 9, 9, 24)
# Head chunks of five rows and several micro-batches, so that both cut datums apart.
LIMITS = EngineLimits(max_microbatch_tokens=40, max_head_elements=96 * 5)


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir), dtype=torch.float64, limits=LIMITS)
    add_trained_adapter(engine, "a", rank=4, seed=1)
    return engine


def datums(weights: Sequence[np.ndarray] | None = None, **more: np.ndarray) -> list[Datum]:
    rng = np.random.default_rng(3)
    made = []
    for index, length in enumerate(LENGTHS):
        tokens, targets = rng.integers(0, VOCAB_SIZE, (2, length))
        chosen = np.zeros(length, np.float32) if weights is None else weights[index]
        inputs = {"target_tokens": targets, "weights": chosen}
        made.append(Datum(ModelInput.from_ints(tokens.tolist()), inputs))
    return made


def forward_job(graph_id: int = 1, distribution: int | None = None) -> ForwardBackwardJob:
    graph = RetainGraph(graph_id, distribution)
    return ForwardBackwardJob("a", datums(), "cross_entropy", forward_only=True, graph=graph)


def backward_job(
    weights: Sequence[np.ndarray], use: UseGraph | None = None, *, data: list[Datum] | None = None
) -> ForwardBackwardJob:
    data = datums(weights) if data is None else data
    return ForwardBackwardJob("a", data, "cross_entropy", graph=use or UseGraph((1,)))


def run(engine: Engine, job: ForwardBackwardJob) -> ForwardBackwardOutput:
    return run_all(engine, job)[0]


def random_weights(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = [rng.normal(size=length).astype(np.float32) for length in LENGTHS]
    found[0][:6] = 0  # a prompt
    return found


def refused(engine: Engine, job: ForwardBackwardJob) -> TinsmithError:
    (result,) = engine.forward_backward([job])
    assert isinstance(result, TinsmithError)
    return result


def taken(engine: Engine) -> Tensor:
    """The gradient accumulated, which is then forgotten."""
    adapter = engine.adapter("a")
    grad, adapter.grad = adapter.grad, None
    assert grad is not None
    return grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("train_unembed", [True, False])
@pytest.mark.parametrize("keeps_logits", [True, False])
def test_a_kept_graph_gives_what_two_passes_give(
    model_dir: Path,
    dtype: torch.dtype,
    *,
    train_unembed: bool,
    keeps_logits: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tinsmith.engine.retained._LOGITS_SHARE", 0.5 if keeps_logits else 0.0)
    engine = Engine(str(model_dir), dtype=dtype, limits=LIMITS)
    add_trained_adapter(engine, "a", rank=4, seed=1, train_unembed=train_unembed)
    weights = random_weights()
    plain = run(engine, replace(forward_job(), graph=None))
    run(engine, replace(backward_job(weights), graph=None))
    expected = taken(engine)

    calls: list[int] = []
    hidden_states = BaseModel.hidden_states

    def counted(self: BaseModel, tokens: Tensor) -> Tensor:
        calls.append(len(tokens))
        return hidden_states(self, tokens)

    monkeypatch.setattr(BaseModel, "hidden_states", counted)
    kept = run(engine, forward_job())
    num_passes = len(calls)
    assert engine.adapter("a").grad is None
    answer = run(engine, backward_job(weights))
    assert len(calls) == num_passes > 1  # several micro-batches, each run once

    for ours, theirs in zip(kept.loss_fn_outputs, plain.loss_fn_outputs, strict=True):
        np.testing.assert_array_equal(ours["logprobs"].to_numpy(), theirs["logprobs"].to_numpy())
    assert answer.loss_fn_outputs == kept.loss_fn_outputs
    # With its logprobs kept the chunks are the same ones; else those of positions with gradient.
    tolerance = 0 if keeps_logits else 1e-12 if dtype == torch.float64 else 1e-6
    error = (taken(engine) - expected).abs().max() / expected.abs().max()
    assert float(error) <= tolerance
    assert answer.metrics["grad_norm:unique"] == pytest.approx(float(expected.norm()), rel=1e-6)
    assert engine.retained.num_bytes == 0


def test_several_graphs_and_other_tenants_do_not_mix(engine: Engine) -> None:
    add_trained_adapter(engine, "b", rank=2, seed=5)
    first, second = random_weights(1), random_weights(2)
    for weights in (first, second):
        run(engine, replace(backward_job(weights), graph=None))
    expected = taken(engine)
    engine.forward_backward([forward_job(1), replace(forward_job(1), adapter_id="b")])
    run(engine, forward_job(2))
    both = backward_job([], UseGraph((1, 2)), data=[*datums(first), *datums(second)])
    run(engine, both)
    torch.testing.assert_close(taken(engine), expected, rtol=1e-10, atol=1e-12)
    assert engine.adapter("b").grad is None
    assert engine.retained.num_bytes > 0  # that of "b"


def peft_twin(engine: Engine, model_dir: Path, tmp_path: Path) -> Callable[[], list[Tensor]]:
    """Whole log-distributions of each datum, by transformers and PEFT; `.params` are the leaves."""
    engine.export_adapter("a", tmp_path / "a")
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float64)
    peft_model = PeftModel.from_pretrained(model, tmp_path / "a", is_trainable=True).eval()
    peft_model.to(torch.float64)

    def distributions() -> list[Tensor]:
        return [
            torch.log_softmax(
                peft_model(
                    input_ids=torch.tensor([datum.model_input.to_ints()]), use_cache=False
                ).logits[0],
                -1,
            )
            for datum in datums()
        ]

    distributions.params = [p for n, p in peft_model.named_parameters() if ".lora_" in n]  # type: ignore[attr-defined]
    return distributions


def autograd_norm(loss: Tensor, params: Sequence[Tensor]) -> float:
    grads = torch.autograd.grad(loss, params, retain_graph=True)
    return float(torch.sqrt(sum(grad.square().sum() for grad in grads)))


def test_norms_of_terms_are_those_of_explicit_autograd_and_add_nothing(
    engine: Engine, model_dir: Path, tmp_path: Path
) -> None:
    distributions = peft_twin(engine, model_dir, tmp_path)
    targets = [datum.loss_fn_inputs["target_tokens"].to_torch() for datum in datums()]
    chosen = [
        lp.gather(-1, t[:, None])[:, 0] for lp, t in zip(distributions(), targets, strict=True)
    ]
    terms = {
        "variance": torch.cat(chosen).var(),
        "mean_probability": torch.stack([lp.exp().mean() for lp in chosen]).sum(),
    }
    terms["total"] = terms["variance"] + 0.3 * terms["mean_probability"]
    run(engine, forward_job())
    for name, loss in terms.items():
        grads = torch.autograd.grad(loss, chosen, retain_graph=True)
        weights = [(-grad).numpy().astype(np.float32) for grad in grads]
        answer = run(engine, backward_job(weights, UseGraph((1,), accumulate=False)))
        norm = autograd_norm(loss, distributions.params)  # type: ignore[attr-defined]
        # The weights travel as float32.
        assert answer.metrics["grad_norm:unique"] == pytest.approx(norm, rel=1e-6), name
    assert engine.adapter("a").grad is None
    run(engine, backward_job(random_weights()))  # the graph is still there


@pytest.mark.parametrize("width", [0, 5])
def test_entropy_of_the_distribution_has_the_gradient_of_autograd(
    engine: Engine, model_dir: Path, tmp_path: Path, width: int
) -> None:
    distributions = peft_twin(engine, model_dir, tmp_path)
    output = run(engine, forward_job(1, distribution=width))
    reference = distributions()
    entropy, ours = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    leaves, tokens = [], []
    for found, lp in zip(output.loss_fn_outputs, reference, strict=True):
        leaf = found["distribution_logprobs"].to_torch().double().requires_grad_()
        if width:
            ids = found["distribution_tokens"].to_torch()
            top = lp.topk(width, -1)
            assert torch.equal(ids, top.indices)
            lp = top.values
        else:
            ids = torch.arange(VOCAB_SIZE).expand(leaf.shape)
        torch.testing.assert_close(leaf.detach(), lp.detach(), rtol=1e-6, atol=1e-6)
        entropy = entropy - (lp.exp() * lp).sum(-1).mean()
        ours = ours - (leaf.exp() * leaf).sum(-1).mean()
        leaves.append(leaf)
        tokens.append(ids)
    data = []
    for datum, ids, grad in zip(datums(), tokens, torch.autograd.grad(ours, leaves), strict=True):
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        inputs = {
            "target_tokens": np.concatenate([targets[:, None], ids.numpy()], 1),
            "weights": np.concatenate([np.zeros((len(targets), 1)), -grad.numpy()], 1),
        }
        inputs["weights"] = inputs["weights"].astype(np.float32)
        data.append(Datum(datum.model_input, inputs))
    answer = run(engine, backward_job([], UseGraph((1,)), data=data))
    norm = autograd_norm(entropy, distributions.params)  # type: ignore[attr-defined]
    assert answer.metrics["grad_norm:unique"] == pytest.approx(norm, rel=1e-5)
    expected = run(engine, backward_job([], UseGraph((1,), "recompute"), data=data))
    assert answer.metrics["accumulated_grad_norm:unique"] == pytest.approx(norm, rel=1e-5)
    assert expected.metrics["accumulated_grad_norm:unique"] == pytest.approx(2 * norm, rel=1e-5)
    twice = taken(engine)  # the kept graph's and an ordinary pass's
    torch.testing.assert_close(float(twice.norm()), 2 * norm, rtol=1e-5, atol=0)
    assert expected.metrics["loss:sum"] == pytest.approx(answer.metrics["loss:sum"], rel=1e-5)


def step(engine: Engine) -> None:
    (result,) = engine.optim_step([OptimStepJob("a", AdamParams(learning_rate=1e-2))])
    assert not isinstance(result, TinsmithError)


def test_a_graph_of_old_weights_is_refused_or_recomputed_at_the_new_ones(
    engine: Engine, tmp_path: Path
) -> None:
    weights = random_weights()
    run(engine, forward_job())
    run(engine, replace(backward_job(weights), graph=None))
    step(engine)
    error = refused(engine, backward_job(weights))
    assert error.message == "graph=1: is not kept: optim_step changed the weights"
    assert error.hint == "run the forward again, or send on_missing=recompute for an ordinary pass"
    again = run(engine, backward_job(weights, UseGraph((1,), "recompute")))
    assert "graph_reused:sum" not in again.metrics
    recomputed = taken(engine)
    run(engine, replace(backward_job(weights), graph=None))
    torch.testing.assert_close(recomputed, taken(engine), rtol=0, atol=0)

    run(engine, forward_job(2))
    engine.save_state("a", tmp_path / "state")
    engine.load_state("a", tmp_path / "state", with_optimizer=True)
    error = refused(engine, backward_job(weights, UseGraph((2,))))
    assert error.message == "graph=2: is not kept: load_weights replaced the weights"
    run(engine, forward_job(3))
    engine.unload_adapter("a")
    assert engine.retained.num_bytes == 0


def test_a_graph_serves_one_backward(engine: Engine) -> None:
    run(engine, forward_job())
    run(engine, backward_job(random_weights()))
    error = refused(engine, backward_job(random_weights()))
    assert error.message == "graph=1: is not kept: its backward has run"
    error = refused(engine, backward_job(random_weights(), UseGraph((7,))))
    assert error.message == "graph=7: is not kept: no forward of this model kept it"


def test_graphs_expire(engine: Engine) -> None:
    now = [100.0]
    engine.retained = RetainedGraphs(engine.base, replace(LIMITS, graph_ttl_s=30), lambda: now[0])
    assert engine.retained.next_expiry_s() is None
    run(engine, forward_job())
    now[0] += 29
    assert engine.retained.next_expiry_s() == pytest.approx(1)
    now[0] += 1
    error = refused(engine, backward_job(random_weights()))
    assert error.message == "graph=1: is not kept: it was kept for 30 s and expired"
    assert engine.retained.num_bytes == 0


def test_memory_is_bounded_and_a_forward_without_room_still_answers(engine: Engine) -> None:
    run(engine, forward_job(1))
    held = engine.retained.num_bytes
    assert held > 0
    engine.retained = RetainedGraphs(engine.base, replace(LIMITS, max_graph_bytes=held * 3 // 2))
    first, second = run(engine, forward_job(1)), run(engine, forward_job(2))
    assert first.metrics["graph_bytes:sum"] == held == engine.retained.num_bytes
    assert second.metrics["graph_bytes:sum"] == 0
    assert second.loss_fn_outputs == first.loss_fn_outputs
    error = refused(engine, backward_job(random_weights(), UseGraph((2,))))
    assert error.message.startswith("graph=2: is not kept: it would not fit: ")
    assert f"max_graph_bytes={held * 3 // 2}" in error.message


def test_twice_the_micro_batches_hold_twice_the_bytes(engine: Engine) -> None:
    one = replace(forward_job(1), data=datums()[-1:])
    held = run(engine, one).metrics["graph_bytes:sum"]
    hidden_bytes = LENGTHS[-1] * 32 * 8
    assert held > 10 * hidden_bytes  # two layers save more than their inputs
    # Tables by position are made once and shared, so a little less than twice.
    both = run(engine, replace(forward_job(2), data=datums()[-1:] * 2)).metrics["graph_bytes:sum"]
    assert 1.9 * held < both <= 2 * held


def test_data_that_is_not_the_forwards_is_refused(engine: Engine) -> None:
    run(engine, forward_job())
    good = datums(random_weights())
    cases = {
        "data: 3 datums, the forward had 4": good[:3],
        "datum 0: model_input: differs from that of the forward": [good[1], *good[1:]],
    }
    targets = good[2].loss_fn_inputs["target_tokens"].to_numpy()
    other = {
        "target_tokens": (targets + 1) % VOCAB_SIZE,
        "weights": good[2].loss_fn_inputs["weights"],
    }
    cases[
        "datum 2: loss_fn_inputs.target_tokens: of shape (9,), differ from those of the forward, "
        "of shape (9,)"
    ] = [*good[:2], Datum(good[2].model_input, other), good[3]]
    for message, data in cases.items():
        assert refused(engine, backward_job([], data=data)).message == message
    other_loss = replace(backward_job(random_weights()), loss_fn="ppo")
    assert "loss_fn_inputs" in refused(engine, other_loss).message
    assert engine.adapter("a").grad is None
    run(engine, backward_job(random_weights()))  # the graph stayed


def test_distributions_are_bounded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(engine, forward_job(1, distribution=VOCAB_SIZE + 1))
    assert error.message == "distribution=97: must be at most the vocabulary of 96, or 'full'"
    monkeypatch.setattr("tinsmith.engine.retained.MAX_DISTRIBUTION_CELLS", 1000)
    error = refused(engine, forward_job(1, distribution=0))
    assert error.message == (
        "distribution: 59 positions of 96 tokens are 5664 logprobs, must be 1000 at most"
    )
    assert error.hint is not None
    assert "distribution=16 or fewer" in error.hint


def test_a_gradient_that_is_not_finite_adds_nothing(engine: Engine) -> None:
    run(engine, forward_job())
    weights = [np.full(length, 3e38, np.float32) for length in LENGTHS]
    engine.adapter("a").flat.data.mul_(1e300)  # the pull-back overflows
    error = refused(engine, backward_job(weights))
    assert error.message == "the gradient is not finite; nothing was accumulated"
    assert engine.adapter("a").grad is None
