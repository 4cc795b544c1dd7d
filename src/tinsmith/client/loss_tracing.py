"""Turning a loss function of one datum into a graph that a service can check and run.

The function is called once by torch.fx with stand-ins for its arguments; what it does to them is
the loss. `trace_loss` returns the graph as it is uploaded and as it was checked: by the same rules
as a service's, so a loss that cannot be uploaded is refused here, at the line that makes it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tinsmith.algorithms.loss_graph import LossGraph, parse_loss_graph
from tinsmith.client.custom_loss import require_torch
from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.types import CustomLossGraph, CustomLossInput, CustomLossInputRank, CustomLossNode

if TYPE_CHECKING:
    import torch

    PerDatumLossFn = Callable[..., tuple[torch.Tensor, Mapping[str, torch.Tensor]]]
    """(logprobs, *inputs) -> (loss, metrics) of one datum; scalars, metrics named
    `custom/name:sum` or `custom/name:mean`."""
else:
    PerDatumLossFn = Callable[..., Any]

EXAMPLE = "for example: def loss(logprobs, weights)"


class TracedLoss(NamedTuple):
    """A loss function as data."""

    name: str
    inputs: tuple[CustomLossInput, ...]
    uploaded: CustomLossGraph
    checked: LossGraph


def trace_loss(fn: PerDatumLossFn, input_ranks: Mapping[str, CustomLossInputRank]) -> TracedLoss:
    """Trace a function and check what it does.

    Raises:
        MissingExtraError: torch is not installed.
        UserError: its parameters, or something that it does, cannot be part of a custom loss.
    """
    torch = require_torch()
    name = getattr(fn, "__name__", type(fn).__name__)
    inputs = _inputs(fn, input_ranks, name)
    import torch.fx as fx

    try:
        nodes = list(fx.symbolic_trace(fn).graph.nodes)
    except TinsmithError:
        raise
    except Exception as error:
        raise UserError(
            f"loss_fn {name!r}: torch.fx cannot trace it: {error}",
            field="fn",
            hint="use torch and math only, and no branch or loop over a tensor's values",
        ) from error
    uploaded = CustomLossGraph(nodes=[_encoded(node, name, torch) for node in nodes])
    declared = [item.model_dump() for item in inputs]
    checked = parse_loss_graph(name, declared, uploaded.model_dump())
    return TracedLoss(name, inputs, uploaded, checked)


def _inputs(
    fn: PerDatumLossFn, input_ranks: Mapping[str, CustomLossInputRank], name: str
) -> tuple[CustomLossInput, ...]:
    parameters = list(inspect.signature(fn).parameters.values())
    for parameter in parameters:
        is_plain = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        if not is_plain or parameter.default is not parameter.empty:
            raise UserError(
                f"loss_fn {name!r}: parameter {parameter.name!r} must be positional, "
                "without a default: each names an input that every datum has",
                field="fn",
                hint=EXAMPLE,
            )
    names = [parameter.name for parameter in parameters]
    if not names or names[0] != "logprobs":
        raise UserError(
            f"loss_fn {name!r}: its first parameter must be logprobs, then the loss_fn_inputs "
            f"that it reads; it takes ({', '.join(names)})",
            field="fn",
            hint=EXAMPLE,
        )
    if set(input_ranks) != set(names):
        raise UserError(
            f"input_ranks: must give the rank of each parameter of {name!r} "
            f"({', '.join(names)}); it gives {', '.join(sorted(input_ranks)) or 'none'}",
            field="input_ranks",
            hint="0: a number; 1: a value a token; 2: a row of values a token",
        )
    return tuple(CustomLossInput(name=key, rank=input_ranks[key]) for key in names)


def _encoded(node: Any, name: str, torch: Any) -> CustomLossNode:  # Any: torch.fx has no types
    from torch.fx.node import _get_qualified_name  # pyright: ignore[reportPrivateUsage] - the protocol's names are fx's

    target = str(node.target)
    if node.op == "call_function":
        target = _get_qualified_name(node.target)
        if target.startswith("_operator."):  # where CPython keeps the operator module's functions
            target = target.removeprefix("_")
    return CustomLossNode(
        op=node.op,
        name=str(node.name),
        target=target,
        args=[_argument(value, name, torch) for value in node.args],
        kwargs={key: _argument(value, name, torch) for key, value in node.kwargs.items()},
    )


def _argument(value: object, name: str, torch: Any) -> Any:  # Any: JSON
    """One argument as the protocol writes it."""
    if isinstance(value, torch.fx.Node):
        return {"ref": str(cast("Any", value).name)}  # Any: torch.fx has no types
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value

    def encode(item: object) -> object:
        return _argument(item, name, torch)

    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in cast("tuple[object, ...]", value)]}
    if isinstance(value, list):
        return [encode(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[object, object]", value).items()
        return {"dict": {str(key): encode(item) for key, item in items}}
    if isinstance(value, slice):
        parts = cast("slice[object, object, object]", value)
        return {"slice": [encode(part) for part in (parts.start, parts.stop, parts.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise UserError(
        f"loss_fn {name!r}: passes a {type(value).__name__} to an operation, which a custom loss "
        "cannot hold",
        field="fn",
        hint="compute with numbers and with the tensors that the function is given",
    )
