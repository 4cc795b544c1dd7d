"""Running a checked custom loss on one datum, within bounds, on the CPU.

`graph_loss` makes a `LossSpec` of a `LossGraph`. Each node's cost is bounded from its arguments
before it is computed, and what torch refuses comes back as an error that names the node. Values may
be tensors, numbers, and tuples of those; nothing else can arise. The CPU, because an index out of
range is an error there and the end of the process on a GPU, and because logprobs are small.
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from tinsmith.algorithms.loss_graph import Constant, GraphNode, LossGraph, Ref
from tinsmith.algorithms.loss_graph_operations import FUNCTIONS, METHODS, Cost
from tinsmith.algorithms.losses import LossSpec, TokenLoss
from tinsmith.core.errors import UserError

__all__ = ["MAX_NODE_ELEMENTS", "budget", "graph_loss", "run_loss_graph"]

MAX_NODE_ELEMENTS = 2**24
"""Elements of one node's result."""

MAX_JOB_ELEMENTS = 2**30
"""Elements that all datums of one job may compute."""

_SORT_FACTOR = 8
_MAX_INT = 2**63 - 1

Value = Any  # Any: a tensor, a number, None, a dtype or device, or a list, tuple or slice of those
Operation = Callable[..., Value]


def budget(logprobs: Tensor) -> int:
    """Elements that all nodes of one datum may compute: many pairwise matrices, and no more."""
    return min(2**22 + 2**16 * logprobs.numel(), 2**27)


def graph_loss(graph: LossGraph) -> LossSpec:
    """The loss that a graph defines: summed over datums, with its metrics as diagnostics.

    Diagnostics keep the graph's names, `custom/name:sum` or `custom/name:mean`.
    """
    names = tuple(item.name for item in graph.inputs[1:])
    left = MAX_JOB_ELEMENTS

    def fn(
        logprobs: Tensor, inputs: Mapping[str, Tensor], config: Mapping[str, float]
    ) -> TokenLoss:
        nonlocal left
        del config
        allowed = min(left, budget(logprobs))
        loss, metrics, spent = run_loss_graph(graph, logprobs, inputs, allowed)
        left -= spent
        return loss, metrics

    return LossSpec(name="custom", required_inputs=names, fn=fn, separable=False)


def run_loss_graph(
    graph: LossGraph, logprobs: Tensor, inputs: Mapping[str, Tensor], allowed: int
) -> tuple[Tensor, dict[str, Tensor], int]:
    """The loss of one datum, its metrics, and the elements that were computed.

    Where `logprobs` want a gradient, the loss carries it: its backward pass cannot fail.

    Args:
        graph: what to run.
        logprobs: in the shape of the datum's targets.
        inputs: the datum's loss_fn_inputs that the graph reads; not written to.
        allowed: elements that may be computed.

    Raises:
        UserError: a node fails or costs too much, or the loss is no function of the logprobs.
    """
    leaf = logprobs.detach().cpu().clone().requires_grad_(logprobs.requires_grad)
    values: dict[str, Value] = {"logprobs": leaf}
    for item in graph.inputs[1:]:
        # Copies, so that whatever an operation did to its arguments would stay in here.
        values[item.name] = inputs[item.name].detach().cpu().clone()
    left = allowed
    for node in graph.nodes:
        with _Naming(graph, node.name):
            args, kwargs = _resolve(node.args, values), _resolve(dict(node.kwargs), values)
            kwargs = {key: value for key, value in kwargs.items() if key not in _DROPPED}
            left -= _checked_cost(node, args, kwargs, left)
            values[node.name] = _checked_value(_call(node, args, kwargs))
    with _Naming(graph, graph.loss.name):
        loss = _scalar(values[graph.loss.name], "the loss").double()
        metrics = {
            name: _scalar(values[ref.name], f"metric {name!r}").detach().double()
            for name, ref in graph.metrics.items()
        }
        if not logprobs.requires_grad:
            return loss.detach(), metrics, allowed - left
        if not loss.requires_grad:
            raise ValueError("the loss does not depend on logprobs")
        (gradient,) = torch.autograd.grad(loss, leaf)
    # A linear function with the loss's value and gradient stands in for the graph.
    gradient = gradient.to(logprobs)
    offset = loss.detach().to(logprobs.device)
    return offset + (gradient * (logprobs - logprobs.detach())).sum(), metrics, allowed - left


