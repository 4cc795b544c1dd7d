"""Custom-loss graphs: what tracing gives is accepted and computed; everything else is refused."""

import json
import math
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.node import _get_qualified_name
from torch.nn import functional

from tests.unit.algorithms.traced_graphs import as_graph
from tinsmith.algorithms import loss_graph_run
from tinsmith.algorithms.loss_graph import MAX_NODES, check_graph_inputs, parse_loss_graph
from tinsmith.algorithms.loss_graph_operations import ATTRIBUTES, FUNCTIONS, KEYWORDS, METHODS
from tinsmith.algorithms.loss_graph_run import budget, graph_loss, run_loss_graph
from tinsmith.core.errors import ConfigError, DataError, TinsmithError, UserError

Loss = Callable[..., tuple[Tensor, dict[str, Tensor]]]

UPLOAD = json.loads("""
{"inputs":[{"name":"logprobs","rank":1},{"name":"weights","rank":1}],
 "graph":{"format":1,"nodes":[
  {"op":"placeholder","name":"logprobs","target":"logprobs","args":[],"kwargs":{}},
  {"op":"placeholder","name":"weights","target":"weights","args":[],"kwargs":{}},
  {"op":"call_function","name":"mul","target":"operator.mul",
   "args":[{"ref":"logprobs"},{"ref":"weights"}],"kwargs":{}},
  {"op":"call_method","name":"sum_1","target":"sum","args":[{"ref":"mul"}],"kwargs":{}},
  {"op":"call_function","name":"neg","target":"operator.neg","args":[{"ref":"sum_1"}],"kwargs":{}},
  {"op":"call_method","name":"exp","target":"exp","args":[{"ref":"logprobs"}],"kwargs":{}},
  {"op":"call_method","name":"clamp","target":"clamp","args":[{"ref":"exp"},0.1,2.0],"kwargs":{}},
  {"op":"call_function","name":"getitem","target":"operator.getitem",
   "args":[{"ref":"clamp"},{"slice":[1,null,null]}],"kwargs":{}},
  {"op":"call_method","name":"mean","target":"mean","args":[{"ref":"getitem"}],"kwargs":{}},
  {"op":"output","name":"output","target":"output",
   "args":[{"tuple":[{"ref":"neg"},{"dict":{"custom/neg_ll:sum":{"ref":"neg"},
    "custom/m:mean":{"ref":"mean"}}}]}],"kwargs":{}}]}}
""")


