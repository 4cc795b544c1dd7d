"""Custom losses as data: a traced function of a datum's logprobs, checked before anything runs.

`parse_loss_graph` turns what a client uploads (the nodes of a torch.fx graph as JSON) into a
`LossGraph`, or says which node is not allowed and what would be. A graph can only name operations
of the lists in `loss_graph_operations`; it holds no code, no attribute access outside a list and no
text but a few options. `check_graph_inputs` checks a datum against the inputs that a graph
declares. No torch here, so that a process without it can refuse a graph; `loss_graph_run` runs one.

A node's arguments: JSON scalars and lists stand for themselves; an object has one key: `ref` (a
node), `tuple`, `slice`, `ellipsis`, `float`, `dtype` or `device`.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from tinsmith.algorithms.loss_graph_operations import (
    ATTRIBUTES,
    DTYPES,
    FUNCTIONS,
    KEYWORDS,
    METHODS,
    OPTIONS,
)
from tinsmith.algorithms.loss_inputs import check_targets
from tinsmith.core.errors import ConfigError, DataError

__all__ = [
    "MAX_INPUTS",
    "MAX_NODES",
    "Constant",
    "GraphInput",
    "GraphNode",
    "LossGraph",
    "Ref",
    "check_graph_inputs",
    "parse_loss_graph",
]

MAX_NODES = 1024
MAX_INPUTS = 16
MAX_METRICS = 64
MAX_ARGUMENTS = 64
"""Of one node, nested ones included."""
MAX_DEPTH = 4
"""Of nested arguments."""

_INPUT_NAME = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_NODE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_METRIC_NAME = re.compile(r"custom/[a-z0-9_./-]{1,64}:(sum|mean)")
_MAX_INT = 2**63 - 1
_FLOATS = ("inf", "-inf", "nan")

Kind = Literal["slice", "ellipsis", "dtype", "device"]


@dataclass(frozen=True)
class Ref:
    """The value of an earlier node."""

    name: str


@dataclass(frozen=True)
class Constant:
    """An argument that JSON has no form for."""

    kind: Kind
    value: Any = None
    """dtype: its name; slice: (start, stop, step), each an argument."""


@dataclass(frozen=True)
class GraphInput:
    """An input that a graph declares: `logprobs` first, then names of loss_fn_inputs."""

    name: str
    rank: int


@dataclass(frozen=True)
class GraphNode:
    """One operation on earlier nodes' values."""

    op: Literal["call_function", "call_method"]
    name: str
    target: str
    args: tuple[Any, ...]  # Any: scalars, Ref, Constant, and lists, tuples and dicts of them
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class LossGraph:
    """A checked custom loss of one datum; picklable, and nothing in it can be called."""

    name: str
    inputs: tuple[GraphInput, ...]
    nodes: tuple[GraphNode, ...]
    loss: Ref
    metrics: Mapping[str, Ref]


def parse_loss_graph(
    name: str, inputs: Iterable[Mapping[str, Any]], graph: Mapping[str, Any]
) -> LossGraph:
    """Check an upload and return what may run.

    Args:
        name: of the loss, for messages.
        inputs: `{"name", "rank"}` of each parameter, `logprobs` first.
        graph: `{"format": 1, "nodes": [...]}`.

    Raises:
        ConfigError: names the node and what is allowed.
    """
    declared = _parse_inputs(list(inputs))
    if graph.get("format", 1) != 1:
        raise _bad("graph.format", f"{graph.get('format')!r}: must be 1")
    nodes = graph.get("nodes")
    if not isinstance(nodes, list):
        raise _bad("graph.nodes", "must be a list of nodes")
    nodes = cast("list[object]", nodes)
    if not len(declared) < len(nodes) <= MAX_NODES:
        raise _bad(
            "graph.nodes",
            f"{len(nodes)} nodes: must be {len(declared) + 1}..{MAX_NODES}, an output and one "
            "placeholder for each input among them",
        )
    return _Parser(name, declared).parse(nodes)


