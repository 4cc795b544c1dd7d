"""The engine's losses and gradients against transformers + PEFT + autograd in float64.

Tolerance 1e-5 relative: float32 keeps 6e-8, and the sums here are a few thousand terms deep.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.engine.random_models import save_random_model
from tests.unit.engine.training_reference import (
    add_trained_adapter,
    engine_gradients,
    gradient_error,
    peft_gradients,
    random_job,
    relative_error,
    run,
)
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, ForwardBackwardJob
from tinsmith.types import Datum, ForwardBackwardOutput, LoraConfig, ModelInput

TOLERANCE = 1e-5
LOSSES = ["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"]
WIDE = {"clip_low_threshold": 0.0, "clip_high_threshold": 1e6}
RAGGED = [17, 3, 31, 9, 9, 1, 24]


def check(
    engine: Engine, model_dir: Path, directory: Path, jobs: list[ForwardBackwardJob]
) -> list[ForwardBackwardOutput]:
    """Run jobs of any adapters in one pass and compare each adapter with its own PEFT run."""
    outputs = run(engine, *jobs)
    for adapter_id in {job.adapter_id for job in jobs}:
        mine = [index for index, job in enumerate(jobs) if job.adapter_id == adapter_id]
        engine.save_sampler_weights(adapter_id, directory / adapter_id)
        reference = peft_gradients(model_dir, directory / adapter_id, [jobs[i] for i in mine])
        for job, index in enumerate(mine):
            loss, scale = reference.losses[job], reference.scales[job]
            assert abs(outputs[index].metrics["loss:sum"] - loss) < TOLERANCE * scale
            logprobs = reference.logprobs[job]
            for record, lp in zip(outputs[index].loss_fn_outputs, logprobs, strict=True):
                ours = record["logprobs"].to_torch()
                assert ours.shape == lp.shape
                assert relative_error(ours, lp) < TOLERANCE
        if any(not jobs[index].forward_only for index in mine):
            assert (
                gradient_error(engine_gradients(engine, adapter_id), reference.gradients)
                < TOLERANCE
            )
        else:
            assert engine.adapter(adapter_id).grad is None
    return outputs


@pytest.mark.parametrize("loss_fn", LOSSES)
def test_loss_and_gradients_equal_peft_in_float64(
    model_dir: Path, tmp_path: Path, loss_fn: str
) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4)
    check(engine, model_dir, tmp_path, [random_job("a", loss_fn, RAGGED)])


@pytest.mark.parametrize(
    ("loss_fn", "config"),
    [
        ("ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 3.0}),
        ("cispo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}),
        ("dro", {"beta": 0.7}),
        ("gspo", {"clip_low_threshold": 0.3, "clip_high_threshold": 2.0}),
    ],
)
def test_loss_settings_are_honoured(
    model_dir: Path, tmp_path: Path, loss_fn: str, config: dict[str, float]
) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4)
    check(engine, model_dir, tmp_path, [random_job("a", loss_fn, RAGGED, config=config)])


def test_several_targets_a_position_equal_peft(model_dir: Path, tmp_path: Path) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4)
    jobs = [
        random_job("a", "cross_entropy", [5, 12], num_targets=3, seed=1),
        random_job("a", "cross_entropy", [12, 7], seed=2),
    ]
    mixed = ForwardBackwardJob("a", [*jobs[0].data, *jobs[1].data], "cross_entropy")
    check(engine, model_dir, tmp_path, [mixed])


def test_targets_of_one_position_may_have_no_weight_or_cancel(
    model_dir: Path, tmp_path: Path
) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4)
    rows = [(1.0, 0.0), (0.5, -0.5), (0.0, 0.0), (0.0, -2.0)]
    datum = Datum(
        model_input=ModelInput.from_ints([5, 6, 7, 8]),
        loss_fn_inputs={
            "target_tokens": np.array([[1, 2], [3, 4], [5, 6], [7, 7]]),
            "weights": np.array(rows, np.float32),
        },
    )
    check(engine, model_dir, tmp_path, [ForwardBackwardJob("a", [datum], "cross_entropy")])


@pytest.mark.parametrize("limits", [EngineLimits(), EngineLimits(40, 96 * 5)])
def test_mixed_adapters_ranks_losses_and_forward_only_in_one_pass_equal_peft(
    model_dir: Path, tmp_path: Path, limits: EngineLimits
) -> None:
    # The second limits cut everything into many micro-batches and head chunks of five rows.
    engine = Engine(str(model_dir), limits=limits)
    add_trained_adapter(engine, "a", rank=4, seed=1)
    add_trained_adapter(engine, "b", rank=7, seed=2, train_unembed=False)
    add_trained_adapter(engine, "c", rank=1, seed=3, train_attn=False)
    add_trained_adapter(engine, "d", rank=2, seed=4, train_mlp=False, train_unembed=False)
    check(
        engine,
        model_dir,
        tmp_path,
        [
            random_job("a", "cross_entropy", RAGGED, seed=1),
            random_job("b", "ppo", [4, 30], seed=2),
            random_job("c", "cispo", [9, 9, 9], seed=3),
            random_job("a", "cross_entropy", [6, 17], seed=4, forward_only=True),
            random_job("b", "dro", [12], seed=5),
            random_job("d", "importance_sampling", [8, 20], seed=6),
            random_job("a", "cross_entropy", [8], seed=7, num_targets=2),
            random_job("c", "gspo", [17, 30], seed=8, config=WIDE),
            random_job("b", "gspo", [9, 3], seed=9, config=WIDE),
            random_job("c", "gspo", [9, 20], seed=10, config=WIDE, forward_only=True),
        ],
    )


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
@pytest.mark.parametrize("loss_fn", ["gspo", "ppo"])
def test_chunks_and_micro_batches_change_nothing_in_float64(
    model_dir: Path, tmp_path: Path, loss_fn: str, chunk_rows: int
) -> None:
    # 1e-10: both sides are float64, and what is left is the order of the sums.
    limits = EngineLimits(max_microbatch_tokens=40, max_head_elements=96 * chunk_rows)
    engine = Engine(str(model_dir), dtype=torch.float64, limits=limits)
    add_trained_adapter(engine, "a", rank=4, seed=1)
    add_trained_adapter(engine, "b", rank=3, seed=2)
    # Bounds that leave some whole datums unclipped and clip others, of both signs.
    config = {"clip_low_threshold": 0.6, "clip_high_threshold": 1.5}
    jobs = [
        random_job("a", loss_fn, RAGGED, seed=3, config=config),
        random_job("b", "cross_entropy", [17, 9], seed=4),
    ]
    run(engine, *jobs)
    engine.save_sampler_weights("a", tmp_path / "a")
    reference = peft_gradients(model_dir, tmp_path / "a", jobs[:1])
    assert gradient_error(engine_gradients(engine, "a"), reference.gradients) < 1e-10


@pytest.mark.parametrize("lengths", [[9, 9], [9, 5]])
def test_adapters_of_one_shape_share_batched_products_and_equal_peft(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    # Equal ranks and rows are multiplied by one batched product, in trunk and head.
    calls = 0
    bmm = torch.bmm

    def counting_bmm(*args: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return bmm(*args)

    monkeypatch.setattr(torch, "bmm", counting_bmm)
    engine = Engine(str(model_dir))
    for seed, adapter_id in enumerate("abc"):
        add_trained_adapter(engine, adapter_id, rank=4, seed=seed)
    jobs = [random_job(x, "cross_entropy", lengths, seed=i) for i, x in enumerate("abc")]
    check(engine, model_dir, tmp_path, jobs)
    assert calls >= 4 * len(engine.base.layers)  # x A^T, g B, dA, dB


def test_forward_only_accumulates_nothing(model_dir: Path, tmp_path: Path) -> None:
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4)
    check(engine, model_dir, tmp_path, [random_job("a", "ppo", RAGGED, forward_only=True)])


@pytest.mark.parametrize("arch", ["llama", "phi3", "gpt_neox", "gpt2"])
def test_other_architectures_equal_peft(tmp_path: Path, arch: str) -> None:
    model_dir = save_random_model(tmp_path / "model", arch)
    engine = Engine(str(model_dir))
    add_trained_adapter(engine, "a", rank=4, seed=1)
    add_trained_adapter(engine, "b", rank=2, seed=2)
    jobs = [random_job("a", "cross_entropy", [7, 12]), random_job("b", "ppo", [12, 3])]
    check(engine, model_dir, tmp_path, jobs)


def test_fresh_adapter_equals_the_base_model_and_trains_b_first(
    model_dir: Path, tmp_path: Path
) -> None:
    engine = Engine(str(model_dir))
    engine.create_adapter("a", LoraConfig(rank=4, seed=0))
    check(engine, model_dir, tmp_path, [random_job("a", "cross_entropy", [9])])
    for a, b in engine_gradients(engine, "a").values():
        assert not a.any()
        assert b.any()


def test_bfloat16_base_with_float32_adapter_stays_close(model_dir: Path, tmp_path: Path) -> None:
    # bfloat16 keeps 8 bits (0.4 %); logprobs of about 5 nats then carry up to a few hundredths.
    engine = Engine(str(model_dir), dtype=torch.bfloat16)
    add_trained_adapter(engine, "a", rank=4)
    jobs = [random_job("a", "cross_entropy", RAGGED)]
    (output,) = run(engine, *jobs)
    engine.save_sampler_weights("a", tmp_path / "a")
    reference = peft_gradients(model_dir, tmp_path / "a", jobs)
    adapter = engine.adapter("a")
    assert adapter.flat.dtype == torch.float32
    assert adapter.grad is not None
    assert adapter.grad.dtype == torch.float32
    for record, lp in zip(output.loss_fn_outputs, reference.logprobs[0], strict=True):
        assert relative_error(record["logprobs"].to_torch(), lp) < 0.02
    assert gradient_error(engine_gradients(engine, "a"), reference.gradients) < 0.1
