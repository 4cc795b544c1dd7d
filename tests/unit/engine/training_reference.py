"""A second implementation of training: transformers + PEFT + autograd, one datum at a time.

Everything runs in float64 on whole logits; the losses are written out once more, from their
formulas, without the engine's code. `peft_gradients` is what the engine's numbers are held against.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.unit.engine.random_models import VOCAB_SIZE
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import ForwardBackwardJob
from tinsmith.types import Datum, ForwardBackwardOutput, LoraConfig, ModelInput


def reference_loss(loss_fn: str, lp: Tensor, inputs: dict[str, Tensor], config: dict) -> Tensor:
    """The loss of every token of a datum; `lp` are the logprobs of its targets."""
    if loss_fn == "cross_entropy":
        return -(inputs["weights"] * lp)
    q, advantages = inputs["logprobs"], inputs["advantages"]
    ratio = lp.exp() / q.exp()
    if loss_fn == "importance_sampling":
        return -(ratio * advantages)
    if loss_fn == "dro":
        return -(lp * advantages - config.get("beta", 0.05) / 2 * (lp - q) ** 2)
    if loss_fn == "gspo":
        return torch.stack(list(_gspo(lp, inputs, config)))
    low = config.get("clip_low_threshold", 0.8 if loss_fn == "ppo" else 0.0)
    high = config.get("clip_high_threshold", 1.2 if loss_fn == "ppo" else 4.0)
    if loss_fn == "cispo":
        return -(ratio.detach().clip(low, high) * lp * advantages)
    assert loss_fn == "ppo"
    losses = []
    for r, a in zip(ratio, advantages, strict=True):
        clipped = low if r < low else high if r > high else r
        losses.append(-min(r * a, clipped * a))
    return torch.stack(losses)


def _gspo(lp: Tensor, inputs: dict[str, Tensor], config: dict) -> Iterator[Tensor]:
    low = config.get("clip_low_threshold", 0.9997)
    high = config.get("clip_high_threshold", 1.0004)
    q, mask = inputs["logprobs"], inputs["sequence_ratio_mask"]
    marked = [i for i in range(len(lp)) if mask[i] != 0]
    gaps = [float(lp[i].detach() - q[i]) for i in marked]
    s = math.exp(sum(gaps) / len(gaps))
    for p, a in zip(lp, inputs["advantages"], strict=True):
        r = s * (p - p.detach()).exp()
        clipped = torch.full_like(r, min(max(s, low), high)) if not low <= s <= high else r
        plain_is_less = bool((r * a).detach() <= (clipped * a).detach())
        yield -(r * a if plain_is_less else clipped * a)


class Reference(NamedTuple):
    """What `peft_gradients` found: by job, and the gradients summed over the jobs."""

    losses: list[float]
    scales: list[float]
    """Sum of the tokens' |loss|: losses of both signs cancel, and rounding errors do not."""
    logprobs: list[list[Tensor]]
    gradients: dict[str, tuple[Tensor, Tensor]]
    """By layer: dA, dB."""


