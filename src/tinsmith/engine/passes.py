"""One forward (and backward) pass over the datums of many jobs.

`run_pass` cuts the datums of all jobs into micro-batches, and each micro-batch's rows into one
segment a job, so that jobs of different adapters, ranks and losses share every matrix product with
the base model and nothing else: each job has its own leaves and its own gradient buffer. Jobs
without gradients get micro-batches of their own, which build no graph. `Microbatch` is one forward
through the layers below the head, for `tinsmith.engine.retained` too.

Shapes: B rows and T positions of a micro-batch, N real positions, H hidden, K targets a position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.engine.adapters import AdapterPass
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.batching import plan_microbatches
from tinsmith.engine.datums import CheckedDatum, CheckedJob
from tinsmith.engine.head import HeadChunk, HeadRun, WholeDatum, run_head
from tinsmith.engine.jobs import EngineLimits
from tinsmith.engine.lora import RowSpan, Segment
from tinsmith.types import ForwardBackwardOutput, TensorData

__all__ = ["JobRun", "Microbatch", "Row", "run_pass"]


@dataclass
class JobRun:
    """One job of a pass: what it needs, and what came out of it."""

    checked: CheckedJob
    adapter: AdapterPass
    logprobs: list[Tensor | None] = field(default_factory=list)
    """Of each datum, in the shape of its target_tokens: filled in."""
    sums: dict[str, float] = field(default_factory=dict)
    """Loss and diagnostics summed over tokens and datums: filled in."""
    failure: TinsmithError | None = None
    """Why the loss could not be evaluated on the data: filled in."""
    distribution: int | None = None
    """Likeliest tokens to tell of every position; 0 tells all of them by id, None nothing."""
    top_tokens: list[Tensor | None] = field(default_factory=list)
    """Of each datum [N, k], likeliest first; filled in where `distribution` is 1 or more."""
    top_logprobs: list[Tensor | None] = field(default_factory=list)
    """Of each datum [N, k], or [N, V]; filled in where there is a `distribution`."""

    @property
    def backward(self) -> bool:
        """Whether gradients are wanted."""
        return self.adapter.grad is not None

    def prepare(self) -> None:
        """Make room for the results."""
        count = len(self.checked.data)
        self.logprobs = [None] * count
        self.top_tokens = [None] * count
        self.top_logprobs = [None] * count

    def problem(self) -> TinsmithError | None:
        """Why the results must not be used: the loss failed, or something is not finite."""
        if self.failure is not None:
            return self.failure
        for index, logprobs in enumerate(self.logprobs):
            if logprobs is not None and not bool(torch.isfinite(logprobs).all()):
                return UserError(
                    f"datum {index}: the model's logprobs are not finite, so the adapter's weights "
                    "have diverged",
                    field="data",
                    hint="load an earlier checkpoint and lower the learning rate",
                )
        if not all(map(math.isfinite, self.sums.values())):
            return UserError(
                f"loss {self.checked.spec.name} is not finite "
                f"({', '.join(f'{k}={v:g}' for k, v in self.sums.items())}); nothing was "
                "accumulated",
                field="data",
                hint="check the logprobs, advantages and weights of the data",
            )
        if self.adapter.grad is not None and not bool(torch.isfinite(self.adapter.grad).all()):
            return UserError(
                "the gradient is not finite; nothing was accumulated",
                field="data",
                hint="scale weights or advantages down",
            )
        return None

    def output(self) -> ForwardBackwardOutput:
        """What the caller is told."""
        data = self.checked.data
        metrics: dict[str, float] = {}
        for key, value in self.sums.items():
            # A custom loss names its metrics with their reduction; all others are sums.
            name, _, reduction = key.partition(":")
            metrics[f"{name}:{reduction or 'sum'}"] = (
                value / len(data) if reduction == "mean" else value
            )
        metrics["tokens:sum"] = float(sum(len(datum.tokens) for datum in data))
        counts = [datum.num_loss_tokens for datum in data if datum.num_loss_tokens is not None]
        if counts:
            metrics["loss_tokens:sum"] = float(sum(counts))
        outputs: list[dict[str, TensorData]] = []
        for index, logprobs in enumerate(self.logprobs):
            assert logprobs is not None, "every datum was in some micro-batch"
            arrays = {"logprobs": logprobs.float()}
            if (tokens := self.top_tokens[index]) is not None:
                arrays["distribution_tokens"] = tokens
            if (top := self.top_logprobs[index]) is not None:
                arrays["distribution_logprobs"] = top.float()
            outputs.append({k: TensorData.from_numpy(v.numpy()) for k, v in arrays.items()})
        return ForwardBackwardOutput(
            loss_fn_output_type="ArrayRecord", loss_fn_outputs=outputs, metrics=metrics
        )


@dataclass(frozen=True)
class Row:
    """One datum of one job."""

    job: JobRun
    index: int

    @property
    def datum(self) -> CheckedDatum:
        return self.job.checked.data[self.index]

    @property
    def length(self) -> int:
        return len(self.datum.tokens)


def run_pass(base: BaseModel, jobs: Sequence[JobRun], limits: EngineLimits) -> None:
    """Run all jobs, filling in their results and their own gradient buffers.

    Nothing else is written: whoever calls decides, job by job, whether the gradients count.
    """
    for job in jobs:
        job.prepare()
    for backward in (True, False):
        rows = [
            Row(job, index)
            for job in jobs
            if job.backward is backward
            for index in range(len(job.checked.data))
        ]
        plan = plan_microbatches([row.length for row in rows], limits.max_microbatch_tokens)
        for indices in plan:
            batch = Microbatch.forward(base, [rows[i] for i in indices], with_graph=backward)
            grad = batch.evaluate(base, limits, backward=backward)
            if grad is not None:
                batch.backward(grad)


@dataclass(frozen=True)
class Microbatch:
    """Rows that went through the layers below the head together."""

    rows: Sequence[Row]
    hidden: Tensor
    """[B, T, H], with its graph if there is one."""
    real: Tensor | None
    """[N], positions of [B * T] that are not padding; None where there is no padding."""
    offsets: Sequence[int]
    """[B + 1], where each row begins among the real positions."""
    spans: Sequence[RowSpan]
    """Adapters of the head by real position."""

    @classmethod
    def forward(cls, base: BaseModel, rows: Sequence[Row], *, with_graph: bool) -> Microbatch:
        """Run the layers."""
        lengths = torch.tensor([row.length for row in rows])
        width = int(lengths.max())
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            tokens[i, : row.length] = row.datum.tokens
        segments = [
            Segment(slice(start, stop), rows[start].job.adapter.weights)
            for start, stop in _neighbours([id(row.job) for row in rows])
        ]
        with base.router.use(segments), torch.set_grad_enabled(with_graph):
            hidden = base.hidden_states(tokens.to(base.device))
        real = None
        if int(lengths.min()) < width:
            real = (torch.arange(width) < lengths[:, None]).flatten().nonzero().squeeze(-1)
            real = real.to(base.device)
        offsets = [0, *lengths.cumsum(0).tolist()]
        spans = [
            RowSpan(offsets[segment.rows.start], offsets[segment.rows.stop], pair)
            for segment in segments
            if (pair := segment.weights.get(base.head.name)) is not None
        ]
        return cls(rows, hidden, real, offsets, spans)

    @property
    def flat(self) -> Tensor:
        """[N, H], real positions, detached."""
        flat = self.hidden.detach().flatten(0, 1)
        return flat if self.real is None else flat.index_select(0, self.real)

    def evaluate(
        self,
        base: BaseModel,
        limits: EngineLimits,
        *,
        backward: bool,
        kept: list[HeadChunk] | None = None,
    ) -> Tensor | None:
        """Fill in the jobs' results; with `backward`, dL/d`flat`. `kept` as in `run_head`."""
        runs = list(_head_runs(self.rows, self.offsets, base))
        grad = run_head(
            base.head,
            self.flat,
            [run for run, _ in runs],
            self.spans,
            max_elements=limits.max_head_elements,
            backward=backward,
            kept=kept,
        )
        for run, members in runs:
            _collect(run, members)
        return grad

    def backward(self, grad: Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of the adapters below the head, given dL/d`flat`."""
        if not self.hidden.requires_grad:
            return
        if self.real is not None:
            whole = torch.zeros_like(self.hidden).flatten(0, 1)
            grad = whole.index_copy_(0, self.real, grad)
        self.hidden.backward(grad.view(self.hidden.shape), retain_graph=retain_graph)


def _head_runs(
    rows: Sequence[Row], offsets: Sequence[int], base: BaseModel
) -> Iterator[tuple[HeadRun, Sequence[Row]]]:
    """Neighbouring rows of one job with equally many targets, concatenated."""
    keys = [(id(row.job), row.datum.targets.shape[1]) for row in rows]
    dtype = torch.float64 if base.dtype == torch.float64 else torch.float32
    for start, stop in _neighbours(keys):
        members = rows[start:stop]
        checked = members[0].job.checked
        data = [row.datum for row in members]
        targets = torch.cat([datum.targets for datum in data]).to(base.device)
        separable = checked.spec.separable
        top_tokens, top_logprobs = _top(members[0].job.distribution, len(targets), base, dtype)
        yield (
            HeadRun(
                start=offsets[start],
                stop=offsets[stop],
                spec=checked.spec,
                config=checked.config,
                targets=targets,
                inputs={
                    key: torch.cat([datum.inputs[key] for datum in data]).to(base.device, dtype)
                    for key in (data[0].inputs if separable else ())
                },
                logprobs=torch.empty(targets.shape, device=base.device, dtype=dtype),
                wholes=() if separable else list(_wholes(data, base.device, dtype)),
                top_tokens=top_tokens,
                top_logprobs=top_logprobs,
            ),
            members,
        )


def _top(
    distribution: int | None, num_rows: int, base: BaseModel, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Room for the tokens and logprobs that a job wants of every position."""
    if distribution is None:
        return None, None
    shape = (num_rows, distribution or base.info.vocab_size)
    logprobs = torch.empty(shape, device=base.device, dtype=dtype)
    if not distribution:
        return None, logprobs
    return torch.empty(shape, device=base.device, dtype=torch.int64), logprobs


def _wholes(
    data: Sequence[CheckedDatum], device: torch.device, dtype: torch.dtype
) -> Iterator[WholeDatum]:
    """The datums of a run, one after another."""
    row = 0
    for datum in data:
        inputs = {
            key: values.to(device, dtype if values.is_floating_point() else None)
            for key, values in datum.inputs.items()
        }
        yield WholeDatum(slice(row, row + len(datum.tokens)), datum.shape, inputs)
        row += len(datum.tokens)


def _collect(run: HeadRun, members: Sequence[Row]) -> None:
    """Hand a run's results to the job that owns it."""
    job = members[0].job
    job.failure = job.failure or run.failure
    lengths = [row.length for row in members]
    for row, logprobs in zip(members, run.logprobs.cpu().split(lengths), strict=True):
        job.logprobs[row.index] = logprobs.reshape(row.datum.shape)
    for filled, results in ((run.top_tokens, job.top_tokens), (run.top_logprobs, job.top_logprobs)):
        if filled is not None:
            for row, piece in zip(members, filled.cpu().split(lengths), strict=True):
                results[row.index] = piece
    for key, value in run.sums.items():
        job.sums[key] = job.sums.get(key, 0.0) + float(value)


def _neighbours(keys: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Ranges [start, stop) of equal neighbouring keys."""
    start = 0
    for i in range(1, len(keys) + 1):
        if i == len(keys) or keys[i] != keys[start]:
            yield start, i
            start = i
