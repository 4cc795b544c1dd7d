"""Terms on an adapter's parameters alone: values and gradients in closed form.

For parameters theta (all A and B), their first values theta_0, and a layer's A [r, in], B [out, r]:

    weight_decay    1/2 |theta|^2                        gradient theta
    anchor          1/2 |theta - theta_0|^2              gradient theta - theta_0
    orthogonality   sum |A A^T - I|^2 + |B^T B - I|^2    4 (A A^T - I) A and 4 B (B^T B - I)

Source: orthogonality as in AdaLoRA (Zhang et al. 2023, arXiv:2303.10512), eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tinsmith.core.errors import UserError
from tinsmith.engine.adapters import Adapter
from tinsmith.types import AdapterTerm, AdapterTermOutput, AdapterTermsResponse

__all__ = ["add_adapter_terms", "term_gradient"]


def add_adapter_terms(adapter: Adapter, terms: Sequence[AdapterTerm]) -> AdapterTermsResponse:
    """Add the terms' gradients, each times its weight, to the adapter's accumulated gradient.

    Raises:
        UserError: the sum is not finite; nothing was added.
    """
    total_grad = torch.zeros_like(adapter.flat.detach())
    outputs: list[AdapterTermOutput] = []
    for term in terms:
        value, grad = term_gradient(adapter, term.kind)
        total_grad.add_(grad, alpha=term.weight)
        norm = float(torch.linalg.vector_norm(grad, dtype=torch.float64))
        outputs.append(
            AdapterTermOutput(kind=term.kind, weight=term.weight, value=value, grad_norm=norm)
        )
    if not bool(torch.isfinite(total_grad).all()):
        raise UserError(
            "terms: their gradient is not finite; nothing was accumulated",
            field="terms",
            hint="lower their weights, or load an earlier checkpoint",
        )
    adapter.accumulate(total_grad)
    return AdapterTermsResponse(
        terms=outputs,
        total=sum(output.weight * output.value for output in outputs),
        total_grad_norm=float(torch.linalg.vector_norm(total_grad, dtype=torch.float64)),
    )


def term_gradient(adapter: Adapter, kind: str) -> tuple[float, Tensor]:
    """Value, and the gradient as a flat buffer of the caller's own."""
    flat = adapter.flat.detach()
    if kind == "orthogonality":
        return _orthogonality(adapter, flat)
    grad = flat - _first_weights(adapter) if kind == "anchor" else flat.clone()
    return 0.5 * float(grad.double().square().sum()), grad


def _orthogonality(adapter: Adapter, flat: Tensor) -> tuple[float, Tensor]:
    grad = torch.zeros_like(flat)
    value = 0.0
    eye = torch.eye(adapter.lora_config.rank, device=flat.device, dtype=flat.dtype)
    for shape in adapter.shapes:
        a, b = shape.views(flat)
        grad_a, grad_b = shape.views(grad)
        excess_a, excess_b = a @ a.T - eye, b.T @ b - eye
        value += float(excess_a.double().square().sum() + excess_b.double().square().sum())
        grad_a.copy_(4 * excess_a @ a)
        grad_b.copy_(4 * b @ excess_b)
    return value, grad


def _first_weights(adapter: Adapter) -> Tensor:
    """What the adapter's seed made: nothing has to be kept, and a resumed run has the same."""
    features = {s.name: (s.a_shape[1], s.b_shape[0]) for s in adapter.shapes}
    flat = adapter.flat
    first = Adapter.initialize(adapter.lora_config, features, device=flat.device, dtype=flat.dtype)
    return first.flat.detach()
