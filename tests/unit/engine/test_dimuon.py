"""Dimuon against a float64 reference by singular value decomposition, matrix by matrix."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tinsmith.core.errors import ConfigError
from tinsmith.engine.adapters import Adapter
from tinsmith.engine.dimuon import NEWTON_SCHULZ, matrix_sign, row_column_scaling
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import ForwardBackwardJob, OptimStepJob
from tinsmith.types import (
    AdamParams,
    Datum,
    DimuonOptimizerConfig,
    DimuonParams,
    ForwardBackwardOutput,
    LoraConfig,
    ModelInput,
    OptimStepResponse,
)

FEATURES = {"q": (24, 40), "k": (24, 24), "up": (24, 56), "down": (56, 24), "wide": (24, 40)}
PARAMS = DimuonParams(learning_rate=0.03)


def make_adapter(rank: int, *, features: dict[str, tuple[int, int]] | None = None) -> Adapter:
    return Adapter.initialize(
        LoraConfig(rank=rank, seed=7),
        features or FEATURES,
        device=torch.device("cpu"),
        dtype=torch.float32,
        optimizer_config=DimuonOptimizerConfig(),
    )


def reference(
    weights: Tensor, gradients: list[Tensor], rank: int, beta1: float, lr: float
) -> Tensor:
    """The rule of the module's docstring, in float64, by SVD."""
    w = weights.double()
    momentum, rows, columns = (
        torch.zeros_like(w),
        w.new_zeros(w.shape[0]),
        w.new_zeros(w.shape[1]),
    )
    for gradient in gradients:
        g = gradient.double()
        momentum = beta1 * momentum + (1 - beta1) * g
        rows = 0.95 * rows + 0.05 * (g**2).mean(1)
        columns = 0.95 * columns + 0.05 * (g**2).mean(0)
        left = (rows / rows.mean() + 0.01) ** -0.25
        right = (columns / columns.mean() + 0.01) ** -0.25
        u, _, vh = torch.linalg.svd(left[:, None] * momentum * right, full_matrices=False)
        sign = u @ vh
        w = w - lr * (rank / 32) ** 0.5 * rank**0.5 * sign / torch.linalg.matrix_norm(sign)
    return w


@pytest.mark.parametrize("rank", [1, 8, 32, 48])
def test_steps_follow_the_rule_computed_by_svd(rank: int) -> None:
    adapter = make_adapter(rank)
    generator = torch.Generator().manual_seed(rank)
    before = adapter.flat.detach().clone()
    gradients = []
    for step in range(4):
        # Rows of very different size, so that the preconditioner has something to do.
        gradient = torch.randn(before.shape, generator=generator) * 10.0 ** (step - 2)
        gradients.append(gradient)
        adapter.accumulate(gradient.clone())
        adapter.optim_step(PARAMS)
    for shape in adapter.shapes:
        for half in (0, 1):
            found = shape.views(adapter.flat.detach())[half]
            expected = reference(
                shape.views(before)[half],
                [shape.views(g)[half] for g in gradients],
                rank,
                PARAMS.beta1,
                PARAMS.learning_rate,
            )
            # A random square matrix has singular values down to about 1e-3 of its norm.
            np.testing.assert_allclose(found.double(), expected, atol=2e-4)


def test_the_coefficients_bring_singular_values_to_one() -> None:
    x = np.geomspace(1e-3, 1.0, 100_001)
    for a, b, c in NEWTON_SCHULZ:
        x = a * x + b * x**3 + c * x**5
    assert np.abs(x - 1).max() < 1e-9