class _Naming:
    """Turns whatever goes wrong in a node into an error that names it."""

    def __init__(self, graph: LossGraph, node: str) -> None:
        self.where = f"custom loss {graph.name!r}: node {node!r}"

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # This is the boundary to a graph that a user wrote: torch may raise anything about it.
        if isinstance(error, Exception):
            lines = str(error).splitlines() or [type(error).__name__]
            raise UserError(f"{self.where}: {lines[0][:300]}", field="loss_fn_config") from error


_DROPPED = ("device", "layout", "out", "requires_grad", "inplace", "_stacklevel")
"""Keyword arguments that mean nothing here; only values that change nothing pass the check."""


def _resolve(argument: Value, values: Mapping[str, Value]) -> Value:
    if isinstance(argument, Ref):
        return values[argument.name]
    if isinstance(argument, Constant):
        if argument.kind == "dtype":
            return getattr(torch, argument.value)
        if argument.kind == "slice":
            return slice(*(_resolve(part, values) for part in argument.value))
        return ... if argument.kind == "ellipsis" else torch.device("cpu")
    if isinstance(argument, (list, tuple)):
        items = [_resolve(item, values) for item in cast("list[Value]", argument)]
        return tuple(items) if isinstance(argument, tuple) else items
    if isinstance(argument, dict):
        table = cast("dict[str, Value]", argument)
        return {key: _resolve(value, values) for key, value in table.items()}
    return argument


def _call(node: GraphNode, args: tuple[Value, ...], kwargs: dict[str, Value]) -> Value:
    operands = _leaves((*args, *kwargs.values()), (Tensor, int, float))
    if kwargs.get("rounding_mode") == "trunc" and all(map(_is_whole, operands)):
        # The least whole number by -1 ends the process: torch divides by the machine's instruction.
        raise TypeError("rounding_mode='trunc' takes no whole numbers; use 'floor' or floats")
    if node.target == "torch.where" and len(args) + len(kwargs) < 3:
        # Of a condition alone it is the places that hold: ndim whole numbers for each of them.
        raise TypeError("where takes a condition and two values")
    if kwargs and not (node.op == "call_method" or node.target.startswith("torch.")):
        raise TypeError(f"{node.target} takes no keyword arguments")
    if node.op == "call_method":
        if not args or not isinstance(args[0], Tensor):
            raise TypeError("a method needs a tensor")
        return getattr(torch.Tensor, node.target)(*args, **kwargs)
    return _functions()[node.target](*args, **kwargs)


@functools.cache
def _functions() -> dict[str, Operation]:
    """The functions by name; the names are those of the list, never a user's."""
    table: dict[str, Operation] = {}
    for target in FUNCTIONS:
        module, _, name = target.rpartition(".")
        if module == "operator":
            table[target] = functools.partial(_operate, _operator(name))
        elif name == "getattr":
            table[target] = _attribute
        elif module == "math":
            table[target] = functools.partial(_calculate, getattr(math, name))
        else:
            owner = functools.reduce(getattr, module.split(".")[1:], torch)
            table[target] = getattr(owner, name)
    return table


def _operator(name: str) -> Operation:
    # In place on a copy is out of place: x += y gives a new value and leaves x alone.
    plain = name[1:] if name.startswith("i") and hasattr(operator, name[1:]) else name
    return getattr(operator, plain)


def _operate(function: Operation, *args: Value) -> Value:
    """An operator of tensors and numbers; of sequences only indexing, so that none can grow."""
    if function is operator.getitem:
        if len(args) != 2 or not isinstance(args[0], (Tensor, tuple, list)):
            raise TypeError("only tensors and tuples can be indexed")
        return operator.getitem(*args)
    if not all(isinstance(arg, (Tensor, int, float)) for arg in args):
        raise TypeError("operands must be tensors or numbers")
    if (
        function is _operator("pow")
        and all(isinstance(arg, int) for arg in args)
        and len(args) == 2
    ):
        base, exponent = args
        if abs(base) > 1 and exponent > 64:
            raise OverflowError("the result does not fit in 64 bits")
    return function(*args)


