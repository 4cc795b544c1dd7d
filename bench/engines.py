"""An engine with an adapter on it, driven directly, and the check that the peer computes the same.

Main names: `EngineSide`, `check_same_gradient`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bench.batches import Example, datums
from bench.models import BenchModel
from bench.peer import Peer, StepResult
from tinsmith.core.errors import TinsmithError
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import (
    ForwardBackwardJob,
    OptimStepJob,
    RetainGraph,
    SampleJob,
    UseGraph,
)
from tinsmith.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    LoraConfig,
    OptimStepResponse,
    SampleResponse,
    SamplingParams,
)

__all__ = ["ADAM", "RANK", "EngineSide", "check_same_gradient", "sampling_params"]

RANK = 32
ADAM = AdamParams(learning_rate=1e-4)
LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3  # a norm over millions of float32 products
MAIN = "adapter-0"

T = TypeVar("T")


def sampling_params(num_tokens: int, seed: int) -> SamplingParams:
    """Exactly so many tokens, at temperature 1."""
    return SamplingParams(max_tokens=num_tokens, stop=[], temperature=1.0, seed=seed)


class EngineSide:
    """One engine and its adapters; every call raises where a job was refused."""

    def __init__(self, model: BenchModel, *, num_adapters: int = 1) -> None:
        self.engine = Engine(str(model.path), device="cpu")
        self.adapter_ids = [f"adapter-{index}" for index in range(num_adapters)]
        for index, adapter_id in enumerate(self.adapter_ids):
            self.engine.create_adapter(adapter_id, LoraConfig(rank=RANK, seed=index))

    def saved_after_a_step(self, examples: Sequence[Example], directory: Path) -> Path:
        """The first adapter as a PEFT directory, after one step so large that B counts."""
        self.train_step({MAIN: datums(examples)}, AdamParams(learning_rate=3e-3))
        self.engine.release_snapshot(self.engine.save_sampler_weights(MAIN, directory))
        return directory

    def train_step(
        self, data: dict[str, list[Datum]], params: AdamParams = ADAM
    ) -> ForwardBackwardOutput:
        """forward_backward and optim_step of all adapters in `data`; the first one's output."""
        jobs = [
            ForwardBackwardJob(adapter_id, batch, "cross_entropy")
            for adapter_id, batch in data.items()
        ]
        outputs = [_good(output) for output in self.engine.forward_backward(jobs)]
        self.optim_step(list(data), params)
        return outputs[0]

    def custom_step(self, data: list[Datum], *, keeps_graph: bool) -> None:
        """A forward and a backward of the first adapter, as a loss in the client needs them."""
        forward = ForwardBackwardJob(MAIN, data, "cross_entropy", forward_only=True)
        backward = ForwardBackwardJob(MAIN, data, "cross_entropy")
        if keeps_graph:
            forward = replace(forward, graph=RetainGraph(1))
            backward = replace(backward, graph=UseGraph((1,)))
        for job in (forward, backward):
            _good(self.engine.forward_backward([job])[0])

    def optim_step(self, adapter_ids: Sequence[str], params: AdamParams = ADAM) -> list[float]:
        """One optimizer step of each adapter; the gradients' norms."""
        jobs = [OptimStepJob(adapter_id, params) for adapter_id in adapter_ids]
        steps: list[OptimStepResponse] = [_good(step) for step in self.engine.optim_step(jobs)]
        return [(step.metrics or {})["grad_norm"] for step in steps]

    def gradient(self, examples: Sequence[Example]) -> StepResult:
        """Loss and gradient norm of a batch; the weights stay (learning rate 0)."""
        job = ForwardBackwardJob(MAIN, datums(examples), "cross_entropy")
        output = _good(self.engine.forward_backward([job])[0])
        (grad_norm,) = self.optim_step([MAIN], AdamParams(learning_rate=0.0))
        return StepResult(output.metrics["loss:sum"], grad_norm)

    def sample(
        self, prompts: Sequence[list[int]], *, snapshot_id: str, num_tokens: int, copies: int
    ) -> list[SampleResponse]:
        """Sample `num_tokens` after every prompt, `copies` times each."""
        sampler = self.engine.sampler
        for index, prompt in enumerate(prompts):
            params = sampling_params(num_tokens, seed=index)
            sampler.submit(SampleJob(f"job-{index}", snapshot_id, prompt, copies, params))
        done: dict[str, SampleResponse] = {}
        while sampler.has_work:
            for result in sampler.step():
                if result.response is None:
                    raise result.error or RuntimeError(f"{result.job_id}: no response, no error")
                done[result.job_id] = result.response
        return [done[f"job-{index}"] for index in range(len(prompts))]


def check_same_gradient(ours: EngineSide, peer: Peer, examples: Sequence[Example]) -> None:
    """Compare loss and gradient norm of a batch, so that both are known to do the same work.

    Raises:
        RuntimeError: they differ by more than rounding explains.
    """
    left, right = ours.gradient(examples), peer.gradient(examples)
    for what, tolerance in (("loss", LOSS_TOLERANCE), ("grad_norm", GRADIENT_TOLERANCE)):
        a, b = getattr(left, what), getattr(right, what)
        if not math.isclose(a, b, rel_tol=tolerance):
            raise RuntimeError(f"{what} is {a:.7g} here and {b:.7g} at the peer: not comparable")


def _good(result: T | TinsmithError) -> T:
    if isinstance(result, TinsmithError):
        raise result
    return result
