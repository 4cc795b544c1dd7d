"""Custom losses traced by torch.fx and written as the protocol writes them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
from torch.fx.node import _get_qualified_name

from tinsmith.algorithms.loss_graph import LossGraph, parse_loss_graph


def traced(fn: Callable[..., Any], **ranks: int) -> tuple[list[dict], dict]:
    """Inputs and graph of a function, as a client uploads them."""
    nodes = []
    for node in torch.fx.symbolic_trace(fn).graph.nodes:
        target = node.target
        if node.op == "call_function":
            name = _get_qualified_name(target)
            target = "operator." + name[10:] if name.startswith("_operator.") else name
        nodes.append(
            {
                "op": node.op,
                "name": node.name,
                "target": str(target),
                "args": [encoded(arg) for arg in node.args],
                "kwargs": {key: encoded(value) for key, value in node.kwargs.items()},
            }
        )
    inputs = [{"name": name, "rank": rank} for name, rank in ranks.items()]
    return inputs, {"format": 1, "nodes": nodes}


def encoded(arg: Any) -> Any:
    """One argument in the form of the wire."""
    if isinstance(arg, torch.fx.Node):
        return {"ref": arg.name}
    if isinstance(arg, tuple):
        return {"tuple": [encoded(item) for item in arg]}
    if isinstance(arg, list):
        return [encoded(item) for item in arg]
    if isinstance(arg, dict):
        return {"dict": {key: encoded(value) for key, value in arg.items()}}
    if isinstance(arg, slice):
        return {"slice": [encoded(part) for part in (arg.start, arg.stop, arg.step)]}
    if arg is Ellipsis:
        return {"ellipsis": True}
    if isinstance(arg, torch.dtype):
        return {"dtype": str(arg).removeprefix("torch.")}
    if isinstance(arg, torch.device):
        return {"device": str(arg)}
    if isinstance(arg, float) and str(arg) in ("inf", "-inf", "nan"):
        return {"float": str(arg)}
    return arg


def as_graph(fn: Callable[..., Any], **ranks: int) -> LossGraph:
    """A function, traced, uploaded and checked."""
    inputs, graph = traced(fn, **ranks)
    return parse_loss_graph("loss", inputs, graph)
