"""AdamW per adapter: torch's own, on one flat tensor."""

from pathlib import Path

import pytest
import torch

from tests.unit.engine.training_reference import (
    add_trained_adapter,
    engine_gradients,
    random_job,
    run,
    succeed,
)
from tinsmith.core.errors import ConfigError, TinsmithError
from tinsmith.engine.adapters import flat_norm
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import OptimStepJob
from tinsmith.types import AdamParams, LoraConfig


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4, seed=1)
    return engine


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e9])
def test_steps_equal_torch_adamw_and_clip_grad_norm(engine: Engine, clip: float) -> None:
    # The reference steps one tensor a layer, unfused; ours one flat tensor, fused: the same formula
    # in float32, so 1e-6 beside weights of about 0.1.
    adapter = engine.adapter("a")
    params = [
        torch.nn.Parameter(view.detach().clone())
        for shape in adapter.shapes
        for view in shape.views(adapter.flat)
    ]
    reference = torch.optim.AdamW(params, foreach=False)
    schedule = [
        {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1},
        {"learning_rate": 3e-3, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.0},
        {"learning_rate": 0.0, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.3},
        {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.01},
    ]
    for number, settings in enumerate(schedule, start=1):
        run(engine, random_job("a", "cross_entropy", [9, 5], seed=number))
        gradients = [g.clone() for pair in engine_gradients(engine, "a").values() for g in pair]
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if clip:
            torch.nn.utils.clip_grad_norm_(params, clip)
        reference.param_groups[0].update(
            lr=settings["learning_rate"],
            betas=(settings["beta1"], settings["beta2"]),
            eps=settings["eps"],
            weight_decay=settings["weight_decay"],
        )
        before = torch.cat([param.detach().flatten() for param in params])
        reference.step()
        after = torch.cat([param.detach().flatten() for param in params])
        job = OptimStepJob("a", AdamParams(**settings, grad_clip_norm=clip))
        metrics = succeed(engine.optim_step([job]))[0].metrics
        torch.testing.assert_close(adapter.flat.detach(), after, rtol=1e-5, atol=1e-6)
        assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert metrics["update_norm"] == pytest.approx((after - before).norm().item(), rel=1e-3)
        assert metrics["weight_norm"] == pytest.approx(after.norm().item(), rel=1e-5)
        assert metrics["learning_rate"] == settings["learning_rate"]
        assert metrics["step"] == number
        assert adapter.grad is None


def test_each_adapter_steps_with_its_own_settings(engine: Engine) -> None:
    add_trained_adapter(engine, "b", rank=2, seed=2)
    run(engine, random_job("a", "cross_entropy", [9]), random_job("b", "cross_entropy", [9]))
    jobs = [
        OptimStepJob("a", AdamParams(learning_rate=0.0)),
        OptimStepJob("b", AdamParams(learning_rate=1e-2)),
    ]
    frozen, moved = succeed(engine.optim_step(jobs))
    assert frozen.metrics["update_norm"] == 0.0
    assert moved.metrics["update_norm"] > 0.0


def test_a_step_without_gradient_is_adamw_on_a_zero_gradient(engine: Engine) -> None:
    # An empty sum is zero, so forward_backward with all weights zero must do the same.
    add_trained_adapter(engine, "b", rank=4, seed=1)
    for adapter_id in "ab":
        run(engine, random_job(adapter_id, "cross_entropy", [9], seed=3))
    params = AdamParams(learning_rate=1e-2, weight_decay=0.1)
    succeed(engine.optim_step([OptimStepJob("a", params), OptimStepJob("b", params)]))
    adapter = engine.adapter("b")
    adapter.accumulate(torch.zeros_like(adapter.flat.detach()))
    metrics = succeed(engine.optim_step([OptimStepJob("a", params), OptimStepJob("b", params)]))
    assert metrics[0].metrics == metrics[1].metrics
    assert metrics[0].metrics["grad_norm"] == 0.0
    assert metrics[0].metrics["update_norm"] > 0.0  # momentum and decay
    assert torch.equal(engine.adapter("a").flat, adapter.flat)


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 3_000_000])
def test_a_norm_is_right_however_large_the_adapter_is(size: int) -> None:
    # torch's own norm of the largest is 5e-5 too small on the CPU, and 1e-2 at 1e8 entries.
    values = torch.randn(size, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.vector_norm(values, dtype=torch.float64).item()
    assert flat_norm(values).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("eps", 0.0),
        ("weight_decay", float("inf")),
        ("grad_clip_norm", -1.0),
    ],
)
def test_meaningless_settings_are_refused_by_name(engine: Engine, field: str, value: float) -> None:
    run(engine, random_job("a", "cross_entropy", [9]))
    params = AdamParams.model_construct(**{**AdamParams().model_dump(), field: value})
    (result,) = engine.optim_step([OptimStepJob("a", params)])
    assert isinstance(result, ConfigError)
    assert str(result).startswith(f"adam_params.{field}=")
    assert engine.adapter("a").grad is not None
    assert engine.adapter("a").step == 0


def test_a_gradient_norm_that_overflows_is_refused_and_kept(engine: Engine) -> None:
    adapter = engine.adapter("a")
    adapter.accumulate(torch.full_like(adapter.flat.detach(), 1e38))
    before = adapter.flat.detach().clone()
    (result,) = engine.optim_step([OptimStepJob("a", AdamParams())])
    assert isinstance(result, TinsmithError)
    assert "norm" in str(result)
    assert "load_state drops" in (result.hint or "")
    assert torch.equal(adapter.flat, before)
    assert adapter.grad is not None


def test_training_lowers_the_loss(engine: Engine) -> None:
    engine.create_adapter("fresh", LoraConfig(rank=8, seed=0))
    job = random_job("fresh", "cross_entropy", [12, 12], seed=1)
    losses = []
    for _ in range(20):
        losses.append(run(engine, job)[0].loss)
        succeed(engine.optim_step([OptimStepJob("fresh", AdamParams(learning_rate=2e-2))]))
    assert losses[-1] < losses[0] - 10


def test_seed_decides_the_initial_weights(engine: Engine) -> None:
    for name, seed in (("x", 7), ("y", 7), ("z", 8)):
        engine.create_adapter(name, LoraConfig(rank=4, seed=seed))
    x, y, z = (engine.adapter(name).flat for name in "xyz")
    assert torch.equal(x, y)
    assert not torch.equal(x, z)
    for shape in engine.adapter("x").shapes:
        a, b = shape.views(x.detach())
        bound = shape.a_shape[1] ** -0.5
        assert not b.any()
        assert a.abs().max() <= bound
        assert a.std().item() == pytest.approx(bound / 3**0.5, rel=0.25)


def test_a_missing_seed_is_drawn_and_recorded(engine: Engine) -> None:
    recorded = engine.create_adapter("x", LoraConfig(rank=4))
    other = engine.create_adapter("y", LoraConfig(rank=4))
    assert recorded.seed is not None
    assert recorded.seed != other.seed
    engine.create_adapter("again", recorded)
    assert torch.equal(engine.adapter("x").flat, engine.adapter("again").flat)