def test_an_upload_of_the_protocol_runs() -> None:
    graph = parse_loss_graph("neg_ll", UPLOAD["inputs"], UPLOAD["graph"])
    lp = torch.tensor([-1.0, -2.0, -0.1], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    loss, metrics, spent = run_loss_graph(graph, lp, {"weights": weights}, budget(lp))
    loss.backward()
    assert loss.item() == pytest.approx(2.2, rel=1e-12)
    assert lp.grad is not None
    assert lp.grad.tolist() == [-1.0, -0.5, -2.0]
    assert metrics["custom/neg_ll:sum"].item() == pytest.approx(2.2, rel=1e-12)
    mean = (math.exp(-2.0) + math.exp(-0.1)) / 2
    assert metrics["custom/m:mean"].item() == pytest.approx(mean, rel=1e-12)
    assert 0 < spent < 40


def test_a_graph_is_data_that_pickles() -> None:
    graph = parse_loss_graph("neg_ll", UPLOAD["inputs"], UPLOAD["graph"])
    assert pickle.loads(pickle.dumps(graph)) == graph


def _ppo(logprobs, logprobs_old, advantages):  # unannotated, as people write them
    ratio = torch.exp(logprobs - logprobs_old)
    loss = -torch.minimum(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages)
    clipped = torch.logical_or(ratio < 0.8, ratio > 1.2).float().mean()
    return loss.sum(), {"custom/clipped:mean": clipped, "custom/kl:sum": (-logprobs + 1).sum()}


def _pairwise(logprobs, logprobs_old, advantages):  # unannotated, as people write them
    gap = (logprobs - logprobs_old.detach()).unsqueeze(1)
    outer = torch.nn.functional.softplus(gap - gap.t()) * (advantages > 0).unsqueeze(0)
    best = logprobs.max(dim=0)
    scale = torch.ones(logprobs.shape[0], dtype=torch.float32).sum()
    x = outer.mean() * math.sqrt(2.0) + best.values * 0.5
    x += functional.log_softmax(logprobs, dim=0)[0]
    x = x + torch.where(advantages != 0, logprobs**2, torch.zeros_like(logprobs)).sum() / scale
    x = x + logprobs[::2].pow(2).sum() + logprobs[[0, -1]].sum() + logprobs[advantages > 0].sum()
    y = torch.stack([logprobs, logprobs_old], dim=-1).logsumexp(-1).cumsum(0)[..., None].squeeze(-1)
    z = logprobs.to(torch.float64).sort(descending=True)[0][0]
    return x + y.norm() + z, {}


@pytest.mark.parametrize("fn", [_ppo, _pairwise])
def test_traced_losses_equal_autograd_of_the_function_itself(fn: Loss) -> None:
    graph = as_graph(fn, logprobs=1, logprobs_old=1, advantages=1)
    generator = torch.Generator().manual_seed(1)
    lp, q, a = (torch.randn(7, generator=generator, dtype=torch.float64) for _ in range(3))
    inputs = {"logprobs_old": q, "advantages": a}
    copies = {name: value.clone() for name, value in inputs.items()}

    ours = lp.clone().requires_grad_()
    loss, metrics, _ = run_loss_graph(graph, ours, inputs, budget(lp))
    (gradient,) = torch.autograd.grad(loss, ours)
    theirs = lp.clone().requires_grad_()
    expected, expected_metrics = fn(theirs, q, a)
    (expected_gradient,) = torch.autograd.grad(expected, theirs)

    torch.testing.assert_close(loss, expected.double(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-12)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        torch.testing.assert_close(metrics[name], value.detach().double())
    assert all(torch.equal(inputs[name], copies[name]) for name in inputs)


def test_every_listed_operation_exists_and_no_listed_name_is_dangerous() -> None:
    for target in set(FUNCTIONS) - {"getattr", "builtins.getattr"}:
        function = loss_graph_run._functions()[target]
        assert callable(function)
        module = target.rpartition(".")[0]
        if module == "torch" or module.startswith("torch."):
            assert _get_qualified_name(function) == target, "torch.fx writes another name"
        elif module == "operator":
            assert hasattr(__import__("operator"), target.rpartition(".")[2])
    for name in METHODS:
        assert callable(getattr(Tensor, name))
        assert not name.startswith("_")
        assert not name.endswith("_")
    dangerous = "item numpy tolist backward register_hook data_ptr share_memory apply_ map_ storage"
    assert not METHODS.keys() & set(dangerous.split())
    assert all(not name.startswith("__") for name in ATTRIBUTES | KEYWORDS)
    assert not ATTRIBUTES & {"data", "grad", "grad_fn"}


def _node(**changes: Any) -> dict:
    base = {"op": "call_method", "name": "n", "target": "sum", "args": [{"ref": "logprobs"}]}
    return base | changes


def upload(*nodes: dict, output: Any = None, rank: int = 1) -> dict:
    loss = {"tuple": [{"ref": nodes[-1].get("name", "n") if nodes else "logprobs"}, {"dict": {}}]}
    return {
        "inputs": [{"name": "logprobs", "rank": rank}],
        "graph": {
            "format": 1,
            "nodes": [
                {"op": "placeholder", "name": "logprobs", "target": "logprobs"},
                *nodes,
                {"op": "output", "name": "output", "args": [loss] if output is None else output},
            ],
        },
    }


DEEP: Any = 1
for _ in range(50_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (_node(op="call_function", target="os.system", args=["ls"]), "function 'os.system' is not"),
        (_node(op="call_function", target="builtins.eval"), "'builtins.eval' is not among"),
        (_node(op="call_function", target="torch.load"), "function 'torch.load' is not among"),
        (_node(op="call_function", target="torch.from_file"), "'torch.from_file' is not"),
        (_node(op="call_function", target="torch.rand", args=[3]), "'torch.rand' is not among"),
        (_node(op="call_function", target="operator.attrgetter"), "operator.attrgetter' is not"),
        (_node(op="call_function", target="operator.setitem"), "operator.setitem' is not"),
        (_node(op="call_function", target="operator.methodcaller"), "methodcaller' is not"),
        (_node(op="call_function", target="math.factorial", args=[9]), "factorial' is not among"),
        (_node(op="call_function", target=["torch.sum"]), r"function \['torch.sum'\] is not"),
        (_node(target="item"), "method 'item' is not among"),
        (_node(target="backward"), "method 'backward' is not among"),
        (_node(target="add_"), "method 'add_' is not among the .*; did you mean"),
        (_node(target="__reduce__"), "method '__reduce__' is not among"),
        (_node(target="register_hook"), "method 'register_hook' is not"),
        (_node(op="call_module", target="m"), "op='call_module': must be"),
        (_node(op="get_attr", target="weight"), "op='get_attr': must be"),
        (_node(kwargs={"out": {"ref": "logprobs"}}), r"out=.*: must be one of None"),
        (_node(kwargs={"requires_grad": True}), "requires_grad=True: must be one of False"),
        (_node(kwargs={"generator": None}), "keyword argument 'generator' is not among"),
        (_node(args=["logprobs"]), "argument 'logprobs': must be a number"),
        (_node(args=[{"ref": "later"}]), "ref 'later': must name an earlier node"),
        (_node(args=[{"ref": "n"}]), "ref 'n': must name an earlier node"),
        (_node(args=[{"dtype": "complex64"}]), "dtype 'complex64' is not among"),
        (_node(args=[{"layout": "strided"}]), "must be ref, tuple, slice"),
        (_node(args=[{"slice": [1, 2]}]), "a slice must have start, stop and step"),
        (_node(args=[{"float": "1e5"}]), "float .'inf', '-inf', 'nan'."),
        (_node(args=[10**30]), "a huge number: must fit in 64 bits"),
        (_node(args=[[1] * 100]), "more than 64 arguments"),
        (_node(args=[DEEP]), "nested more than 4 deep"),
        (_node(args={}), "args must be a list"),
        (_node(name="logprobs"), "must be a new name"),
        (_node(name="a.b"), "must be a new name of letters"),
        (_node(op="placeholder"), "the first 1 nodes, and no others, must be placeholders"),
        (_node(op="output"), "an output, and only that, must be the last node"),
        (
            _node(op="call_function", target="getattr", args=[{"ref": "logprobs"}, "__class__"]),
            "getattr of '__class__': must be of a node, and one of T, device",
        ),
        (
            _node(
                op="call_function", target="builtins.getattr", args=[{"ref": "logprobs"}, "grad"]
            ),
            "getattr of 'grad'",
        ),
        (_node(op="call_function", target="getattr", args=[]), "getattr of nothing"),
        (_node(op="call_function", target="getattr", args=[1, [[]]]), "getattr of .*must be of"),
        (_node(args=[{"dtype": DEEP}]), "dtype .* is not among"),
        (_node(args=[{"what": DEEP}]), "must be ref, tuple, slice"),
        (_node(kwargs={"reduction": DEEP}), "reduction=.*must be one of 'none', 'mean', 'sum'"),
        (_node(op=DEEP), "op=.*must be"),
        (_node(name=DEEP), "must be a new name"),
        (_node(target=DEEP), "is not among"),
    ],
)
def test_what_is_not_allowed_is_refused_by_node(node: dict, message: str) -> None:
    body = upload(node)
    with pytest.raises(ConfigError, match=message) as caught:
        parse_loss_graph("bad", body["inputs"], body["graph"])
    assert (caught.value.field or "").startswith("graph.nodes")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([{"ref": "n"}], r"must return \(loss, metrics\)"),
        ([{"tuple": [{"ref": "n"}]}], r"must return \(loss, metrics\)"),
        ([{"tuple": [1.0, {"dict": {}}]}], "the loss must be a node"),
        ([{"tuple": [{"ref": "n"}, {"dict": {"loss:sum": {"ref": "n"}}}]}], "metric 'loss:sum'"),
        ([{"tuple": [{"ref": "n"}, {"dict": {"custom/a:max": {"ref": "n"}}}]}], "custom/a:max"),
        ([{"tuple": [{"ref": "n"}, {"dict": {"custom/a:sum": 1}}]}], "metric .* must be a node"),
    ],
)
def test_bad_outputs_are_refused(output: Any, message: str) -> None:
    body = upload(_node(), output=output)
    with pytest.raises(ConfigError, match=rf"node 'output': .*{message}"):
        parse_loss_graph("bad", body["inputs"], body["graph"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "0 inputs: must be 1..16"),
        ([{"name": "weights", "rank": 1}], "the first input, and no other, must be 'logprobs'"),
        ([{"name": "logprobs", "rank": 0}], "rank=0 of 'logprobs': must be 1..2"),
        ([{"name": "logprobs", "rank": True}], "rank=True"),
        ([{"name": "logprobs", "rank": 1}, {"name": "A", "rank": 1}], "name='A': must match"),
        ([{"name": "logprobs", "rank": 1}] * 2, "name='logprobs' stands twice"),
        (
            [{"name": "logprobs", "rank": 1}, {"name": "target_tokens", "rank": 2}],
            "their ranks must be equal",
        ),
    ],
)
def test_bad_inputs_are_refused(inputs: list[dict], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_loss_graph("bad", inputs, upload(_node())["graph"])


def test_graphs_are_bounded_in_nodes_and_need_their_parts() -> None:
    many = [_node(name=f"n{i}") for i in range(MAX_NODES)]
    for graph, message in (
        (upload(*many)["graph"], "1026 nodes: must be 2..1024"),
        ({"format": 2, "nodes": []}, "graph.format: 2: must be 1"),
        ({"format": 1}, "must be a list of nodes"),
        ({"format": 1, "nodes": [1, 2]}, "must be an object"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_loss_graph("bad", upload(_node())["inputs"], graph)


def run_nodes(
    *nodes: dict, length: int = 4, rank: int = 1
) -> tuple[Tensor, dict[str, Tensor], int]:
    body = upload(*nodes, rank=rank)
    graph = parse_loss_graph("bad", body["inputs"], body["graph"])
    lp = torch.linspace(-2, -1, length, dtype=torch.float64)
    lp = (lp[:, None].repeat(1, 3) if rank == 2 else lp).requires_grad_()
    return run_loss_graph(graph, lp, {}, budget(lp))


def fn(target: str, *args: Any, name: str = "n", **kwargs: Any) -> dict:
    return _node(op="call_function", target=target, args=list(args), name=name, kwargs=kwargs)


LP = {"ref": "logprobs"}
N0 = {"ref": "n0"}
BIG = fn("torch.full", [], 2**26, dtype={"dtype": "int64"}, name="n0")
"""A tensor of one whole number, which torch takes wherever it takes a number."""


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([fn("torch.zeros", 10**12)], "up to 1000000000000 elements, at most 16777216"),
        ([fn("torch.full", {"tuple": [10**6, 10**6]}, 1.0)], "up to 1000000000000 elements"),
        ([fn("torch.arange", 10**12)], "range is too long"),
        ([fn("torch.arange", 0, 1, 1e-12)], "range is too long"),
        ([_node(target="expand", args=[LP, 10**9, -1])], "up to 4000000000 elements"),
        ([fn("torch.broadcast_to", LP, {"tuple": [10**9, 4]})], "up to 4000000000 elements"),
        # What torch would read a tensor's value as a size for.
        ([BIG, fn("torch.zeros", N0)], "sizes must be numbers, not tensors"),
        ([BIG, fn("torch.ones", size={"tuple": [N0, 2]})], "sizes must be numbers, not tensors"),
        ([BIG, fn("torch.full", [N0], 1.0)], "sizes must be numbers, not tensors"),
        ([BIG, _node(target="new_zeros", args=[N0, N0])], "sizes must be numbers, not tensors"),
        ([BIG, fn("torch.arange", N0)], "a range takes numbers, not tensors"),
        # A sum over a dimension of 0 leaves the others.
        ([fn("torch.zeros", 0, 2**26)], "up to 67108864 elements"),
        ([_node(target="new_ones", args=[LP, [2**26, 0]])], "up to 67108864 elements"),
        (
            [
                fn("torch.ones", 2**13, 0, name="n0"),
                _node(target="t", name="n1", args=[N0]),
                fn("torch.matmul", N0, {"ref": "n1"}),
            ],
            "up to 67108864 elements",
        ),
        (
            [
                fn("torch.zeros", 2**13, 1, name="n0"),
                _node(target="t", name="n1", args=[N0]),
                fn("torch.max", N0, {"ref": "n1"}),
            ],
            "up to 67108864 elements",
        ),
        (
            [
                fn("torch.zeros", 1, 2**13, name="n0"),
                fn("torch.zeros", 2**13, dtype={"dtype": "int64"}, name="n1"),
                fn("torch.index_select", index={"ref": "n1"}, input=N0, dim=0),
            ],
            "up to 67108864 elements",
        ),
        ([fn("operator.getitem", LP, {"tuple": [True, [0]]})], "may not be true or false"),
        ([fn("torch.where", LP)], "where takes a condition and two values"),
        (
            [BIG, fn("torch.div", N0, -1, rounding_mode="trunc")],
            "rounding_mode='trunc' takes no whole numbers",
        ),
        ([fn("operator.pow", 10, 10**9)], "does not fit in 64 bits"),
        ([fn("operator.mul", 2**62, 4)], "does not fit in 64 bits"),
        ([fn("operator.mul", [1], 10**12)], "operands must be tensors or numbers"),
        ([fn("operator.pow", -1.0, 0.5)], "complex is no value"),
        ([fn("operator.floordiv", 1, 0)], "by zero"),
        ([fn("math.exp", 1e6)], "range error"),
        ([fn("math.exp", 1.0, dim=0)], "math.exp takes no keyword arguments"),
        ([fn("math.exp", LP)], "math functions take numbers"),
        ([fn("operator.getitem", LP, 99)], "out of bounds"),
        ([fn("operator.getitem", LP, {"tuple": [[0], [0]]})], "at most one index"),
        ([fn("operator.getitem", 3, 0)], "only tensors and tuples can be indexed"),
        ([fn("torch.sum", 3)], "argument 'input'"),
        ([_node(target="sum", args=[1.0])], "a method needs a tensor"),
        ([fn("getattr", LP, "values")], "no values here"),
        ([fn("torch.matmul", LP, {"float": "inf"})], "must be Tensor"),
        ([_node(target="detach", name="d"), _node(args=[{"ref": "d"}])], "does not depend on"),
        ([_node(target="exp")], "the loss must be a scalar tensor, not .4,."),
        ([fn("operator.getitem", {"ref": "s"}, 0)], "must be a scalar tensor, not int"),
    ],
)
def test_what_fails_or_costs_too_much_is_an_error_that_names_the_node(
    nodes: list[dict], message: str
) -> None:
    shape = fn("getattr", LP, "shape", name="s")
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"custom loss 'bad': node '\w+': .*{message}"):
        run_nodes(shape, *nodes)
    assert time.monotonic() - started < 2


