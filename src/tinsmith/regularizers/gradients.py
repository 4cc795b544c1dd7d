"""Gradients by the logprobs, their norms, and a loss that carries gradients computed before."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["are_finite", "gradients_of", "norm_of", "weighted_sum", "with_gradients"]

Gradients = list  # of torch.Tensor, one for each datum; torch is not imported here


def gradients_of(loss: torch.Tensor, logprobs: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    """One backward pass; the graph is kept. None where the loss does not depend on the logprobs.

    Args:
        loss: A scalar.
        logprobs: Leaves; one that the loss leaves out has gradient 0.
    """
    import torch

    if not loss.requires_grad:
        return None
    found = torch.autograd.grad(loss, logprobs, retain_graph=True, allow_unused=True)
    if all(gradient is None for gradient in found):
        return None
    return [
        torch.zeros_like(tensor) if gradient is None else gradient.detach()
        for gradient, tensor in zip(found, logprobs, strict=True)
    ]


def norm_of(gradients: Sequence[torch.Tensor] | None) -> float | None:
    """L2 norm over all datums, in float64; None of None."""
    if gradients is None:
        return None
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients))


def are_finite(gradients: Sequence[torch.Tensor] | None) -> bool:
    """Whether every number is one; nothing is, too."""
    return gradients is None or all(bool(g.isfinite().all()) for g in gradients)


def weighted_sum(
    parts: Sequence[tuple[float, Sequence[torch.Tensor]]],
) -> list[torch.Tensor] | None:
    """Sum of weight times gradient, in the order given; None of nothing."""
    total: list[torch.Tensor] | None = None
    for weight, gradients in parts:
        scaled = [weight * gradient for gradient in gradients]
        total = scaled if total is None else [a + b for a, b in zip(total, scaled, strict=True)]
    return total


def with_gradients(
    value: torch.Tensor, gradients: Sequence[torch.Tensor], logprobs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """A scalar with this value whose gradient by the logprobs is the given one."""
    return _carrier().apply(value.detach(), len(logprobs), *gradients, *logprobs)


@functools.cache
def _carrier() -> Any:
    """The autograd function of `with_gradients`, made when torch is needed."""
    import torch

    class Carrier(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Any, count: int, *tensors: Any) -> Any:
            ctx.save_for_backward(*tensors[:count])
            return value.clone()

        @staticmethod
        def backward(ctx: Any, *outer: Any) -> Any:
            gradients = ctx.saved_tensors
            return (
                None,
                None,
                *[None] * len(gradients),
                *[outer[0] * gradient for gradient in gradients],
            )

    return Carrier
