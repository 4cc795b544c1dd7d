"""Loss values against closed forms in float64, from the logprobs that the server returned."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.cli.conformance.closed_forms import CLOSED_FORMS, Terms
from tinsmith.cli.conformance.registry import Check, add, check, expect, expect_close
from tinsmith.cli.conformance.server import Array, Model, Server, inputs_of, logprobs_of

CASES: list[tuple[str, str, Mapping[str, float]]] = [
    ("cross_entropy", "cross_entropy", {}),
    ("importance_sampling", "importance_sampling", {}),
    ("ppo", "ppo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
    ("ppo_other_bounds", "ppo", {"clip_low_threshold": 0.5, "clip_high_threshold": 1.05}),
    ("cispo", "cispo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.3}),
    ("dro", "dro", {"beta": 0.3}),
    ("gspo", "gspo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}),
]
RELATIVE_ROUNDING = 1e-5
"""A float32 sum of these few terms is this close to their float64 sum, in terms of their sizes."""


def policy_data(server: Server, model: Model, loss_fn: str, *, seed: int = 2) -> list[Any]:
    """Datums for a loss; ratios fall below, within and above the clip bounds."""
    plain = server.data(5, seed=seed)
    if loss_fn == "cross_entropy":
        return plain
    rng = np.random.default_rng(seed)
    data = []
    for datum, learner in zip(plain, logprobs_of(model.run(plain)), strict=True):
        # One shift a datum beside the tokens' own: without it each geometric mean would be near 1.
        noise = rng.normal(size=learner.shape) + 0.5 * rng.normal()
        inputs = {
            "target_tokens": datum.loss_fn_inputs["target_tokens"],
            "logprobs": (learner + 0.4 * noise).astype(np.float32),
            "advantages": inputs_of(datum)["weights"].astype(np.float32),
        }
        if loss_fn == "gspo":
            inputs["sequence_ratio_mask"] = (inputs["advantages"] != 0).astype(np.float32)
        data.append(server.tinker.Datum(datum.model_input, inputs))
    return data


def closed_form(
    loss_fn: str, data: Sequence[Any], logprobs: Sequence[Array], config: Mapping[str, float]
) -> list[Terms]:
    """The terms of every datum's loss."""
    form = CLOSED_FORMS[loss_fn]
    return [form(lp, inputs_of(datum), config) for datum, lp in zip(data, logprobs, strict=True)]


def expect_loss(output: Any, terms: Sequence[Terms], what: str) -> None:
    """Fail unless `loss:sum` is the sum of the terms."""
    losses = np.concatenate([each.losses.ravel() for each in terms])
    expect("loss:sum" in output.metrics, f"{what}: no metric loss:sum")
    atol = RELATIVE_ROUNDING * float(np.abs(losses).sum()) + 1e-6
    expect_close(output.metrics["loss:sum"], losses.sum(), atol=atol, what=f"{what}: loss:sum")


def _check_value(server: Server, *, loss_fn: str, config: Mapping[str, float]) -> None:
    model = server.fork()
    data = policy_data(server, model, loss_fn)
    for forward_only in (True, False):
        output = model.run(data, loss_fn, config, forward_only=forward_only)
        terms = closed_form(loss_fn, data, logprobs_of(output), config)
        expect_loss(output, terms, "forward" if forward_only else "forward_backward")


for _name, _loss_fn, _config in CASES:
    add(
        Check(
            f"losses.{_name}",
            f"{_loss_fn} {' '.join(f'{key}={value}' for key, value in _config.items())}".strip(),
            "the loss is the documented formula, summed over tokens and datums",
            2,
            functools.partial(_check_value, loss_fn=_loss_fn, config=_config),
        )
    )


@check(
    "Losses are sums, not means",
    proves="three copies of a datum, or three times its weights, are three times its loss",
    points=2,
)
def are_sums(server: Server) -> None:
    model = server.fork()
    data = server.data(3, seed=3)
    once = model.run(data)
    size = sum(float(np.abs(lp).sum()) for lp in logprobs_of(once))
    for what, changed in (("3 copies", data * 3), ("3 * weights", server.scaled(data, 3.0))):
        found = model.run(changed).metrics["loss:sum"]
        expected = 3 * once.metrics["loss:sum"]
        expect_close(found, expected, atol=3 * RELATIVE_ROUNDING * size, what=what)


def several_targets(server: Server) -> tuple[Any, Any, list[Any]]:
    """(N, K) targets dense, the same sparse, and one datum with single targets for each column."""
    rng = np.random.default_rng(6)
    num_tokens, num_targets, num_used = 7, 5, 2
    tokens = rng.integers(5, 400, num_tokens).tolist()
    targets = rng.integers(5, 400, (num_tokens, num_targets))
    weights = rng.random((num_tokens, num_targets)).astype(np.float32)
    weights[:, num_used:] = 0.0
    prompt = server.tinker.ModelInput.from_ints(tokens)
    dense = server.tinker.Datum(prompt, {"target_tokens": targets, "weights": weights})
    crow = np.arange(num_tokens + 1) * num_used
    columns = np.tile(np.arange(num_used), num_tokens)

    def sparse(values: NDArray[Any], dtype: str) -> Any:
        return server.tinker.TensorData(
            data=values[:, :num_used].ravel().tolist(),
            dtype=dtype,
            shape=[num_tokens, num_targets],
            sparse_crow_indices=crow.tolist(),
            sparse_col_indices=columns.tolist(),
        )

    listed = server.tinker.Datum(
        prompt, {"target_tokens": sparse(targets, "int64"), "weights": sparse(weights, "float32")}
    )
    singles = [
        server.tinker.Datum(
            prompt, {"target_tokens": targets[:, k], "weights": weights[:, k].copy()}
        )
        for k in range(num_used)
    ]
    return dense, listed, singles


@check(
    "Several targets a position, dense",
    proves="distillation: (N, K) targets are K cross entropies, returned in their shape",
    points=2,
)
def take_several_targets(server: Server) -> None:
    model = server.fork()
    dense, _, singles = several_targets(server)
    output = model.run([dense])
    (found,) = logprobs_of(output)
    expect(found.shape == (7, 5), f"logprobs of shape {found.shape}, expected (7, 5)")
    expect_loss(output, closed_form("cross_entropy", [dense], [found], {}), "dense")
    for k, each in enumerate(logprobs_of(model.run(singles))):
        expect_close(found[:, k], each, atol=server.tolerance, what=f"logprobs of target {k}")


@check(
    "Several targets a position, sparse",
    proves="the sparse form that the official client sends by itself has the dense one's loss",
    points=2,
)
def take_sparse_targets(server: Server) -> None:
    dense, listed, _ = several_targets(server)
    model = server.fork()
    expected = model.run([dense]).metrics["loss:sum"]
    for forward_only in (True, False):
        found = model.run([listed], forward_only=forward_only).metrics["loss:sum"]
        expect_close(found, expected, atol=server.tolerance, what="loss:sum")