def test_repeated_growth_hits_the_budget() -> None:
    # Each node squares the size; alone they would fit in nothing.
    nodes = [
        fn("torch.outer", LP, LP, name="n0"),
        _node(target="flatten", name="f0", args=[{"ref": "n0"}]),
    ]
    for i in range(1, 5):
        flat = {"ref": f"f{i - 1}"}
        nodes.append(fn("torch.outer", flat, flat, name=f"n{i}"))
        nodes.append(_node(target="flatten", name=f"f{i}", args=[{"ref": f"n{i}"}]))
    with pytest.raises(UserError, match="elements, at most"):
        run_nodes(*nodes)
    long = [_node(target="exp", name=f"n{i}", args=[LP]) for i in range(1000)]
    body = upload(*long)
    graph = parse_loss_graph("bad", body["inputs"], body["graph"])
    with pytest.raises(UserError, match="too many elements for a datum of this length"):
        run_loss_graph(graph, torch.zeros(1000), {}, 500_000)


def test_a_job_has_a_budget_for_all_its_datums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_graph_run, "MAX_JOB_ELEMENTS", 25)
    body = upload(_node())
    spec = graph_loss(parse_loss_graph("sum", body["inputs"], body["graph"]))
    for _ in range(2):
        spec.fn(torch.zeros(10), {}, {})
    with pytest.raises(UserError, match="too many elements"):
        spec.fn(torch.zeros(10), {}, {})


