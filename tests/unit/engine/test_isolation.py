"""Adapters share a base model and nothing else; a job that fails changes nothing."""

from pathlib import Path

import pytest
import torch

from tests.unit.engine.training_reference import (
    add_trained_adapter,
    engine_gradients,
    gradient_error,
    random_job,
    relative_error,
    run,
    succeed,
)
from tinsmith.core.errors import TinsmithError
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import ForwardBackwardJob, OptimStepJob
from tinsmith.types import AdamParams

TOLERANCE = 1e-5  # float32, as in test_training_equals_peft


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4, seed=1)
    add_trained_adapter(engine, "b", rank=3, seed=2)
    return engine


def step(engine: Engine, adapter_id: str, **params: float) -> dict[str, float]:
    job = OptimStepJob(adapter_id, AdamParams(**params))
    return succeed(engine.optim_step([job]))[0].metrics


def state_of(engine: Engine, adapter_id: str) -> list[torch.Tensor]:
    """Every tensor that belongs to an adapter, copied."""
    adapter = engine.adapter(adapter_id)
    moments = adapter.optimizer.state_tensors()
    tensors = [
        adapter.flat,
        *([adapter.grad] if adapter.grad is not None else []),
        *moments.values(),
    ]
    return [tensor.detach().clone() for tensor in tensors]


