"""Low-rank adapters of many owners over one frozen linear layer.

`LoraLinear` wraps a frozen `nn.Linear` (or transformers' `Conv1D`) once per base model. Which
adapter acts on which rows of a batch stands in the `Router` that all layers of a model share:
inside `with router.use(segments)` a layer adds, for every `Segment`, scale * x A^T B^T to the
segment's rows, and nothing to rows without a segment. One autograd node per layer computes base
product, low-rank products and all their gradients; it saves x and x A^T only.

Precision: the low-rank products run in the dtype of x (A and B are cast when the base model is
bfloat16), gradients of A and B come back in the dtype of A and B (float32).

Shapes: N rows of the batch times positions, I in features, O out features, R rank, G segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["LoraLinear", "LoraPair", "Router", "RowSpan", "Segment"]


class LoraPair(NamedTuple):
    """One layer's adapter: adds `scale * x @ a.T @ b.T`."""

    a: Tensor
    """[R, I]."""
    b: Tensor
    """[O, R]."""
    scale: float
    """lora_alpha / rank."""


@dataclass(frozen=True)
class Segment:
    """A contiguous slice of a batch's dim 0 and the adapter that acts on it."""

    rows: slice
    weights: Mapping[str, LoraPair]
    """By layer name; a layer that is absent stays as the base model has it."""


class RowSpan(NamedTuple):
    """Rows [start, stop) of a flattened [N, features] input, with the pair that acts on them."""

    start: int
    stop: int
    pair: LoraPair


class Router:
    """Says which adapter acts on which rows while a batch runs; shared by a model's layers."""

    def __init__(self) -> None:
        self.segments: tuple[Segment, ...] = ()

    @contextmanager
    def use(self, segments: Sequence[Segment]) -> Iterator[None]:
        """Route rows through `segments` inside the block (row ranges must not overlap)."""
        outer = self.segments
        self.segments = tuple(segments)
        try:
            yield
        finally:
            self.segments = outer


class LoraLinear(nn.Module):
    """A frozen linear layer with room for any number of adapters.

    `name` is the layer's name in the Hugging Face model, which is also the one PEFT uses
    (`model.layers.0.self_attn.q_proj`, `lm_head`).
    """

    def __init__(self, base: nn.Module, name: str, router: Router) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.router = router
        self.transposed = not isinstance(base, nn.Linear)
        self.out_features, self.in_features = self.weight.shape

    @property
    def weight(self) -> Tensor:
        """[O, I], the frozen base weight (a transposed view for `Conv1D`)."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight.t() if self.transposed else weight

    @property
    def bias(self) -> Tensor | None:
        """[O] or None."""
        bias = self.base.bias
        return bias if isinstance(bias, Tensor) else None

    def spans(self, rows_per_item: int) -> list[RowSpan]:
        """The router's segments that touch this layer, as ranges of flattened rows."""
        return [
            RowSpan(segment.rows.start * rows_per_item, segment.rows.stop * rows_per_item, pair)
            for segment in self.router.segments
            if (pair := segment.weights.get(self.name)) is not None
        ]

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] to [..., O]; segments index dim 0."""
        segments = self.router.segments
        if not segments:
            return functional.linear(x, self.weight, self.bias)
        spans = self.spans(x[0].numel() // self.in_features if x.shape[0] else 0)
        if not spans:
            return functional.linear(x, self.weight, self.bias)
        flat = x.reshape(-1, self.in_features)
        if torch.is_grad_enabled():
            leaves = [tensor for span in spans for tensor in (span.pair.a, span.pair.b)]
            out = _LoraFunction.apply(flat, self.weight, self.bias, spans, *leaves)
        else:
            out = functional.linear(flat, self.weight, self.bias)
            add_low_rank_(out, flat, spans)
        return out.view(*x.shape[:-1], self.out_features)


class _LoraFunction(torch.autograd.Function):
    """Base product plus every span's low-rank product, as one autograd node."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's context object has no public type
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        spans: list[RowSpan],
        *leaves: Tensor,
    ) -> Tensor:
        del leaves  # the same tensors as in spans; listed so that autograd tracks them
        out = functional.linear(x, weight, bias)
        projected = add_low_rank_(out, x, spans)
        ctx.spans = spans
        # Frozen weights need no version check, and ctx attributes cost less than saved tensors.
        ctx.weight = weight
        ctx.save_for_backward(x, *projected)
        return out

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]  # torch's own examples name ctx; stubs disagree
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Any, ...]:
        x, *projected = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        grad_x = grad @ ctx.weight if ctx.needs_input_grad[0] else None
        grads = low_rank_backward(grad, x, projected, ctx.spans, grad_x)
        return (grad_x, None, None, None, *grads)