COMBINATIONS: list[list[Any]] = [
    [LP],
    [LP, LP],
    [LP, LP, LP],
    [LP, LP, 0.5],
    [LP, 0],
    [LP, 2.0],
    [LP, 0, 1],
    [LP, 0, 0, 2],
    [LP, [0]],
    [LP, [6]],
    [LP, {"tuple": [3, 6]}],
    [LP, {"tuple": [6]}, 1.0],
    [LP, {"dtype": "float32"}],
    [LP, {"ref": "indices"}],
    [LP, {"ref": "mask"}],
    [LP, {"ref": "mask"}, 0.0],
    [{"ref": "mask"}, LP, LP],
    [LP, 0, {"ref": "indices"}],
    [LP, 0, {"ref": "indices"}, LP],
    [{"ref": "mask"}],
    [{"ref": "mask"}, {"ref": "mask"}],
    [{"ref": "table"}],
    [{"ref": "table"}, LP],
    [{"ref": "table"}, {"ref": "table"}],
    [{"ref": "table"}, 0, 1],
    [{"ref": "stack"}, {"ref": "stack"}],
    [[LP, LP]],
    [[1.0, 2.0]],
    [1.5],
    [0.5],
    [0.5, 2.0],
    [3, 2],
    [{"tuple": [2, 3]}],
    [{"tuple": [2, 3]}, 1.0],
    [3],
]


