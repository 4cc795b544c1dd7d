"""One forward pass instead of two: equal to two passes and to autograd, bounded, never stale."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.engine.random_models import VOCAB_SIZE
from tests.unit.engine.training_reference import (
    add_trained_adapter,
    engine_gradients,
    gradient_error,
    peft_gradients,
    random_job,
    run,
)
from tinsmith.core.errors import UserError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, ForwardBackwardJob, OptimStepJob
from tinsmith.engine.retained import RetainedForwards
from tinsmith.types import AdamParams, Datum

LENGTHS = [17, 3, 9, 9, 24]
LIMITS = EngineLimits(max_microbatch_tokens=40, max_head_elements=VOCAB_SIZE * 5)


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    engine = Engine(str(model_dir), dtype=torch.float64, limits=LIMITS)
    add_trained_adapter(engine, "a", rank=4, seed=1)
    add_trained_adapter(engine, "b", rank=4, seed=1)
    return engine


def with_weights(job: ForwardBackwardJob, scale: float) -> ForwardBackwardJob:
    """The same inputs and targets with other weights."""
    data = [
        Datum(
            model_input=datum.model_input,
            loss_fn_inputs={
                "target_tokens": datum.loss_fn_inputs["target_tokens"],
                "weights": datum.loss_fn_inputs["weights"].to_numpy() * np.float32(scale),
            },
        )
        for datum in job.data
    ]
    return replace(job, data=data)


@pytest.mark.parametrize("num_targets", [None, 3])
@pytest.mark.parametrize("max_head_elements", [VOCAB_SIZE * 5, VOCAB_SIZE * 50, VOCAB_SIZE * 500])
def test_it_equals_a_pass_of_its_own_and_runs_the_model_once(
    engine: Engine,
    num_targets: int | None,
    max_head_elements: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the logits of a part, of most or of all positions are kept."""
    engine.limits = replace(LIMITS, max_head_elements=max_head_elements)
    job = random_job("a", "cross_entropy", LENGTHS, seed=3, num_targets=num_targets)
    (expected,) = run(engine, replace(job, adapter_id="b"))
    calls: list[int] = []
    hidden_states = BaseModel.hidden_states

    def counted(self: BaseModel, tokens: torch.Tensor) -> torch.Tensor:
        calls.append(len(tokens))
        return hidden_states(self, tokens)

    monkeypatch.setattr(BaseModel, "hidden_states", counted)
    forward = engine.forward_retained(with_weights(job, 0.0), "g")
    num_passes = len(calls)
    assert forward.loss == 0.0
    assert engine.adapter("a").grad is None
    output = engine.backward_retained("g", job)
    assert len(calls) == num_passes > 1  # several micro-batches, each run once
    assert output.metrics == expected.metrics
    for got in (forward, output):
        for one, other in zip(got.loss_fn_outputs, expected.loss_fn_outputs, strict=True):
            assert one["logprobs"].tolist() == other["logprobs"].tolist()
    assert gradient_error(engine_gradients(engine, "a"), engine_gradients(engine, "b")) < 1e-12
    assert engine.retained.num_tokens == 0


def test_norms_of_terms_by_the_parameters_equal_autograd(
    engine: Engine, model_dir: Path, tmp_path: Path
) -> None:
    """Three terms through one graph, by transformers + PEFT one after another; nothing is added."""
    jobs = [random_job("a", "cross_entropy", LENGTHS, seed=seed) for seed in (1, 1, 1)]
    jobs = [with_weights(job, scale) for job, scale in zip(jobs, (1.0, -2.0, 0.5), strict=True)]
    last = jobs[2].data[1].loss_fn_inputs["weights"].to_numpy()
    jobs[2].data[1].loss_fn_inputs["weights"] = type(
        jobs[2].data[1].loss_fn_inputs["weights"]
    ).from_numpy(last + np.float32(3))
    engine.export_adapter("a", tmp_path / "peft")
    expected = []
    for job in jobs:
        gradients = peft_gradients(model_dir, tmp_path / "peft", [job]).gradients
        expected.append(
            np.sqrt(sum(float(g.square().sum()) for ab in gradients.values() for g in ab))
        )
    engine.forward_retained(jobs[0], "g")
    assert engine.gradient_norms("g", jobs) == pytest.approx(expected, rel=1e-10)
    assert engine.adapter("a").grad is None
    engine.backward_retained("g", jobs[1])
    (_,) = run(engine, replace(jobs[1], adapter_id="b"))
    assert gradient_error(engine_gradients(engine, "a"), engine_gradients(engine, "b")) < 1e-12


def test_it_adds_to_what_was_accumulated(engine: Engine) -> None:
    job = random_job("a", "cross_entropy", LENGTHS, seed=3)
    run(engine, job)
    engine.forward_retained(job, "g")
    engine.backward_retained("g", job)
    run(engine, replace(job, adapter_id="b"), replace(job, adapter_id="b"))
    assert gradient_error(engine_gradients(engine, "a"), engine_gradients(engine, "b")) < 1e-12


def change_weights(engine: Engine, how: str, directory: Path) -> None:
    if how == "step":
        engine.optim_step([OptimStepJob("a", AdamParams(learning_rate=1e-3))])
    elif how == "load":
        engine.save_state("a", directory / "state")
        engine.load_state("a", directory / "state", with_optimizer=True)
    else:
        engine.unload_adapter("a")
        add_trained_adapter(engine, "a", rank=4, seed=1)


@pytest.mark.parametrize("how", ["step", "load", "unload"])
def test_a_graph_ends_with_the_weights_that_it_was_made_with(
    engine: Engine, how: str, tmp_path: Path
) -> None:
    job = random_job("a", "cross_entropy", LENGTHS)
    engine.forward_retained(job, "g")
    engine.forward_retained(replace(job, adapter_id="b"), "other")
    change_weights(engine, how, tmp_path)
    with pytest.raises(UserError, match="graph='g': no forward pass of this model waits"):
        engine.backward_retained("g", job)
    assert engine.adapter("a").grad is None
    engine.backward_retained("other", replace(job, adapter_id="b"))


def test_a_graph_is_used_once_by_its_own_model_on_its_own_data(engine: Engine) -> None:
    job = random_job("a", "cross_entropy", LENGTHS)
    engine.forward_retained(job, "g")
    with pytest.raises(UserError, match="no forward pass of this model waits"):
        engine.backward_retained("g", replace(job, adapter_id="b"))
    with pytest.raises(UserError, match="are not those of the forward pass that waits"):
        engine.backward_retained("g", random_job("a", "cross_entropy", LENGTHS, seed=9))
    engine.backward_retained("g", job)
    with pytest.raises(UserError, match="no forward pass of this model waits"):
        engine.gradient_norms("g", [job])


class Pass:
    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens


def test_the_oldest_give_way_and_time_ends_them() -> None:
    now = [0.0]
    held: Any = RetainedForwards(max_tokens=10, ttl_s=5.0, clock=lambda: now[0])
    held.keep("a", "m", Pass(6))
    held.keep("b", "m", Pass(4))
    assert held.num_tokens == 10
    held.keep("c", "m", Pass(1))
    assert held.num_tokens == 5
    with pytest.raises(UserError, match="it is kept for 5 s, and until the weights change"):
        held.get("a", "m")
    held.keep("huge", "m", Pass(99))
    assert held.num_tokens == 99
    now[0] = 4.9
    assert held.get("huge", "m").num_tokens == 99
    now[0] = 5.0
    with pytest.raises(UserError, match="graph='huge'"):
        held.get("huge", "m")
    held.drop("huge")
    assert held.num_tokens == 0
