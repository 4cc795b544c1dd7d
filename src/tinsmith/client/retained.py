"""One forward instead of two, where the service keeps the forward's graph for the backward.

An extension of the protocol, which only services that announce `retained_forward` have. A graph's
name is the sequence number of its forward. Main names: `EXTENSION`, `CustomCall`, the paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from tinsmith.client.custom_loss import CustomLossFn
from tinsmith.client.errors import UnsupportedError
from tinsmith.regularizers.distributions import Width
from tinsmith.types import ForwardBackwardOutput

if TYPE_CHECKING:
    import torch

R = TypeVar("R")

EXTENSION = "retained_forward"
FORWARD_PATH = "ext/retained_forward"
MAX_DISTRIBUTION_CELLS = 2**23
"""Logprobs of distributions that the service tells in one answer."""
LARGEST_VOCABULARY = 2**18
"""Taken for that of a model whose vocabulary the service does not tell."""
MAX_GRAPHS_A_NORM = 8
"""A norm needs the gradient through all graphs of a call at once, so all its data in one request;
calls of more chunks have none."""
MAX_NORM_BYTES = 240 * 2**20
"""Of that one request, of which the service takes 256 MiB; a wider gradient has no norm."""


def forward_path(distribution: Width | None) -> str:
    """Keep the graph, and tell a distribution at each position."""
    return FORWARD_PATH if distribution is None else f"{FORWARD_PATH}?distribution={distribution}"


def max_positions(distribution: Width | None, vocab_size: int | None) -> int | None:
    """Positions of one request, so that their distributions fit in its answer; None: any number."""
    if distribution is None:
        return None
    width = (vocab_size or LARGEST_VOCABULARY) if distribution == "full" else distribution
    return MAX_DISTRIBUTION_CELLS // width


def backward_path(seq_id: int) -> str:
    """Add the gradient through the graph of one forward, or by an ordinary pass if it is gone."""
    return f"ext/retained_backward?graph={seq_id}&on_missing=recompute"


def norm_path(seq_ids: Sequence[int]) -> str:
    """Tell the norm of a gradient through the graphs of several forwards."""
    return f"ext/retained_backward?graph={','.join(map(str, seq_ids))}&accumulate=false"


def accumulated_norm(output: ForwardBackwardOutput) -> float | None:
    """Norm of everything added up to the last chunk of a backward; None where it is not told."""
    told = [v for k, v in output.metrics.items() if k.startswith("accumulated_grad_norm:unique")]
    return told[-1] if told else None


def without_graphs(output: ForwardBackwardOutput) -> ForwardBackwardOutput:
    """Without what only the extension answers."""
    own = ("grad_norm:unique", "accumulated_grad_norm:unique", "graph_reused:sum")
    metrics = {k: v for k, v in output.metrics.items() if not k.startswith(own)}
    return output.model_copy(update={"metrics": metrics})


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
    distribution: Width | None = None
    """What the loss takes as its third argument: the likeliest tokens of each position, or all."""
    distribution_terms: Sequence[str] = ()
    """Names of the terms that need it."""

    def check_offered(self, *, is_offered: bool, base_url: str) -> None:
        """Refuse a loss of distributions where the service tells none: nothing stands in for them.

        Raises:
            UnsupportedError: naming the terms.
        """
        if self.distribution is None or is_offered:
            return
        raise UnsupportedError(
            f"regularizers={list(self.distribution_terms)}: need distribution="
            f"{self.distribution!r}, and {base_url} does not offer the extension {EXTENSION!r}",
            field="regularizers",
            hint="give the datums targets of shape (N, K) and leave distribution out, or use an "
            "estimate from chosen tokens: SampledEntropy, KLEstimate",
        )