@pytest.mark.parametrize("shape", [(8, 64), (64, 8), (16, 16), (1, 5)])
def test_the_matrix_sign_is_the_polar_factor_within_1e_5(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(
        torch.randn(3, *shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    values = torch.logspace(0, -2.5, min(shape), dtype=torch.float64)
    for scale in (1e-12, 1.0, 1e12):  # the sign does not depend on it
        matrices = (u * values * scale) @ vh
        found = matrix_sign(matrices.float())
        assert (found.double() - u @ vh).abs().max() < 1e-5


def test_zero_has_no_direction_and_weak_directions_get_less_than_a_step() -> None:
    assert torch.equal(matrix_sign(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))
    weak = torch.diag(torch.tensor([1.0, 1e-6]))
    found = torch.linalg.svdvals(matrix_sign(weak))
    assert found[0] == pytest.approx(1.0, abs=1e-5)
    assert 0 < found[1] < 0.1


def test_the_scaling_evens_rows_out_within_its_damping_and_knows_no_units() -> None:
    rows, columns = torch.tensor([[1.0, 100.0, 0.0]]), torch.ones(1, 2)
    scaling = row_column_scaling(rows, columns)
    assert scaling.shape == (1, 3, 2)
    assert scaling[0, 0, 0] > scaling[0, 1, 0]
    largest = (0.0 + 0.01) ** -0.25 * (1.0 + 0.01) ** -0.25
    assert scaling[0, 2, 0].item() == pytest.approx(largest, rel=1e-6)
    torch.testing.assert_close(row_column_scaling(1e-9 * rows, 1e9 * columns), scaling)
    assert row_column_scaling(torch.zeros(1, 2), torch.zeros(1, 2)).unique().numel() == 1


def test_a_step_changes_the_model_as_much_at_every_rank() -> None:
    norms = []
    for rank in (4, 16, 64):
        adapter = make_adapter(rank, features={"w": (512, 512)})
        generator = torch.Generator().manual_seed(1)
        (shape,) = adapter.shapes
        gradient = torch.zeros_like(adapter.flat.detach())
        a, _ = shape.views(adapter.flat.detach())
        outer = torch.randn(512, 512, generator=generator)
        shape.views(gradient)[1].copy_(adapter.scale * outer @ a.T)
        adapter.accumulate(gradient)
        adapter.optim_step(PARAMS)
        a, b = shape.views(adapter.flat.detach())
        norms.append(torch.linalg.matrix_norm(adapter.scale * b @ a).item())
    assert max(norms) / min(norms) < 1.1


def test_settings_of_the_other_family_are_refused_and_the_gradient_is_kept() -> None:
    adapter = make_adapter(4)
    adapter.accumulate(torch.ones_like(adapter.flat.detach()))
    with pytest.raises(ConfigError, match="'dimuon' and takes DimuonParams"):
        adapter.optim_step(AdamParams())
    assert adapter.grad is not None
    plain = Adapter.initialize(
        LoraConfig(rank=4), FEATURES, device=torch.device("cpu"), dtype=torch.float32
    )
    with pytest.raises(ConfigError, match="'adamw' and takes AdamParams"):
        plain.optim_step(PARAMS)


def test_a_clipped_step_is_the_same_step_and_its_norm_is_told() -> None:
    adapters = [make_adapter(4) for _ in range(2)]
    gradient = torch.randn(adapters[0].flat.shape, generator=torch.Generator().manual_seed(3))
    for adapter, clip in zip(adapters, (0.0, 0.1), strict=True):
        adapter.accumulate(gradient.clone())
        metrics = adapter.optim_step(DimuonParams(learning_rate=0.1, grad_clip_norm=clip))
        assert metrics["grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-6)
    # A first step has no other gradient in its momentum, so its direction does not change.
    torch.testing.assert_close(adapters[0].flat, adapters[1].flat, atol=1e-6, rtol=1e-4)


@pytest.fixture(scope="module")
def tiny_engine(tiny_dir: Path) -> Engine:
    return Engine(str(tiny_dir), device="cpu")


def data() -> list[Datum]:
    tokens = [50 + i % 7 for i in range(17)]
    inputs = {"target_tokens": tokens[1:], "weights": [1.0] * 16}
    return [Datum(ModelInput.from_ints(tokens[:-1]), inputs)]


def train(engine: Engine, adapter_id: str, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        (output,) = engine.forward_backward(
            [ForwardBackwardJob(adapter_id, data(), "cross_entropy")]
        )
        assert isinstance(output, ForwardBackwardOutput)
        losses.append(output.loss)
        (step,) = engine.optim_step([OptimStepJob(adapter_id, DimuonParams(learning_rate=0.1))])
        assert isinstance(step, OptimStepResponse)
    return losses


def test_the_loss_falls_and_a_resumed_run_is_the_same_to_the_bit(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    engine = tiny_engine
    engine.create_adapter("dimuon", LoraConfig(rank=8, seed=1), DimuonOptimizerConfig())
    losses = train(engine, "dimuon", 6)
    assert losses[-1] < 0.3 * losses[0]
    engine.save_state("dimuon", tmp_path / "state")
    onward = train(engine, "dimuon", 3)
    engine.load_state("resumed", tmp_path / "state", with_optimizer=True)
    assert train(engine, "resumed", 3) == onward
    assert torch.equal(engine.adapter("resumed").flat, engine.adapter("dimuon").flat)
    assert engine.adapter("resumed").step == 9
    engine.load_state("fresh", tmp_path / "state", with_optimizer=False)
    assert train(engine, "fresh", 2)[1] != onward[1]
    for adapter_id in ("dimuon", "resumed", "fresh"):
        engine.unload_adapter(adapter_id)


def test_state_does_not_cross_families_and_weights_do(tiny_engine: Engine, tmp_path: Path) -> None:
    engine = tiny_engine
    engine.create_adapter("d", LoraConfig(rank=4, seed=1), DimuonOptimizerConfig())
    engine.create_adapter("a", LoraConfig(rank=4, seed=2))
    train(engine, "d", 1)
    engine.save_state("d", tmp_path / "d")
    with pytest.raises(ConfigError, match="optimizer is 'dimuon', the model's is 'adamw'"):
        engine.load_state("a", tmp_path / "d", with_optimizer=True)
    engine.load_state("a", tmp_path / "d", with_optimizer=False)
    assert engine.adapter("a").optimizer.config.type == "adamw"
    assert torch.equal(engine.adapter("a").flat, engine.adapter("d").flat)
    for adapter_id in ("d", "a"):
        engine.unload_adapter(adapter_id)
