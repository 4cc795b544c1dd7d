"""Regularizers: what a term adds to a custom loss, and terms that wait side by side.

Main name: `regularizer_measurements`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any, Literal

import torch

from bench.batches import datums, equal_examples
from bench.engines import EngineSide
from bench.measurement import Measurement, Setting
from bench.models import tiny_model
from bench.results import Bound, Row
from bench.timing import compare, median_s
from tinsmith.regularizers import L1, ComposedLoss, CustomLossOptions, Regularizer
from tinsmith.types import Datum

__all__ = ["regularizer_measurements"]

NUM_DATUMS, LENGTH = 32, 128
VOCABULARY = 2048
LIMIT_MS = 5.0
LIMIT_PERCENT = 5.0
NORMS_LIMIT_MS = 10.0  # a backward pass for the loss and one for the term, instead of one
Execution = Literal["parallel", "sequential"]
SLEEP_S = 0.2


def regularizer_measurements(setting: Setting) -> Iterator[Measurement]:
    """On 4,096 tokens, without a service: a term's work is the client's, the step the engine's."""
    data = datums(equal_examples(NUM_DATUMS, LENGTH, VOCABULARY))
    rounds = 5 if setting.quick else 100
    for is_tracking in (False, True):
        name = "one regularizer, 4k tokens" + (", gradient norms" if is_tracking else "")
        yield Measurement(name, "", lambda n=name, t=is_tracking: _added(n, data, rounds, t))
    share = "one regularizer, 4k tokens, part of a step"
    yield Measurement(share, "", lambda: _share(share, data, setting, rounds))
    targets: dict[Execution, Bound | None] = {
        "parallel": Bound("at most", 0.6),
        "sequential": None,
    }
    for execution, target in targets.items():
        name = f"five terms that wait 0.2 s, {execution}"
        yield Measurement(
            name,
            "",
            lambda n=name, e=execution, t=target: Row(
                name=n, model="", unit="s", ours=_sleepers_s(data, e), target=t
            ),
        )


def _share(name: str, data: list[Datum], setting: Setting, rounds: int) -> Row:
    """What a term adds, by a whole custom step of the bundled model, the shortest that there is."""
    model = tiny_model(quick=setting.quick)
    side = EngineSide(model)

    def step() -> None:
        side.custom_step(data, keeps_graph=True)
        side.optim_step(side.adapter_ids)

    step_s = median_s(step, rounds=model.rounds)
    percent = 100 * _added_s(data, rounds, is_tracking=False) / step_s
    target = Bound("at most", LIMIT_PERCENT)
    return Row(name=name, model=model.name, unit="%", ours=percent, target=target)


def _added(name: str, data: list[Datum], rounds: int, is_tracking: bool) -> Row:
    added_s = _added_s(data, rounds, is_tracking)
    limit_ms = NORMS_LIMIT_MS if is_tracking else LIMIT_MS
    return Row(
        name=name, model="", unit="ms", ours=added_s * 1e3, target=Bound("at most", limit_ms)
    )


def _added_s(data: list[Datum], rounds: int, is_tracking: bool) -> float:
    """What the loss and its gradient take longer with a term than without."""
    comparison = compare(
        lambda: _evaluate(data, [Regularizer(L1(), 0.01)], is_tracking),
        lambda: _evaluate(data, [], is_tracking=False),
        rounds=rounds,
        warm_up=5,
    )
    return statistics.median(comparison.ours_s) - statistics.median(comparison.peer_s)


def _evaluate(
    data: list[Datum],
    terms: list[Regularizer],
    is_tracking: bool,
    options: CustomLossOptions | None = None,
) -> None:
    logprobs = [torch.full((LENGTH,), -1.5, requires_grad=True) for _ in data]
    loss = ComposedLoss(_mean_nll, terms, track_grad_norms=is_tracking, options=options)
    total, _ = loss(data, logprobs)
    total.backward()


def _sleepers_s(data: list[Datum], execution: Execution) -> float:
    terms = [Regularizer(_sleeper, 1.0, f"sleeper{index}") for index in range(5)]
    options = CustomLossOptions(execution=execution)
    return median_s(lambda: _evaluate(data, terms, False, options), rounds=3)


def _mean_nll(data: Any, logprobs: list[torch.Tensor]) -> Any:
    return -torch.cat(logprobs).mean(), {}


def _sleeper(data: Any, logprobs: list[torch.Tensor]) -> Any:
    time.sleep(SLEEP_S)
    return torch.cat(logprobs).sum(), {}