def _calculate(function: Operation, *args: Value) -> Value:
    if not all(isinstance(arg, (int, float)) for arg in args):
        raise TypeError("math functions take numbers, torch functions take tensors")
    return function(*args)


def _attribute(value: Value, name: str) -> Value:
    if isinstance(value, tuple) and name in ("values", "indices"):
        pair = cast("tuple[Value, ...]", value)
        return pair[("values", "indices").index(name)]
    if not isinstance(value, Tensor) or name in ("values", "indices"):
        raise TypeError(f"no {name} here")
    if name == "shape":
        return tuple(value.shape)
    return {
        "ndim": lambda: value.ndim,
        "dtype": lambda: value.dtype,
        "device": lambda: value.device,
        "T": value.t,
        "mT": lambda: value.mT,
    }[name]()


def _checked_value(value: Value) -> Value:
    """The value, tuples without their names.

    Raises:
        TypeError: neither a tensor nor a number, nor a tuple of those.
    """
    if isinstance(value, Tensor):
        if value.is_complex() or value.layout != torch.strided:
            raise TypeError("complex and sparse tensors are not supported")
        if _extent(value) > MAX_NODE_ELEMENTS:
            raise ValueError(f"{_extent(value)} elements, at most {MAX_NODE_ELEMENTS} are allowed")
        return value
    if isinstance(value, tuple):
        return tuple(_checked_value(item) for item in cast("tuple[Value, ...]", value))
    if isinstance(value, bool) or value is None or isinstance(value, (float, torch.dtype)):
        return value
    if isinstance(value, torch.device):
        return value
    if isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise OverflowError("the result does not fit in 64 bits")
        return value
    if isinstance(value, list):  # a sublist of an argument list
        return [_checked_value(item) for item in cast("list[Value]", value)]
    raise TypeError(f"a {type(value).__name__} is no value of a custom loss")


def _scalar(value: Value, what: str) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 0:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{what} must be a scalar tensor, not {shape}")
    return value


def _checked_cost(
    node: GraphNode, args: tuple[Value, ...], kwargs: Mapping[str, Value], left: int
) -> int:
    """Elements that the node computes at most.

    Raises:
        ValueError: more than one node may, or than are left.
    """
    kind = (FUNCTIONS if node.op == "call_function" else METHODS)[node.target]
    cost = max(_cost(node, kind, args, kwargs), 1)
    if cost > MAX_NODE_ELEMENTS and kind is not Cost.SORT:
        raise ValueError(f"up to {cost} elements, at most {MAX_NODE_ELEMENTS} are allowed")
    if cost > left:
        raise ValueError("the loss computes too many elements for a datum of this length")
    return cost


