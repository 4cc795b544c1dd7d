"""Terms on an adapter's own parameters, which need no data: an extension of the protocol."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tinsmith.types._model import RequestModel, ResponseModel

__all__ = ["AdapterTerm", "AdapterTermOutput", "AdapterTermsRequest", "AdapterTermsResponse"]

AdapterTermKind = Literal["weight_decay", "anchor", "orthogonality"]


class AdapterTerm(RequestModel):
    """`weight * value`, where the value is a function of the parameters A and B alone."""

    kind: AdapterTermKind
    """`weight_decay`: half of the squared norm. `anchor`: half of the squared distance to the
    adapter's first weights. `orthogonality`: over all layers ||A A^T - I||^2 + ||B^T B - I||^2."""
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AdapterTermsRequest(RequestModel):
    """Adds the gradients of terms to the accumulated one."""

    model_id: str
    seq_id: int | None = None
    terms: Annotated[list[AdapterTerm], Field(min_length=1, max_length=16)]
    type: Literal["ext/adapter_terms"] = "ext/adapter_terms"


class AdapterTermOutput(ResponseModel):
    """What one term came to."""

    kind: str
    weight: float
    value: float
    """Without its weight."""
    grad_norm: float
    """L2 norm of its gradient by the parameters, without its weight."""


class AdapterTermsResponse(ResponseModel):
    """What the terms came to."""

    terms: list[AdapterTermOutput]
    """In the order of the request."""
    total: float
    """Sum of weight times value."""
    total_grad_norm: float
    """L2 norm of the gradient that was added."""
    type: Literal["ext/adapter_terms"] | None = None
