"""One forward instead of two, where the service keeps the forward's graph for the backward.

An extension of the protocol, which only services that announce `retained_forward` have. A graph's
name is the sequence number of its forward. Main names: `EXTENSION`, `CustomCall`, the paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from tinsmith.client.custom_loss import CustomLossFn
from tinsmith.types import ForwardBackwardOutput

if TYPE_CHECKING:
    import torch

R = TypeVar("R")

EXTENSION = "retained_forward"
FORWARD_PATH = "ext/retained_forward"
MAX_GRAPHS_A_NORM = 8
"""A norm needs the gradient through all graphs of a call at once, so all its data in one request;
calls of more chunks have none."""


def backward_path(seq_id: int) -> str:
    """Add the gradient through the graph of one forward, or by an ordinary pass if it is gone."""
    return f"ext/retained_backward?graph={seq_id}&on_missing=recompute"


def norm_path(seq_ids: Sequence[int]) -> str:
    """Tell the norm of a gradient through the graphs of several forwards."""
    return f"ext/retained_backward?graph={','.join(map(str, seq_ids))}&accumulate=false"


def graphs_kept(output: ForwardBackwardOutput) -> bool:
    """Whether a forward left graphs behind; the service may have had no room."""
    return output.metrics.get("graph_bytes:sum", 0.0) > 0


@dataclass(frozen=True)
class CustomCall(Generic[R]):
    """A loss that is computed between a forward and a backward, and what its caller wants."""

    loss_fn: CustomLossFn
    finished: Callable[[ForwardBackwardOutput, Mapping[str, float | None]], R]
    """Makes the result of the backward's output and the norms."""
    was_sent: Callable[[], None] = field(default=lambda: None)
    """Is called when the gradient has been sent."""
    gradients: Callable[[], Mapping[str, Sequence[torch.Tensor]]] = field(default=dict)
    """Gradients by the logprobs whose norms by the parameters are wanted, by name."""
