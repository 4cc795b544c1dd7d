"""Uploaded losses: a function of one datum's logprobs as a graph of named operations.

Nothing in a graph can be executed as it is: a service rebuilds it from its own list of operations.
"""

from __future__ import annotations

from typing import Any, Literal

from tinsmith.types._model import RequestModel, ResponseModel

__all__ = [
    "CreateCustomLossRequest",
    "CreateCustomLossResponse",
    "CustomLossGraph",
    "CustomLossInput",
    "CustomLossInputRank",
    "CustomLossNode",
]

CustomLossInputRank = Literal[0, 1, 2]
"""0: a number; 1: one value a token; 2: one row of values a token."""


class CustomLossInput(RequestModel):
    """One parameter of a loss."""

    name: str
    """`logprobs`, or a key of `loss_fn_inputs`."""
    rank: CustomLossInputRank
    """Of its value in every datum."""


class CustomLossNode(RequestModel):
    """One operation, as torch.fx records it."""

    op: Literal["placeholder", "get_attr", "call_function", "call_method", "call_module", "output"]
    name: str
    """Unique in the graph; later nodes refer to it."""
    target: str
    """A parameter, a function such as `torch.exp` or `operator.mul`, or a method."""
    args: list[Any] = []  # Any: JSON, checked by `algorithms.loss_graph`
    """Scalars and lists stand for themselves; all else is an object with one key: `ref` (a node),
    `tuple`, `dict`, `slice`, `ellipsis`, `float`, `dtype`, `device`."""
    kwargs: dict[str, Any] = {}  # Any: as `args`


class CustomLossGraph(RequestModel):
    """The operations of a loss, in the order in which they run."""

    format: Literal[1] = 1
    nodes: list[CustomLossNode]


class CreateCustomLossRequest(RequestModel):
    """Uploads a loss for the clients of one session."""

    session_id: str
    custom_loss_seq_id: int
    """Place among the session's losses, from 0; the same one sent again is the same loss."""
    name: str
    """For messages."""
    inputs: list[CustomLossInput]
    """In the order of the function's parameters, `logprobs` first."""
    graph: CustomLossGraph
    type: Literal["create_custom_loss"] = "create_custom_loss"


class CreateCustomLossResponse(ResponseModel):
    """The loss can be used."""

    loss_id: str
    """What `loss_fn_config` names it by, in the session that uploaded it."""
    type: Literal["create_custom_loss"] = "create_custom_loss"