@pytest.mark.parametrize("target", sorted({*FUNCTIONS, *METHODS} - {"getattr", "builtins.getattr"}))
def test_every_listed_operation_works_and_leaves_its_arguments_alone(target: str) -> None:
    setting = [
        fn("torch.argsort", LP, name="indices"),
        fn("operator.lt", LP, -1.5, name="mask"),
        fn("torch.outer", LP, LP, name="table"),
        _node(target="unsqueeze", args=[{"ref": "table"}, 0], name="stack"),
    ]
    total = _node(args=[LP], name="total")
    before = torch.linspace(-2, -1, 6, dtype=torch.float64)
    num_succeeded = 0
    refusals: list[str] = []
    for args in COMBINATIONS:
        op = "call_method" if target in METHODS else "call_function"
        body = upload(*setting, _node(op=op, target=target, args=args), total)
        graph = parse_loss_graph("any", body["inputs"], body["graph"])
        lp = before.clone().requires_grad_()
        try:
            loss, _, _ = run_loss_graph(graph, lp, {}, budget(lp))
        except UserError as error:
            refusals.append(str(error))
            continue
        num_succeeded += 1
        assert loss.item() == pytest.approx(-9.0)  # had a node written to logprobs, it would not be
        assert torch.equal(lp.detach(), before)
    assert num_succeeded
    assert all("node 'n'" in refusal for refusal in refusals)


