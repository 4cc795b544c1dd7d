"""One forward (and backward) pass over the datums of many jobs.

`run_pass` cuts the datums of all jobs into micro-batches, and each micro-batch's rows into one
segment a job, so that jobs of different adapters, ranks and losses share every matrix product with
the base model and nothing else: each job has its own leaves and its own gradient buffer. Jobs
without gradients get micro-batches of their own, which build no graph.

Shapes: B rows and T positions of a micro-batch, N real positions, H hidden, K targets a position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.engine.adapters import AdapterPass
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.batching import plan_microbatches
from tinsmith.engine.datums import CheckedDatum, CheckedJob
from tinsmith.engine.head import HeadRun, KeptChunks, WholeDatum, run_head
from tinsmith.engine.jobs import EngineLimits
from tinsmith.engine.lora import RowSpan, Segment

__all__ = [
    "HiddenPass",
    "JobRun",
    "Row",
    "finish_microbatch",
    "rows_of",
    "run_hidden",
    "run_pass",
]


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

    @property
    def backward(self) -> bool:
        """Whether gradients are wanted."""
        return self.adapter.grad is not None

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
        job.logprobs = [None] * len(job.checked.data)
    for backward in (True, False):
        rows = [row for job in jobs if job.backward is backward for row in rows_of(job)]
        plan = plan_microbatches([row.length for row in rows], limits.max_microbatch_tokens)
        for indices in plan:
            _run_microbatch(base, [rows[i] for i in indices], limits, backward=backward)


def rows_of(job: JobRun) -> list[Row]:
    """The datums of a job as rows of micro-batches."""
    return [Row(job, index) for index in range(len(job.checked.data))]


def _run_microbatch(
    base: BaseModel, rows: Sequence[Row], limits: EngineLimits, *, backward: bool
) -> None:
    finish_microbatch(base, run_hidden(base, rows, backward=backward), limits, backward=backward)


@dataclass(frozen=True)
class HiddenPass:
    """The hidden states of a micro-batch, and their graph where gradients are wanted."""

    rows: Sequence[Row]
    hidden: Tensor
    """[B, T, H]."""
    flat: Tensor
    """[N, H], detached."""
    real: Tensor | None
    """Positions of `hidden` that are not padding, where there is padding."""
    offsets: Sequence[int]
    """Of each row in `flat`, and the end."""
    spans: Sequence[RowSpan]
    """Adapters of the output layer, by position."""

    def for_rows(self, rows: Sequence[Row]) -> HiddenPass:
        """The same states for rows of the same inputs with other losses."""
        return replace(self, rows=rows)


def run_hidden(base: BaseModel, rows: Sequence[Row], *, backward: bool) -> HiddenPass:
    """Run the base model and the adapters up to the output layer."""
    lengths = torch.tensor([row.length for row in rows])
    width = int(lengths.max())
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        tokens[i, : row.length] = row.datum.tokens
    segments = [
        Segment(slice(start, stop), rows[start].job.adapter.weights)
        for start, stop in _neighbours([id(row.job) for row in rows])
    ]
    with base.router.use(segments), torch.set_grad_enabled(backward):
        hidden = base.hidden_states(tokens.to(base.device))
    flat = hidden.detach().flatten(0, 1)
    real = None
    if int(lengths.min()) < width:
        real = (torch.arange(width) < lengths[:, None]).flatten().nonzero().squeeze(-1)
        real = real.to(base.device)
        flat = flat.index_select(0, real)
    offsets = [0, *lengths.cumsum(0).tolist()]
    spans = [
        RowSpan(offsets[segment.rows.start], offsets[segment.rows.stop], pair)
        for segment in segments
        if (pair := segment.weights.get(base.head.name)) is not None
    ]
    return HiddenPass(rows, hidden, flat, real, offsets, spans)


def finish_microbatch(
    base: BaseModel,
    states: HiddenPass,
    limits: EngineLimits,
    *,
    backward: bool,
    keep_graph: bool = False,
    chunks: KeptChunks | None = None,
) -> None:
    """Run the output layer and the losses; with `backward`, pull their gradients back."""
    runs = list(_head_runs(states.rows, states.offsets, base))
    grad = run_head(
        base.head,
        states.flat,
        [run for run, _ in runs],
        states.spans,
        max_elements=limits.max_head_elements,
        backward=backward,
        chunks=chunks,
    )
    for run, members in runs:
        _collect(run, members)
    hidden = states.hidden
    if grad is not None and hidden.requires_grad:
        if states.real is not None:
            whole = torch.zeros_like(hidden).flatten(0, 1)
            grad = whole.index_copy_(0, states.real, grad)
        hidden.backward(grad.view(hidden.shape), retain_graph=keep_graph)


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
            ),
            members,
        )


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
    pieces = run.logprobs.cpu().split([row.length for row in members])
    for row, logprobs in zip(members, pieces, strict=True):
        job.logprobs[row.index] = logprobs.reshape(row.datum.shape)
    for key, value in run.sums.items():
        job.sums[key] = job.sums.get(key, 0.0) + float(value)


def _neighbours(keys: Sequence[object]) -> Iterator[tuple[int, int]]:
    """Ranges [start, stop) of equal neighbouring keys."""
    start = 0
    for i in range(1, len(keys) + 1):
        if i == len(keys) or keys[i] != keys[start]:
            yield start, i
            start = i
