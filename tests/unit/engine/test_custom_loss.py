"""Custom-loss graphs in a pass: equal to autograd, side by side with other jobs, failing alone."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.algorithms.traced_graphs import as_graph
from tests.unit.engine.random_models import VOCAB_SIZE
from tests.unit.engine.training_reference import (
    add_trained_adapter,
    engine_gradients,
    gradient_error,
    peft_gradients,
    random_job,
    run,
)
from tinsmith.core.errors import ConfigError, DataError, UserError
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, ForwardBackwardJob
from tinsmith.types import Datum

TOLERANCE = 1e-10  # float64 on both sides
LENGTHS = [17, 3, 9, 9, 24]


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    limits = EngineLimits(max_microbatch_tokens=40, max_head_elements=VOCAB_SIZE * 5)
    engine = Engine(str(model_dir), dtype=torch.float64, limits=limits)
    add_trained_adapter(engine, "a", rank=4, seed=1)
    add_trained_adapter(engine, "b", rank=3, seed=2)
    return engine


def sequence_gspo(logprobs, advantages, sampled, mask):  # unannotated, as people write them
    """gspo once more, as a user would write it."""
    log_ratio = ((logprobs.detach() - sampled) * mask).sum() / mask.sum()
    ratio = torch.exp(log_ratio + logprobs - logprobs.detach())
    loss = -torch.minimum(ratio * advantages, ratio.clamp(0.6, 1.5) * advantages).sum()
    return loss, {"custom/ratio:mean": torch.exp(log_ratio), "custom/tokens:sum": mask.sum()}


def variance(logprobs, weights):  # unannotated, as people write them
    """A loss of (T, K) targets that no sum over tokens can express."""
    mixed = (logprobs * weights).sum(-1)
    return ((mixed - mixed.mean()) ** 2).mean(), {}


def gspo_jobs() -> tuple[ForwardBackwardJob, ForwardBackwardJob]:
    """The same loss built in, and as a graph."""
    config = {"clip_low_threshold": 0.6, "clip_high_threshold": 1.5}
    built_in = random_job("a", "gspo", LENGTHS, seed=3, config=config)
    data = []
    for datum in built_in.data:
        inputs = dict(datum.loss_fn_inputs)
        mask = inputs.pop("sequence_ratio_mask").to_numpy()
        inputs["sampled"] = inputs.pop("logprobs")
        data.append(Datum(datum.model_input, {**inputs, "mask": mask}))
    graph = as_graph(sequence_gspo, logprobs=1, advantages=1, sampled=1, mask=1)
    custom = ForwardBackwardJob("a", data, "custom", {"loss_id": "x"}, custom_loss=graph)
    return built_in, custom


def test_a_graph_equals_the_built_in_loss_and_peft(
    engine: Engine, model_dir: Path, tmp_path: Path
) -> None:
    built_in, custom = gspo_jobs()
    outputs = run(engine, random_job("b", "ppo", [9, 17], seed=5), custom)
    engine.save_sampler_weights("a", tmp_path / "a")
    reference = peft_gradients(model_dir, tmp_path / "a", [built_in])
    assert gradient_error(engine_gradients(engine, "a"), reference.gradients) < TOLERANCE
    assert abs(outputs[1].loss - reference.losses[0]) < TOLERANCE * reference.scales[0]

    metrics = outputs[1].metrics
    masks = [datum.loss_fn_inputs["mask"].to_numpy() for datum in custom.data]
    assert metrics["custom/tokens:sum"] == sum(float(mask.sum()) for mask in masks)
    ratios = [
        math.exp(
            float(
                ((lp.numpy() - datum.loss_fn_inputs["sampled"].to_numpy()) * mask).sum()
                / mask.sum()
            )
        )
        for lp, datum, mask in zip(reference.logprobs[0], custom.data, masks, strict=True)
    ]
    assert metrics["custom/ratio:mean"] == pytest.approx(np.mean(ratios), rel=1e-6)
    assert metrics["tokens:sum"] == sum(LENGTHS)
    assert metrics.keys() == {
        "loss:sum", "tokens:sum", "custom/ratio:mean", "custom/tokens:sum"
    }  # fmt: skip


def test_forward_only_gives_the_loss_and_no_gradient(engine: Engine) -> None:
    _, custom = gspo_jobs()
    (forward,) = run(engine, dataclasses.replace(custom, forward_only=True))
    assert engine.adapter("a").grad is None
    (backward,) = run(engine, custom)
    assert forward.metrics == pytest.approx(backward.metrics, rel=TOLERANCE)


def test_one_call_equals_the_two_calls_of_a_loss_run_by_the_client(engine: Engine) -> None:
    # The client's way: logprobs, then cross_entropy with weights of minus the loss's gradient.
    data = random_job("a", "cross_entropy", [7, 12], num_targets=3, seed=4).data
    graph = as_graph(variance, logprobs=2, weights=2)
    (ours,) = run(engine, ForwardBackwardJob("a", data, "custom", custom_loss=graph))
    found = {k: (a.clone(), b.clone()) for k, (a, b) in engine_gradients(engine, "a").items()}
    engine.adapter("a").grad = None

    total, weighted = 0.0, []
    for datum, record in zip(data, ours.loss_fn_outputs, strict=True):
        lp = record["logprobs"].to_torch().requires_grad_()
        assert lp.shape == (datum.model_input.length, 3)
        loss, _ = variance(lp, datum.loss_fn_inputs["weights"].to_torch())
        (gradient,) = torch.autograd.grad(loss, lp)
        total += loss.item()
        targets = datum.loss_fn_inputs["target_tokens"]
        weighted.append(Datum(datum.model_input, {"target_tokens": targets, "weights": -gradient}))
    run(engine, ForwardBackwardJob("a", weighted, "cross_entropy"))
    # 1e-5: logprobs and weights travel in float32.
    assert ours.loss == pytest.approx(total, rel=1e-5)
    assert gradient_error(found, engine_gradients(engine, "a")) < 1e-5


def test_a_graph_that_fails_on_its_data_fails_alone(engine: Engine) -> None:
    def wrong(logprobs, table):  # unannotated, as people write them
        return (logprobs * table).sum(), {}

    graph = as_graph(wrong, logprobs=1, table=1)
    (datum,) = random_job("b", "cross_entropy", [9]).data
    targets = datum.loss_fn_inputs["target_tokens"]
    good, bad = (
        Datum(datum.model_input, {"target_tokens": targets, "table": np.ones(size, np.float32)})
        for size in (9, 4)
    )
    mate = random_job("a", "gspo", [9, 17], seed=2)
    run(engine, mate)
    alone = {k: (a.clone(), b.clone()) for k, (a, b) in engine_gradients(engine, "a").items()}
    engine.adapter("a").grad = None
    custom = ForwardBackwardJob("b", [good, bad], "custom", custom_loss=graph)
    results = engine.forward_backward([custom, mate])
    assert isinstance(results[0], UserError)
    with pytest.raises(UserError, match=r"node 'mul': The size of tensor a .9. must match"):
        raise results[0]
    assert engine.adapter("b").grad is None
    assert not isinstance(results[1], Exception)
    assert gradient_error(engine_gradients(engine, "a"), alone) < TOLERANCE


def test_a_loss_that_is_not_finite_is_refused(engine: Engine) -> None:
    def infinite(logprobs):  # unannotated, as people write them
        return logprobs.sum() / (logprobs * 0).sum(), {}

    data = random_job("a", "cross_entropy", [5]).data
    graph = as_graph(infinite, logprobs=1)
    (error,) = engine.forward_backward([ForwardBackwardJob("a", data, "custom", custom_loss=graph)])
    assert isinstance(error, UserError)
    assert "loss custom is not finite" in str(error)
    assert engine.adapter("a").grad is None


def test_bad_requests_are_refused_before_anything_runs(engine: Engine) -> None:
    data = random_job("a", "cross_entropy", [5]).data
    graph = as_graph(sequence_gspo, logprobs=1, advantages=1, sampled=1, mask=1)
    jobs = [
        ForwardBackwardJob("a", data, "custom"),
        ForwardBackwardJob("a", data, "custom", {"beta": 1.0}, custom_loss=graph),
        ForwardBackwardJob("a", data, "custom", custom_loss=graph),
    ]
    no_graph, bad_setting, bad_data = engine.forward_backward(jobs)
    assert isinstance(no_graph, ConfigError)
    assert "runs an uploaded graph, and none is named" in str(no_graph)
    assert isinstance(bad_setting, ConfigError)
    assert "custom takes no such setting" in str(bad_setting)
    assert isinstance(bad_data, DataError)
    assert "loss_fn_inputs.advantages: missing" in str(bad_data)
