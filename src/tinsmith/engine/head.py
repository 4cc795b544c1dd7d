"""From hidden states to losses and their gradients, without ever holding a batch's logits.

Most losses are separable over tokens, so dL/dlogprob of a chunk of positions is known as soon as
the chunk's logprobs are, and dL/dlogits = scatter(g) - softmax * sum(g) can be formed in the same
buffer: one pass over chunks gives logprobs, the gradient of the hidden states and of the output
layer's adapters, and nothing is recomputed. Positions without a gradient (prompts, mostly) skip
the backward half.

A loss that needs whole datums takes two phases: its chunks give logprobs only; then it is evaluated
datum by datum, and the logits of positions with a gradient are computed once more. Both kinds may
share a micro-batch and its chunks.

Shapes: N positions of a micro-batch (padding excluded), H hidden, V vocabulary, K targets a
position, M positions of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tinsmith.algorithms.losses import LossSpec
from tinsmith.core.errors import TinsmithError
from tinsmith.engine.lora import (
    LoraLinear,
    RowSpan,
    add_low_rank_,
    low_rank_backward,
)

__all__ = ["HeadChunk", "HeadRun", "TargetGradient", "WholeDatum", "head_backward", "run_head"]


@dataclass(frozen=True)
class WholeDatum:
    """A datum that its loss reads as a whole."""

    rows: slice
    """Of its run."""
    shape: tuple[int, ...]
    """That the loss sees its logprobs in: (rows,) or (rows, K)."""
    inputs: Mapping[str, Tensor]
    """In the shapes that the loss sees."""


@dataclass
class HeadRun:
    """Neighbouring positions with one owner, one loss and one number of targets."""

    start: int
    stop: int
    """Positions [start, stop) of the micro-batch."""
    spec: LossSpec
    config: Mapping[str, float]
    targets: Tensor
    """[stop - start, K]."""
    inputs: Mapping[str, Tensor]
    """Each [stop - start, K]; empty where the loss reads whole datums."""
    logprobs: Tensor
    """[stop - start, K], float32 or wider: filled in."""
    wholes: Sequence[WholeDatum] = ()
    """The datums of a loss that is not separable over tokens; they cover the run in order."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Summed loss and diagnostics, float64 scalars: filled in."""
    failure: TinsmithError | None = None
    """Why the loss could not be evaluated: filled in; the run then has no gradient."""
    top_tokens: Tensor | None = None
    """[stop - start, k] to be filled in with the likeliest tokens, likeliest first."""
    top_logprobs: Tensor | None = None
    """[stop - start, k] to be filled in; without `top_tokens` k is V, and all are told by id."""


class HeadChunk(NamedTuple):
    """What the backward half needs of one chunk."""

    hidden: Tensor
    """[M, H]."""
    logprobs: Tensor
    """[M, V]; the backward half reuses the memory."""
    spans: list[RowSpan]
    projected: list[Tensor]
    """Of each span: hidden A^T."""


class TargetGradient(NamedTuple):
    """dL/dlogprob of the targets of n neighbouring rows, from `row` on."""

    row: int
    targets: Tensor
    """[n, K]; a target may stand in a row several times."""
    values: Tensor
    """[n, K]."""