def test_datums_are_checked_against_the_declared_inputs() -> None:
    graph = as_graph(_ppo, logprobs=1, logprobs_old=1, advantages=1)
    good = {
        "target_tokens": np.array([1, 2]),
        "logprobs_old": np.zeros(2, np.float32),
        "advantages": np.zeros(2, np.float32),
        "unread": np.zeros(9),
    }
    checked = check_graph_inputs(graph, good, num_tokens=2, vocab_size=5, datum_index=4)
    assert checked.keys() == good.keys() - {"unread"}
    for changes, message in (
        ({"advantages": None}, "missing; the loss 'loss' reads advantages, logprobs_old"),
        ({"advantages": np.zeros((2, 1))}, "rank 2, the loss 'loss' declares 1"),
        ({"target_tokens": np.zeros((2, 3), np.int64)}, "rank 2, the loss 'loss' declares 1"),
        ({"target_tokens": np.array([1, 9])}, "token 9 at position 1 is outside"),
        ({"target_tokens": np.array([1])}, "length 1 must equal"),
    ):
        arrays = {key: value for key, value in {**good, **changes}.items() if value is not None}
        with pytest.raises(DataError, match=f"datum 4: .*{message}"):
            check_graph_inputs(graph, arrays, num_tokens=2, vocab_size=5, datum_index=4)