def _parse_inputs(inputs: Sequence[Mapping[str, Any]]) -> tuple[GraphInput, ...]:
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise _bad("inputs", f"{len(inputs)} inputs: must be 1..{MAX_INPUTS}, logprobs first")
    found: list[GraphInput] = []
    for index, item in enumerate(inputs):
        name, rank = item.get("name"), item.get("rank")
        where = f"inputs.{index}"
        if not isinstance(name, str) or not _INPUT_NAME.fullmatch(name):
            raise _bad(where, f"name={_shown(name)}: must match {_INPUT_NAME.pattern}")
        if name in (other.name for other in found):
            raise _bad(where, f"name={name!r} stands twice")
        if (index == 0) != (name == "logprobs"):
            raise _bad(where, f"name={name!r}: the first input, and no other, must be 'logprobs'")
        lowest = 1 if name == "logprobs" else 0
        if isinstance(rank, bool) or not isinstance(rank, int) or not lowest <= rank <= 2:
            raise _bad(where, f"rank={_shown(rank)} of {name!r}: must be {lowest}..2")
        found.append(GraphInput(name, rank))
    ranks = {item.name: item.rank for item in found}
    if ranks.get("target_tokens", ranks["logprobs"]) != ranks["logprobs"]:
        raise _bad("inputs", "logprobs have the shape of target_tokens: their ranks must be equal")
    return tuple(found)