def same_bits(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    return len(before) == len(after) and all(map(torch.equal, before, after))


def test_results_do_not_depend_on_batch_mates(engine: Engine) -> None:
    mine = random_job("a", "ppo", [5, 14, 14, 20], seed=1)
    (alone,) = run(engine, mine)
    alone_gradients = {
        k: (a.clone(), b.clone()) for k, (a, b) in engine_gradients(engine, "a").items()
    }
    engine.adapter("a").grad = None
    mates = [
        random_job("b", "cross_entropy", [14, 3, 20, 33], seed=2),
        random_job("b", "cispo", [5, 5], seed=3, forward_only=True),
    ]
    crowd = run(engine, mates[0], mine, mates[1])[1]
    for one, other in zip(alone.loss_fn_outputs, crowd.loss_fn_outputs, strict=True):
        assert relative_error(one["logprobs"].to_torch(), other["logprobs"].to_torch()) < TOLERANCE
    assert alone.metrics["loss:sum"] == pytest.approx(crowd.metrics["loss:sum"], rel=TOLERANCE)
    assert gradient_error(engine_gradients(engine, "a"), alone_gradients) < TOLERANCE


def test_two_calls_accumulate_like_one(engine: Engine) -> None:
    whole = random_job("a", "cross_entropy", [5, 14, 14, 20], seed=1)
    (output,) = run(engine, whole)
    expected = {k: (a.clone(), b.clone()) for k, (a, b) in engine_gradients(engine, "a").items()}
    engine.adapter("a").grad = None
    halves = [
        ForwardBackwardJob("a", part, whole.loss_fn) for part in (whole.data[:2], whole.data[2:])
    ]
    losses = [run(engine, half)[0].loss for half in halves]
    assert sum(losses) == pytest.approx(output.loss, rel=TOLERANCE)
    assert gradient_error(engine_gradients(engine, "a"), expected) < TOLERANCE


def test_losses_are_sums_over_tokens_and_datums(engine: Engine) -> None:
    job = random_job("a", "cross_entropy", [7, 12], seed=1)
    (once,) = run(engine, job)
    gradients = {k: (a.clone(), b.clone()) for k, (a, b) in engine_gradients(engine, "a").items()}
    engine.adapter("a").grad = None
    (twice,) = run(engine, ForwardBackwardJob("a", [*job.data, *job.data], "cross_entropy"))
    assert twice.loss == pytest.approx(2 * once.loss, rel=TOLERANCE)
    assert twice.metrics["tokens:sum"] == 2 * once.metrics["tokens:sum"] == 2 * 19
    assert once.metrics["loss_tokens:sum"] == 19 - 7 // 3 - 12 // 3
    doubled = {name: (2 * a, 2 * b) for name, (a, b) in gradients.items()}
    assert gradient_error(engine_gradients(engine, "a"), doubled) < TOLERANCE


def test_another_adapters_pass_and_step_leave_this_one_alone_to_the_bit(engine: Engine) -> None:
    run(engine, random_job("a", "cross_entropy", [9], seed=1))
    step(engine, "a", learning_rate=1e-2)
    run(engine, random_job("a", "cross_entropy", [9], seed=2))
    before = state_of(engine, "a")
    base_before = {k: v.clone() for k, v in engine.base.model.state_dict().items()}
    run(engine, random_job("b", "cross_entropy", [9, 30], seed=3))
    step(engine, "b", learning_rate=0.1, weight_decay=0.5, grad_clip_norm=1.0)
    step(engine, "b", learning_rate=0.1, weight_decay=0.5)
    assert same_bits(before, state_of(engine, "a"))
    for name, tensor in engine.base.model.state_dict().items():
        assert torch.equal(tensor, base_before[name])


def test_a_bad_job_fails_alone_and_changes_nothing(engine: Engine) -> None:
    good = random_job("a", "cross_entropy", [9, 4], seed=1)
    (expected,) = run(engine, good)
    engine.adapter("a").grad = None
    run(engine, random_job("b", "cross_entropy", [4], seed=5))
    before = state_of(engine, "b")
    bad = random_job("b", "ppo", [6], seed=2)
    broken = ForwardBackwardJob("b", bad.data, "ppo", {"clip_high": 2.0})
    results = engine.forward_backward(
        [broken, good, ForwardBackwardJob("nobody", good.data, "ppo")]
    )
    assert isinstance(results[0], TinsmithError)
    assert "clip_high" in str(results[0])
    assert not isinstance(results[1], TinsmithError)
    assert results[1].metrics == expected.metrics
    assert isinstance(results[2], TinsmithError)
    assert "'nobody' is not loaded" in str(results[2])
    assert same_bits(before, state_of(engine, "b"))


def test_a_loss_that_overflows_is_a_user_error_and_accumulates_nothing(engine: Engine) -> None:
    run(engine, random_job("b", "cross_entropy", [4], seed=5))
    before = state_of(engine, "b")
    job = random_job("b", "importance_sampling", [6], seed=2)
    arrays = {key: value.to_numpy().copy() for key, value in job.data[0].loss_fn_inputs.items()}
    arrays["logprobs"][5] = -1e4  # exp(lp + 10000)
    from tinsmith.types import Datum

    overflow = Datum(model_input=job.data[0].model_input, loss_fn_inputs=arrays)
    mate = random_job("b", "cross_entropy", [6], seed=3)
    results = engine.forward_backward(
        [ForwardBackwardJob("b", [overflow], "importance_sampling"), mate]
    )
    assert isinstance(results[0], TinsmithError)
    assert results[0].category == "user"
    assert "not finite" in str(results[0])
    (expected,) = run(engine, random_job("a", "cross_entropy", [3]))  # the engine still works
    assert expected.loss_fn_outputs
    # The mate's gradient counts, the overflowing job's does not.
    engine.adapter("b").grad = before[1].clone()
    run(engine, mate)
    alone = engine.adapter("b").grad
    engine.adapter("b").grad = before[1].clone()
    engine.forward_backward([ForwardBackwardJob("b", [overflow], "importance_sampling"), mate])
    together = engine.adapter("b").grad
    assert alone is not None
    assert together is not None
    assert relative_error(together, alone) < TOLERANCE


def test_diverged_weights_are_reported_with_the_datum(engine: Engine) -> None:
    with torch.no_grad():
        engine.adapter("b").flat.fill_(float("nan"))
    results = engine.forward_backward(
        [random_job("b", "cross_entropy", [4, 5]), random_job("a", "cross_entropy", [4, 5])]
    )
    assert "datum 0" in str(results[0])
    assert "diverged" in str(results[0])
    assert not isinstance(results[1], TinsmithError)
    assert engine.adapter("b").grad is None


def dies_on_long_rows(engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Makes every forward pass over more than 100 positions raise."""
    hidden_states = type(engine.base).hidden_states

    def dying(base: object, tokens: torch.Tensor) -> torch.Tensor:
        if tokens.shape[1] > 100:
            raise error
        return hidden_states(base, tokens)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr(type(engine.base), "hidden_states", dying)


def test_a_pass_that_dies_changes_no_gradient(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(engine, random_job("b", "cross_entropy", [9], seed=1))
    before = state_of(engine, "b")
    dies_on_long_rows(engine, monkeypatch, torch.OutOfMemoryError("no memory left"))
    (result,) = engine.forward_backward([random_job("b", "ppo", [9, 120], seed=2)])
    assert "out of memory and changed nothing: no memory left" in str(result)
    assert same_bits(before, state_of(engine, "b"))
    assert engine.base.router.segments == ()


def test_the_job_that_kills_a_pass_fails_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = random_job("a", "cross_entropy", [9, 30], seed=2)
    (alone,) = run(engine, mine)
    alone_gradient = engine.adapter("a").grad
    engine.adapter("a").grad = None
    assert alone_gradient is not None
    dies_on_long_rows(engine, monkeypatch, RuntimeError("a fault in the model's code"))
    jobs = [mine, random_job("b", "ppo", [120], seed=2)]
    jobs.append(random_job("b", "cross_entropy", [9], seed=2, forward_only=True))
    results = engine.forward_backward(jobs)
    assert not isinstance(results[0], TinsmithError)
    assert results[0].metrics == alone.metrics
    gradient = engine.adapter("a").grad
    assert gradient is not None
    assert torch.equal(gradient, alone_gradient)
    assert "failed and changed nothing: RuntimeError: a fault in the model's code" in str(
        results[1]
    )
    assert not isinstance(results[2], TinsmithError)
    assert engine.adapter("b").grad is None


def test_unloading_frees_the_adapter(engine: Engine) -> None:
    import gc
    import weakref

    run(engine, random_job("b", "cross_entropy", [9]))
    step(engine, "b", learning_rate=1e-3)
    buffer = weakref.ref(engine.adapter("b").flat)
    engine.unload_adapter("b")
    gc.collect()
    assert buffer() is None
    assert not engine.has_adapter("b")
    with pytest.raises(TinsmithError, match="'b' is not loaded"):
        engine.unload_adapter("b")