def run_head(
    head: LoraLinear,
    hidden: Tensor,
    runs: Sequence[HeadRun],
    spans: Sequence[RowSpan],
    *,
    max_elements: int,
    backward: bool,
    kept: list[HeadChunk] | None = None,
) -> Tensor | None:
    """Evaluate every run's loss; with `backward`, also its gradients.

    Args:
        head: the output embedding.
        hidden: [N, H], detached.
        runs: cover [0, N) in order; their `logprobs` and `sums` are filled in.
        spans: adapters of the output embedding by position; their leaves' `.grad` is added to.
        max_elements: logits held at a time.
        backward: whether gradients are wanted.
        kept: where to leave the chunks for `head_backward`; not with `backward`, which uses them.

    Returns:
        dL/dhidden [N, H], or None without `backward`.
    """
    grad_hidden = torch.zeros_like(hidden) if backward else None
    size = max(1, max_elements // head.out_features)
    with torch.no_grad():
        for start in range(0, hidden.shape[0], size):
            stop = min(start + size, hidden.shape[0])
            chunk = _forward_chunk(head, hidden[start:stop], _clip_spans(spans, start, stop))
            gradients: list[TargetGradient] = []
            for run in runs:
                low, high = max(run.start, start), min(run.stop, stop)
                if low < high:
                    rows = chunk.logprobs[low - start : high - start]
                    gradient = _evaluate(run, slice(low - run.start, high - run.start), rows)
                    gradients.append(gradient._replace(row=low - start))
            if grad_hidden is not None:
                _backward_chunk(head, chunk, gradients, grad_hidden[start:stop])
            elif kept is not None:
                kept.append(chunk)
        wholes = [run for run in runs if not run.spec.separable]
        late = [_evaluate_wholes(run, backward=backward) for run in wholes]
        if grad_hidden is not None and late:
            _backward_again(head, hidden, late, spans, grad_hidden, size)
    return grad_hidden


def head_backward(
    head: LoraLinear,
    hidden: Tensor,
    gradients: Sequence[TargetGradient],
    spans: Sequence[RowSpan],
    *,
    max_elements: int,
    chunks: Sequence[HeadChunk] = (),
) -> Tensor:
    """The backward half alone, for gradients that came from elsewhere.

    Args:
        head: the output embedding.
        hidden: [N, H], detached.
        gradients: cover [0, N) in order.
        spans: adapters of the output embedding by position; their leaves' `.grad` is added to.
        max_elements: logits held at a time.
        chunks: that `run_head` kept, which are left as they are; without them the logits of
            positions with a gradient are computed once more.

    Returns:
        dL/dhidden [N, H].
    """
    grad_hidden = torch.zeros_like(hidden)
    size = max(1, max_elements // head.out_features)
    start = 0
    with torch.no_grad():
        for chunk in chunks:
            stop = start + chunk.hidden.shape[0]
            own = chunk._replace(logprobs=chunk.logprobs.clone())
            parts = _clip_gradients(gradients, start, stop)
            _backward_chunk(head, own, parts, grad_hidden[start:stop])
            start = stop
        if chunks:
            return grad_hidden
        _backward_again(head, hidden, gradients, spans, grad_hidden, size)
    return grad_hidden


def _forward_chunk(head: LoraLinear, hidden: Tensor, spans: list[RowSpan]) -> HeadChunk:
    logits = functional.linear(hidden, head.weight, head.bias)
    projected = add_low_rank_(logits, hidden, spans)
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    return HeadChunk(hidden, torch.log_softmax(logits, dim=-1), spans, projected)


def _evaluate(run: HeadRun, part: slice, logprobs_MV: Tensor) -> TargetGradient:
    """Fill in one part of a run and return dL/dlogprob of its targets."""
    targets = run.targets[part]
    logprobs = logprobs_MV.gather(-1, targets)
    run.logprobs[part] = logprobs
    _tell_top(run, part, logprobs_MV)
    if not run.spec.separable:
        return TargetGradient(0, targets, torch.zeros_like(logprobs))
    inputs = {key: values[part] for key, values in run.inputs.items()}
    with torch.enable_grad():
        leaf = logprobs.requires_grad_()
        loss, diagnostics = run.spec.fn(leaf, inputs, run.config)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    _add_sums(run, {"loss": loss.detach(), **diagnostics})
    return TargetGradient(0, targets, gradient)


def _tell_top(run: HeadRun, part: slice, logprobs_MV: Tensor) -> None:
    if run.top_logprobs is None:
        return
    if run.top_tokens is None:
        run.top_logprobs[part] = logprobs_MV
    else:
        values, tokens = logprobs_MV.topk(run.top_tokens.shape[1], dim=-1)
        run.top_logprobs[part] = values
        run.top_tokens[part] = tokens


def _evaluate_wholes(run: HeadRun, *, backward: bool) -> TargetGradient:
    """Evaluate a run's loss datum by datum, its logprobs being complete."""
    gradients = torch.zeros_like(run.logprobs)
    try:
        for whole in run.wholes:
            with torch.set_grad_enabled(backward):
                leaf = run.logprobs[whole.rows].reshape(whole.shape).clone()
                leaf.requires_grad_(backward)
                loss, diagnostics = run.spec.fn(leaf, whole.inputs, run.config)
                if backward:
                    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
                    gradients[whole.rows] = gradient.reshape(gradients[whole.rows].shape)
            _add_sums(run, {"loss": loss.detach(), **diagnostics})
    except TinsmithError as error:
        # One job's loss may fail on its data; the jobs that share the pass go on.
        run.failure = error
        gradients.zero_()
    return TargetGradient(run.start, run.targets, gradients)


def _add_sums(run: HeadRun, terms: Mapping[str, Tensor]) -> None:
    for key, values in terms.items():
        total = values.sum(dtype=torch.float64)
        run.sums[key] = run.sums[key] + total if key in run.sums else total


def _backward_again(
    head: LoraLinear,
    hidden: Tensor,
    gradients: Sequence[TargetGradient],
    spans: Sequence[RowSpan],
    grad_hidden: Tensor,
    size: int,
) -> None:
    """Backward half of positions whose gradient came late: their logits are computed once more."""
    wanted = torch.zeros(hidden.shape[0], dtype=torch.bool, device=hidden.device)
    kept: list[TargetGradient] = []
    row = 0
    for gradient in gradients:
        touched = (gradient.values != 0).any(-1)
        wanted[gradient.row : gradient.row + len(touched)] = touched
        kept.append(TargetGradient(row, gradient.targets[touched], gradient.values[touched]))
        row += kept[-1].targets.shape[0]
    positions = wanted.nonzero().squeeze(-1)
    spans = _gather_spans(spans, wanted)
    for start in range(0, row, size):
        stop = min(start + size, row)
        rows = positions[start:stop]
        chunk = _forward_chunk(head, hidden[rows], _clip_spans(spans, start, stop))
        grad_rows = torch.zeros_like(chunk.hidden)
        _backward_chunk(head, chunk, _clip_gradients(kept, start, stop), grad_rows)
        grad_hidden.index_copy_(0, rows, grad_rows)


def _backward_chunk(
    head: LoraLinear, chunk: HeadChunk, gradients: Sequence[TargetGradient], grad_hidden: Tensor
) -> None:
    """Write dL/dhidden of the chunk's rows into `grad_hidden`; add to the leaves' gradients."""
    totals = torch.cat([gradient.values.sum(-1) for gradient in gradients])
    touched = torch.cat([(gradient.values != 0).any(-1) for gradient in gradients])
    kept = touched.nonzero().squeeze(-1)
    if kept.numel() == 0:
        return
    grad_logits = chunk.logprobs if kept.numel() == totals.numel() else chunk.logprobs[kept]
    grad_logits.exp_().mul_(totals[kept].neg_()[:, None])
    _scatter_targets(grad_logits, gradients, touched)
    hidden, spans, projected = chunk.hidden, chunk.spans, chunk.projected
    grad_logits = grad_logits.to(hidden.dtype)
    if kept.numel() < totals.numel():
        projected = [
            z[touched[span.start : span.stop]] for z, span in zip(projected, spans, strict=True)
        ]
        spans = _gather_spans(spans, touched)
        hidden = hidden[kept]
    grad_rows = grad_logits @ head.weight
    leaf_grads = low_rank_backward(grad_logits, hidden, projected, spans, grad_rows)
    leaves = (leaf for span in spans for leaf in (span.pair.a, span.pair.b))
    for leaf, leaf_grad in zip(leaves, leaf_grads, strict=True):
        assert leaf.grad is not None, "a trained leaf has a gradient buffer before the pass"
        leaf.grad.add_(leaf_grad)
    if kept.numel() < totals.numel():
        grad_hidden.index_copy_(0, kept, grad_rows)
    else:
        grad_hidden.copy_(grad_rows)


def _scatter_targets(
    grad_logits: Tensor, gradients: Sequence[TargetGradient], touched: Tensor
) -> None:
    """Add dL/dlogprob of the targets to the rows that were kept."""
    row = 0
    for gradient in gradients:
        chosen = touched[gradient.row : gradient.row + gradient.targets.shape[0]]
        values = gradient.values[chosen].to(grad_logits.dtype)
        grad_logits[row : row + values.shape[0]].scatter_add_(1, gradient.targets[chosen], values)
        row += values.shape[0]


def _clip_spans(spans: Sequence[RowSpan], start: int, stop: int) -> list[RowSpan]:
    """The spans' overlap with [start, stop), relative to start."""
    return [
        RowSpan(max(span.start, start) - start, min(span.stop, stop) - start, span.pair)
        for span in spans
        if max(span.start, start) < min(span.stop, stop)
    ]


def _gather_spans(spans: Sequence[RowSpan], wanted: Tensor) -> list[RowSpan]:
    """The spans, some of them empty, once only the wanted rows are kept."""
    bounds = functional.pad(wanted.cumsum(0), (1, 0)).tolist()
    return [RowSpan(bounds[span.start], bounds[span.stop], span.pair) for span in spans]


def _clip_gradients(
    gradients: Sequence[TargetGradient], start: int, stop: int
) -> list[TargetGradient]:
    """The gradients' overlap with rows [start, stop), relative to start."""
    clipped: list[TargetGradient] = []
    for row, targets, values in gradients:
        low, high = max(row, start), min(row + targets.shape[0], stop)
        if low < high:
            part = slice(low - row, high - row)
            clipped.append(TargetGradient(low - start, targets[part], values[part]))
    return clipped