def _cost(node: GraphNode, kind: Cost, args: tuple[Value, ...], kwargs: Mapping[str, Value]) -> int:
    everything = (*args, *kwargs.values())
    tensors = list(_leaves(everything, Tensor))
    sizes = [_extent(tensor) for tensor in tensors]
    if kind is Cost.BROADCAST:
        return _broadcast(tensors) if len(tensors) > 1 else sum(sizes)
    if kind is Cost.SHAPE:
        has_tensor = node.op == "call_method" or node.target == "torch.broadcast_to"
        return _shape_cost(args, kwargs, has_tensor=has_tensor)
    if kind is Cost.OUTER:
        return math.prod(sizes)
    if kind is Cost.RANGE:
        if tensors:
            raise TypeError("a range takes numbers, not tensors")
        numbers = [float(n) for n in _leaves(everything, (int, float))]
        step = min((abs(n) for n in numbers if n), default=1.0)
        extent = sum(map(abs, numbers)) / min(step, 1.0)
        if not extent < MAX_NODE_ELEMENTS:
            raise ValueError("the range is too long")
        return int(extent) + 1
    if kind is Cost.PRODUCT:
        # An upper bound of rows times inner times columns (and batches) for any two tensors.
        first, second = (*tensors, *[torch.zeros(())] * 2)[:2]
        inner = min((*first.shape[-1:], *second.shape[-2:]), default=1)
        return max(_extent(first) * _extent(second) // max(inner, 1), sum(sizes))
    if kind is Cost.SELECT:
        # Keywords may put the indices first.
        first, second = (*tensors, *[torch.zeros(1)] * 2)[:2]
        return max(
            _extent(source) // max(min(source.shape, default=1), 1) * _extent(index)
            for source, index in ((first, second), (second, first))
        )
    if kind is Cost.ITEM:
        return _index_cost(args)
    return sum(sizes) * (_SORT_FACTOR if kind is Cost.SORT else 1)


def _shape_cost(args: tuple[Value, ...], kwargs: Mapping[str, Value], *, has_tensor: bool) -> int:
    """Elements of a result whose sizes stand among the arguments; -1 keeps a tensor's size."""
    tensor = kwargs.get("input", args[0] if args else None) if has_tensor else None
    rest = args[1:] if has_tensor and "input" not in kwargs else args
    given = kwargs.get("size", kwargs.get("shape"))
    listed: list[Value] = [arg for arg in (given, *rest) if isinstance(arg, (list, tuple))]
    asked = listed[0] if listed else (given, *rest)
    if next(_leaves(asked, Tensor), None) is not None:  # torch would read its value as a size
        raise TypeError("sizes must be numbers, not tensors")
    sizes = list(_leaves(asked, int))
    shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else ()
    kept = (1,) * (len(sizes) - len(shape)) + shape
    wanted = zip(sizes, kept[len(kept) - len(sizes) :], strict=False)
    return math.prod(max(size if size >= 0 else old, 1) for size, old in wanted)


def _extent(tensor: Tensor) -> int:
    """Its elements; a dimension of 0 counts as 1, for a sum over it leaves all of the others."""
    return math.prod(max(size, 1) for size in tensor.shape)


def _is_whole(value: Tensor | float) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point()
    return isinstance(value, int)


def _broadcast(tensors: list[Tensor]) -> int:
    width = max(tensor.ndim for tensor in tensors)
    shapes = [(1,) * (width - tensor.ndim) + tuple(tensor.shape) for tensor in tensors]
    return math.prod(max(*sizes, 1) for sizes in zip(*shapes, strict=True))


def _index_cost(args: tuple[Value, ...]) -> int:
    """Elements of value[index], where one part of the index may be a tensor or a list."""
    if len(args) != 2 or not isinstance(args[0], Tensor):
        return 1
    value, index = args
    parts = cast("tuple[Value, ...]", index if isinstance(index, tuple) else (index,))
    if any(isinstance(part, bool) for part in parts):
        raise TypeError("an index may not be true or false")
    places = [i for i, part in enumerate(parts) if isinstance(part, (Tensor, list))]
    if not places:
        return _extent(value)
    if len(places) > 1:
        raise ValueError("at most one index may be a tensor or a list")
    picked = torch.as_tensor(parts[places[0]])
    if picked.dtype == torch.bool:
        return _extent(value)
    before, num_after = parts[: places[0]], len(parts) - places[0] - 1
    dim = sum(part is not None for part in before)
    if any(part is ... for part in before):
        dim = value.ndim - 1 - num_after
    if not 0 <= dim < value.ndim:
        raise IndexError("too many indices")
    return _extent(value) // max(value.shape[dim], 1) * _extent(picked)


def _leaves(value: Value, kind: type | tuple[type, ...]) -> Iterator[Any]:
    """The values of a kind in nested lists, tuples and dicts; booleans are no numbers."""
    if isinstance(value, (list, tuple)):
        for item in cast("list[Value]", value):
            yield from _leaves(item, kind)
    elif isinstance(value, kind) and not isinstance(value, builtins.bool):
        yield value