class _Parser:
    """Reads nodes in order; a node may refer to those before it only."""

    def __init__(self, name: str, inputs: tuple[GraphInput, ...]) -> None:
        self.name = name
        self.inputs = inputs
        self.known: set[str] = set()
        self.node = ""
        self.num_arguments = 0

    def parse(self, nodes: Sequence[object]) -> LossGraph:
        operations: list[GraphNode] = []
        for index, raw in enumerate(nodes):
            if not isinstance(raw, Mapping):
                raise _bad(f"graph.nodes.{index}", "must be an object")
            node = cast("Mapping[str, Any]", raw)
            name = node.get("name")
            if not isinstance(name, str) or not _NODE_NAME.fullmatch(name) or name in self.known:
                problem = f"name={_shown(name)}: must be a new name of letters, digits and _"
                raise _bad(f"graph.nodes.{index}", problem)
            self.node = name
            self.num_arguments = 0
            op = node.get("op")
            is_last = index == len(nodes) - 1
            if (op == "output") != is_last:
                raise self.bad("an output, and only that, must be the last node")
            if op == "output":
                return LossGraph(self.name, self.inputs, tuple(operations), *self.output(node))
            if (op == "placeholder") != (index < len(self.inputs)):
                raise self.bad(
                    f"the first {len(self.inputs)} nodes, and no others, must be placeholders of "
                    f"the inputs {', '.join(item.name for item in self.inputs)}"
                )
            if op == "placeholder":
                self.placeholder(node, self.inputs[index])
            else:
                operations.append(self.operation(node, op))
            self.known.add(name)
        raise AssertionError("the last node is an output")

    def placeholder(self, node: Mapping[str, Any], declared: GraphInput) -> None:
        if node.get("target") != declared.name or self.node != declared.name:
            raise self.bad(f"a placeholder here must have target and name {declared.name!r}")
        if node.get("args") or node.get("kwargs"):
            raise self.bad("a placeholder takes no arguments")

    def operation(self, node: Mapping[str, Any], op: object) -> GraphNode:
        target = node.get("target")
        if op not in ("call_function", "call_method"):
            raise self.bad(
                f"op={_shown(op)}: must be 'placeholder', 'call_function', 'call_method' or "
                "'output'"
            )
        table, what = (FUNCTIONS, "function") if op == "call_function" else (METHODS, "method")
        if not isinstance(target, str) or target not in table:
            raise self.unknown(what, target, table)
        raw_args, raw_kwargs = node.get("args", []), node.get("kwargs", {})
        if not isinstance(raw_args, list) or not isinstance(raw_kwargs, dict):
            raise self.bad("args must be a list and kwargs an object")
        raw_kwargs = cast("dict[object, object]", raw_kwargs)
        if target in ("getattr", "builtins.getattr"):
            return self.attribute(cast("list[object]", raw_args), len(raw_kwargs) > 0)
        args = tuple(self.argument(value, 0) for value in cast("list[object]", raw_args))
        kwargs: dict[str, Any] = {}  # Any: as GraphNode.kwargs
        for key, value in raw_kwargs.items():
            if not isinstance(key, str) or key not in KEYWORDS:
                raise self.unknown("keyword argument", key, KEYWORDS)
            if key in OPTIONS:
                if value not in OPTIONS[key]:
                    allowed = ", ".join(map(repr, OPTIONS[key]))
                    raise self.bad(f"{key}={_shown(value)}: must be one of {allowed}")
                kwargs[key] = value
            else:
                kwargs[key] = self.argument(value, 0)
        return GraphNode(cast("Any", op), self.node, target, args, kwargs)  # Any: checked above

    def attribute(self, args: Sequence[object], has_kwargs: bool) -> GraphNode:
        name = args[1] if len(args) == 2 else None
        if has_kwargs or not isinstance(name, str) or name not in ATTRIBUTES:
            allowed = ", ".join(sorted(ATTRIBUTES))
            shown = _shown(args[1]) if len(args) > 1 else "nothing"
            raise self.bad(f"getattr of {shown}: must be of a node, and one of {allowed}")
        value = self.argument(args[0], 0)
        return GraphNode("call_function", self.node, "getattr", (value, name))

    def output(self, node: Mapping[str, Any]) -> tuple[Ref, dict[str, Ref]]:
        args = node.get("args")
        shape = "must return (loss, metrics): a node, and a dict of nodes"
        if not isinstance(args, list) or len(cast("list[object]", args)) != 1:
            raise self.bad(shape)
        pair = cast("list[object]", args)[0]
        if isinstance(pair, Mapping):
            pair = cast("Mapping[str, object]", pair).get("tuple")
        if not isinstance(pair, list) or len(cast("list[object]", pair)) != 2:
            raise self.bad(shape)
        loss, metrics = cast("list[object]", pair)
        named = cast("dict[str, object]", metrics) if isinstance(metrics, dict) else {}
        raw_table = named.get("dict")
        if len(named) != 1 or not isinstance(raw_table, dict):
            raise self.bad(shape)
        table = cast("dict[object, object]", raw_table)
        if len(table) > MAX_METRICS:
            raise self.bad(f"{len(table)} metrics: at most {MAX_METRICS}")
        found: dict[str, Ref] = {}
        for key, value in table.items():
            if not isinstance(key, str) or not _METRIC_NAME.fullmatch(key):
                raise self.bad(f"metric {_shown(key)}: its name must match {_METRIC_NAME.pattern}")
            found[key] = self.ref(value, f"metric {key!r}")
        return self.ref(loss, "the loss"), found

    def ref(self, value: object, what: str) -> Ref:
        parsed = self.argument(value, 0)
        if not isinstance(parsed, Ref):
            raise self.bad(f"{what} must be a node, as {{'ref': name}}")
        return parsed

    def argument(self, value: object, depth: int) -> Any:  # Any: as GraphNode.args
        self.num_arguments += 1
        if self.num_arguments > MAX_ARGUMENTS:
            raise self.bad(f"more than {MAX_ARGUMENTS} arguments")
        if depth > MAX_DEPTH:
            raise self.bad(f"arguments nested more than {MAX_DEPTH} deep")
        if value is None or isinstance(value, (bool, float)):
            return value
        if isinstance(value, int):
            if abs(value) > _MAX_INT:
                raise self.bad(f"argument {_shown(value)}: must fit in 64 bits")
            return value
        if isinstance(value, list):
            return [self.argument(item, depth + 1) for item in cast("list[object]", value)]
        if isinstance(value, dict):
            items = list(cast("dict[object, object]", value).items())
            if len(items) == 1:
                return self.tagged(*items[0], depth + 1)
        raise self.bad(
            f"argument {_shown(cast('object', value))}: must be a number, true, false, null, a "
            "list, or an object with one of the keys ref, tuple, slice, ellipsis, float, dtype, "
            "device"
        )

    def tagged(self, key: object, value: object, depth: int) -> Any:  # Any: as GraphNode.args
        if key == "ref":
            if not isinstance(value, str) or value not in self.known:
                raise self.bad(f"ref {_shown(value)}: must name an earlier node")
            return Ref(value)
        if key in ("tuple", "slice") and isinstance(value, list):
            items = tuple(self.argument(item, depth) for item in cast("list[object]", value))
            if key == "tuple":
                return items
            if len(items) != 3:
                raise self.bad("a slice must have start, stop and step")
            return Constant("slice", items)
        if key == "ellipsis" and value is True:
            return Constant("ellipsis")
        if key == "float" and value in _FLOATS:
            return float(cast("str", value))
        if key == "dtype":
            name = value.removeprefix("torch.") if isinstance(value, str) else value
            if not isinstance(name, str) or name not in DTYPES:
                raise self.unknown("dtype", name, DTYPES)
            return Constant("dtype", name)
        if key == "device" and isinstance(value, str):
            return Constant("device")  # everything lies where the logprobs do, whatever it says
        raise self.bad(
            f"argument {{{_shown(key)}: {_shown(value)}}}: must be ref, tuple, slice, ellipsis, "
            "float ('inf', '-inf', 'nan'), dtype or device"
        )

    def unknown(self, what: str, name: object, known: Iterable[str]) -> ConfigError:
        names = list(known)
        near = difflib.get_close_matches(_shown(name), names, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else None
        error = self.bad(f"{what} {_shown(name)} is not among the {len(names)} allowed ones")
        return ConfigError(error.message, field=error.field, hint=hint)

    def bad(self, problem: str) -> ConfigError:
        return _bad("graph.nodes", f"node {self.node!r}: {problem}")


def check_graph_inputs(
    graph: LossGraph,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    num_tokens: int,
    vocab_size: int,
    datum_index: int,
) -> dict[str, npt.NDArray[Any]]:
    """A datum's `target_tokens` and the inputs that the graph reads; others are left alone.

    Raises:
        DataError: one is missing or of another rank than the graph declares, or a target is wrong.
    """
    ranks = {item.name: item.rank for item in graph.inputs}
    ranks["target_tokens"] = ranks.pop("logprobs")  # logprobs have the shape of the targets
    found: dict[str, npt.NDArray[Any]] = {}
    for name, rank in ranks.items():
        field = f"loss_fn_inputs.{name}"
        if rank == 0 and name in arrays and arrays[name].shape == (1,):
            found[name] = arrays[name].reshape(())  # on the wire a number is a list of one
            continue
        if name not in arrays:
            problem = f"missing; the loss {graph.name!r} reads {', '.join(sorted(ranks))}"
        elif arrays[name].ndim != rank:
            problem = f"rank {arrays[name].ndim}, the loss {graph.name!r} declares {rank}"
        else:
            found[name] = arrays[name]
            continue
        message = f"datum {datum_index}: {field}: {problem}"
        raise DataError(message, field=field, datum_index=datum_index)
    targets = found["target_tokens"]
    check_targets(targets, num_tokens=num_tokens, vocab_size=vocab_size, datum_index=datum_index)
    found["target_tokens"] = targets.astype(np.int64, copy=False)
    return found


def _bad(field: str, problem: str) -> ConfigError:
    return ConfigError(f"{field}: {problem}", field=field)


def _shown(value: object) -> str:
    """A value of any size and depth in a few words."""
    if isinstance(value, int) and abs(value) > _MAX_INT:
        return "a huge number"
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 80
    shortener.maxlevel = 2
    return shortener.repr(value)[:90]