def peft_gradients(
    model_dir: Path,
    adapter_dir: Path,
    jobs: Sequence[ForwardBackwardJob],
    dtype: torch.dtype = torch.float64,
) -> Reference:
    """Run jobs on one PEFT adapter directory."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    peft_model = PeftModel.from_pretrained(model, adapter_dir, is_trainable=True).eval()
    peft_model.to(dtype)
    result = Reference([], [], [], {})
    for job in jobs:
        job_loss = torch.zeros((), dtype=dtype)
        job_scale = 0.0
        job_logprobs = []
        for datum in job.data:
            arrays = {key: value.to_torch() for key, value in datum.loss_fn_inputs.items()}
            targets = arrays.pop("target_tokens")
            inputs = {key: value.to(dtype) for key, value in arrays.items()}
            tokens = torch.tensor([datum.model_input.to_ints()])
            logits = peft_model(input_ids=tokens, use_cache=False).logits[0]
            chosen = targets if targets.ndim == 2 else targets[:, None]
            lp = torch.log_softmax(logits, -1).gather(-1, chosen).reshape(targets.shape)
            tokens_loss = reference_loss(job.loss_fn, lp, inputs, dict(job.loss_fn_config))
            job_loss = job_loss + tokens_loss.sum()
            job_scale += tokens_loss.abs().sum().item()
            job_logprobs.append(lp.detach())
        if not job.forward_only:
            job_loss.backward()
        result.losses.append(job_loss.item())
        result.scales.append(job_scale)
        result.logprobs.append(job_logprobs)
    return result._replace(gradients=_layer_gradients(peft_model))


def _layer_gradients(peft_model: Any) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, parameter in peft_model.named_parameters():
        if ".lora_" in key:
            name, _, half = key.removeprefix("base_model.model.").partition(".lora_")
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            halves.setdefault(name, {})[half[0]] = grad.detach()
    return {name: (found["A"], found["B"]) for name, found in halves.items()}


def engine_gradients(engine: Engine, adapter_id: str) -> dict[str, tuple[Tensor, Tensor]]:
    """The gradient that an adapter has accumulated, by layer."""
    adapter = engine.adapter(adapter_id)
    assert adapter.grad is not None
    return {shape.name: shape.views(adapter.grad) for shape in adapter.shapes}


def relative_error(ours: Tensor, reference: Tensor) -> float:
    """|ours - reference| / |reference| in the Euclidean norm (0 for 0 / 0)."""
    difference = torch.linalg.vector_norm(ours.double() - reference.double())
    if difference == 0:
        return 0.0
    return float(difference / torch.linalg.vector_norm(reference.double()))


def gradient_error(
    ours: dict[str, tuple[Tensor, Tensor]], reference: dict[str, tuple[Tensor, Tensor]]
) -> float:
    """The largest relative error over all A and B."""
    assert ours.keys() == reference.keys()
    return max(
        relative_error(mine, theirs)
        for name in ours
        for mine, theirs in zip(ours[name], reference[name], strict=True)
    )


def random_datum(
    rng: np.random.Generator, length: int, loss_fn: str, *, num_targets: int | None = None
) -> Datum:
    """A datum with every kind of value: masked, fractional and negative weights or advantages."""
    shape = (length,) if num_targets is None else (length, num_targets)
    tokens = rng.integers(0, VOCAB_SIZE, length)
    inputs: dict[str, np.ndarray] = {"target_tokens": rng.integers(0, VOCAB_SIZE, shape)}
    signal = rng.normal(size=shape).astype(np.float32)
    signal[: length // 3] = 0.0
    if loss_fn == "cross_entropy":
        inputs["weights"] = signal
    else:
        inputs["advantages"] = signal
        # Spread so that ratios fall below, within and above every clip range.
        inputs["logprobs"] = (-4.5 + 1.5 * rng.normal(size=shape)).astype(np.float32)
    if loss_fn == "gspo":
        mask = (rng.random(shape) < 0.7).astype(np.float32)
        mask[-1] = 1.0  # there must be a token to take the mean of
        inputs["sequence_ratio_mask"] = mask
    return Datum(model_input=ModelInput.from_ints(tokens.tolist()), loss_fn_inputs=inputs)


def random_job(
    adapter_id: str,
    loss_fn: str,
    lengths: Sequence[int],
    *,
    seed: int = 0,
    num_targets: int | None = None,
    forward_only: bool = False,
    config: dict[str, float] | None = None,
) -> ForwardBackwardJob:
    """A job of random datums."""
    rng = np.random.default_rng(seed)
    data = [random_datum(rng, length, loss_fn, num_targets=num_targets) for length in lengths]
    return ForwardBackwardJob(adapter_id, data, loss_fn, config or {}, forward_only)


def add_trained_adapter(
    engine: Engine, adapter_id: str, rank: int, *, seed: int = 0, **config: bool
) -> None:
    """An adapter whose B is not zero, as after training, so that A has a gradient."""
    engine.create_adapter(adapter_id, LoraConfig(rank=rank, seed=seed, **config))
    adapter = engine.adapter(adapter_id)
    generator = torch.Generator().manual_seed(seed + 1000)
    with torch.no_grad():
        for shape in adapter.shapes:
            _, b = shape.views(adapter.flat)
            b.copy_(torch.randn(b.shape, generator=generator) * 0.02)


def succeed(results: Sequence[Any]) -> list[Any]:
    """The results, none of which may be an error."""
    for result in results:
        if isinstance(result, Exception):
            raise result
    return list(results)


def run(engine: Engine, *jobs: ForwardBackwardJob) -> list[ForwardBackwardOutput]:
    """Run jobs in one pass; all must succeed."""
    return succeed(engine.forward_backward(jobs))