def test_a_number_that_the_wire_made_a_list_of_one_is_a_number_again() -> None:
    graph = as_graph(lambda logprobs, beta: (logprobs.sum() * beta, {}), logprobs=1, beta=0)
    for beta in (np.float32(2.0), np.full(1, 2.0), np.full((), 2.0)):
        arrays = {"target_tokens": np.array([1]), "beta": np.asarray(beta)}
        checked = check_graph_inputs(graph, arrays, num_tokens=1, vocab_size=5, datum_index=0)
        assert checked["beta"].shape == ()
    arrays["beta"] = np.zeros(2)
    with pytest.raises(DataError, match="rank 1, the loss 'loss' declares 0"):
        check_graph_inputs(graph, arrays, num_tokens=1, vocab_size=5, datum_index=0)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.integers(),
    st.floats(),
    st.sampled_from(["__class__", "shape", "T", "fro", "logprobs", "floor", "n0", "cuda"]),
)
REFS = st.integers(0, 6).map(lambda back: {"ref": back})
ARGUMENTS = st.recursive(
    st.one_of(REFS, REFS, SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(lambda items: {"tuple": items}),
        st.lists(inner, min_size=3, max_size=3).map(lambda items: {"slice": items}),
        st.sampled_from(["inf", "nan", "x"]).map(lambda text: {"float": text}),
        st.sampled_from(["float32", "bool", "int64", "str"]).map(lambda text: {"dtype": text}),
        st.just({"ellipsis": True}),
        st.just({"device": "cuda:0"}),
        st.dictionaries(st.sampled_from(["ref", "dict", "exec"]), inner, max_size=2),
    ),
    max_leaves=5,
)
ODD_NAMES = ["eval", "os.system", "torch.load", "torch.save", "open", "item", "__getattribute__"]
TARGETS = st.sampled_from(
    [*sorted(FUNCTIONS), *sorted(METHODS), *ODD_NAMES],
)
SENSIBLE = st.one_of(
    REFS,
    st.sampled_from([0, 1, -1, 2, 0.5, None, {"slice": [1, None, None]}, [3, 2], {"tuple": [6]}]),
)
WILD_NODES = st.lists(
    st.tuples(
        TARGETS,
        st.lists(ARGUMENTS, max_size=4),
        st.dictionaries(st.sampled_from([*sorted(KEYWORDS), "exec"]), ARGUMENTS, max_size=1),
    ),
    min_size=1,
    max_size=4,
)
SENSIBLE_NODES = st.lists(
    st.tuples(
        st.sampled_from([*sorted(FUNCTIONS), *sorted(METHODS)]),
        st.tuples(REFS, st.lists(SENSIBLE, max_size=2)).map(lambda pair: [pair[0], *pair[1]]),
        st.just({}),
    ),
    min_size=1,
    max_size=3,
)


def resolved(argument: Any, place: int) -> Any:
    """The argument with refs, so many nodes back, replaced by names."""
    if isinstance(argument, list):
        return [resolved(item, place) for item in argument]
    if isinstance(argument, dict):
        if type(back := argument.get("ref")) is int:
            return {"ref": f"n{place - 1 - back}" if back < place else "logprobs"}
        return {key: resolved(value, place) for key, value in argument.items()}
    return argument


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nodes=st.one_of(WILD_NODES, SENSIBLE_NODES, SENSIBLE_NODES), rank=st.sampled_from([1, 2]))
def test_no_graph_can_do_harm(nodes: list[tuple[str, list, dict]], rank: int) -> None:
    # Either a loss or one of our errors, soon, and the data is as it was.
    body = upload(
        *(
            {
                "op": "call_method" if target in METHODS else "call_function",
                "name": f"n{i}",
                "target": target,
                "args": resolved(args, i),
                "kwargs": resolved(kwargs, i),
            }
            for i, (target, args, kwargs) in enumerate(nodes)
        ),
        rank=rank,
    )
    lp = torch.linspace(-2, -1, 6, dtype=torch.float64)
    lp = (lp.reshape(3, 2) if rank == 2 else lp).requires_grad_()
    before = lp.detach().clone()
    nodes_then_sum = [*body["graph"]["nodes"]]
    nodes_then_sum.insert(-1, _node(name="total", args=[{"ref": f"n{len(nodes) - 1}"}]))
    nodes_then_sum[-1] = upload(_node(name="total"))["graph"]["nodes"][-1]
    body["graph"]["nodes"] = nodes_then_sum
    started = time.monotonic()
    refusal: TinsmithError | None = None
    try:
        graph = parse_loss_graph("fuzz", body["inputs"], body["graph"])
        loss, _, _ = run_loss_graph(graph, lp, {}, budget(lp))
        loss.backward()
    except TinsmithError as error:
        refusal = error
    assert refusal is None or (refusal.category == "user" and len(str(refusal)) < 800)
    assert torch.equal(lp.detach(), before)
    assert time.monotonic() - started < 10