def add_low_rank_(out: Tensor, x: Tensor, spans: Sequence[RowSpan]) -> list[Tensor]:
    """Add every span's low-rank product to `out` [N, O] in place.

    Returns:
        x A^T [n, R] of every span, which the backward pass wants.
    """
    if _are_alike(spans):
        x_GNI, out_GNO = _stacked(x, spans), _stacked(out, spans)
        a_GRI = torch.stack([span.pair.a for span in spans]).to(x.dtype)
        b_GOR = torch.stack([span.pair.b for span in spans]).to(x.dtype)
        z_GNR = torch.bmm(x_GNI, a_GRI.mT)
        out_GNO.baddbmm_(z_GNR, b_GOR.mT, alpha=spans[0].pair.scale)
        return list(z_GNR.unbind())
    projected: list[Tensor] = []
    for start, stop, (a, b, scale) in spans:
        z = x[start:stop] @ a.to(x.dtype).t()
        out[start:stop].addmm_(z, b.to(x.dtype).t(), alpha=scale)
        projected.append(z)
    return projected


def low_rank_backward(
    grad: Tensor,
    x: Tensor,
    projected: Sequence[Tensor],
    spans: Sequence[RowSpan],
    grad_x: Tensor | None,
) -> list[Tensor]:
    """Gradients of every span's A and B; adds the low-rank part to `grad_x` [N, I] in place.

    Returns:
        [dA, dB] of each span, flattened in span order.
    """
    grads: list[Tensor] = []
    if _are_alike(spans):
        scale, dtype = spans[0].pair.scale, spans[0].pair.a.dtype
        g_GNO, x_GNI, z_GNR = (
            _stacked(grad, spans),
            _stacked(x, spans),
            torch.stack(list(projected)),
        )
        b_GOR = torch.stack([span.pair.b for span in spans]).to(grad.dtype)
        gz_GNR = torch.bmm(g_GNO, b_GOR)
        grad_a = torch.bmm(gz_GNR.mT, x_GNI).to(dtype).mul_(scale)
        grad_b = torch.bmm(g_GNO.mT, z_GNR).to(dtype).mul_(scale)
        if grad_x is not None:
            a_GRI = torch.stack([span.pair.a for span in spans]).to(grad.dtype)
            _stacked(grad_x, spans).baddbmm_(gz_GNR, a_GRI, alpha=scale)
        return [half for pair in zip(grad_a, grad_b, strict=True) for half in pair]
    for (start, stop, (a, b, scale)), z in zip(spans, projected, strict=True):
        g = grad[start:stop]
        gz = g @ b.to(g.dtype)
        # The scale goes where it is free (addmm's alpha) or small (weights, not activations).
        grads.append((gz.t() @ x[start:stop]).to(a.dtype).mul_(scale))
        grads.append((g.t() @ z).to(b.dtype).mul_(scale))
        if grad_x is not None:
            grad_x[start:stop].addmm_(gz, a.to(g.dtype), alpha=scale)
    return grads


def _are_alike(spans: Sequence[RowSpan]) -> bool:
    """Whether several spans can share batched products: adjacent, equally many rows, one rank."""
    if len(spans) < 2:
        return False
    first = spans[0]
    size, shape, scale = first.stop - first.start, first.pair.a.shape, first.pair.scale
    return all(
        span.start == first.start + i * size
        and span.stop - span.start == size
        and span.pair.a.shape == shape
        and span.pair.scale == scale
        for i, span in enumerate(spans)
    )


def _stacked(rows: Tensor, spans: Sequence[RowSpan]) -> Tensor:
    """The rows of adjacent equal spans as [G, N, features], a view."""
    return rows[spans[0].start : spans[-1].stop].view(len(spans), -1, rows.shape[-1])
