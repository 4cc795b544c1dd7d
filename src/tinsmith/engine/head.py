"""From hidden states to losses and their gradients, without ever holding a batch's logits.

The losses are separable over tokens, so dL/dlogprob of a chunk of positions is known as soon as
the chunk's logprobs are, and dL/dlogits = scatter(g) - softmax * sum(g) can be formed in the same
buffer: one pass over chunks gives logprobs, the gradient of the hidden states and of the output
layer's adapters, and nothing is recomputed. Positions without a gradient (prompts, mostly) skip
the backward half. A loss that needs whole sequences would need a first pass for logprobs alone and
a second for gradients; `run_head` is where that would go.

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
from tinsmith.engine.lora import (
    LoraLinear,
    RowSpan,
    add_low_rank_,
    low_rank_backward,
)

__all__ = ["HeadRun", "run_head"]


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
    """Each [stop - start, K]."""
    logprobs: Tensor
    """[stop - start, K], float32 or wider: filled in."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Summed loss and diagnostics, float64 scalars: filled in."""


class _Chunk(NamedTuple):
    """What the backward half needs of one chunk."""

    hidden: Tensor
    """[M, H]."""
    logprobs: Tensor
    """[M, V]; the backward half reuses the memory."""
    spans: list[RowSpan]
    projected: list[Tensor]
    """Of each span: hidden A^T."""


class _TargetGradient(NamedTuple):
    """dL/dlogprob of the targets of rows [row, row + n) of a chunk."""

    row: int
    targets: Tensor
    """[n, K]."""
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
) -> Tensor | None:
    """Evaluate every run's loss; with `backward`, also its gradients.

    Args:
        head: the output embedding.
        hidden: [N, H], detached.
        runs: cover [0, N) in order; their `logprobs` and `sums` are filled in.
        spans: adapters of the output embedding by position; their leaves' `.grad` is added to.
        max_elements: logits held at a time.
        backward: whether gradients are wanted.

    Returns:
        dL/dhidden [N, H], or None without `backward`.
    """
    grad_hidden = torch.zeros_like(hidden) if backward else None
    size = max(1, max_elements // head.out_features)
    with torch.no_grad():
        for start in range(0, hidden.shape[0], size):
            stop = min(start + size, hidden.shape[0])
            chunk = _forward_chunk(head, hidden[start:stop], _clip_spans(spans, start, stop))
            gradients: list[_TargetGradient] = []
            for run in runs:
                low, high = max(run.start, start), min(run.stop, stop)
                if low < high:
                    rows = chunk.logprobs[low - start : high - start]
                    gradient = _evaluate(run, slice(low - run.start, high - run.start), rows)
                    gradients.append(gradient._replace(row=low - start))
            if grad_hidden is not None:
                _backward_chunk(head, chunk, gradients, grad_hidden[start:stop])
    return grad_hidden


def _forward_chunk(head: LoraLinear, hidden: Tensor, spans: list[RowSpan]) -> _Chunk:
    logits = functional.linear(hidden, head.weight, head.bias)
    projected = add_low_rank_(logits, hidden, spans)
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    return _Chunk(hidden, torch.log_softmax(logits, dim=-1), spans, projected)


def _evaluate(run: HeadRun, part: slice, logprobs_MV: Tensor) -> _TargetGradient:
    """Fill in one part of a run and return dL/dlogprob of its targets."""
    targets = run.targets[part]
    logprobs = logprobs_MV.gather(-1, targets)
    run.logprobs[part] = logprobs
    inputs = {key: values[part] for key, values in run.inputs.items()}
    with torch.enable_grad():
        leaf = logprobs.requires_grad_()
        loss, diagnostics = run.spec.fn(leaf, inputs, run.config)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    for key, values in {"loss": loss.detach(), **diagnostics}.items():
        total = values.sum(dtype=torch.float64)
        run.sums[key] = run.sums[key] + total if key in run.sums else total
    return _TargetGradient(0, targets, gradient)


def _backward_chunk(
    head: LoraLinear, chunk: _Chunk, gradients: Sequence[_TargetGradient], grad_hidden: Tensor
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
        bounds = functional.pad(touched.cumsum(0), (1, 0)).tolist()
        projected = [
            z[touched[span.start : span.stop]] for z, span in zip(projected, spans, strict=True)
        ]
        spans = [RowSpan(bounds[span.start], bounds[span.stop], span.pair) for span in spans]
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
    grad_logits: Tensor, gradients: Sequence[_TargetGradient], touched: Tensor
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
