"""Adaptive weights: closed forms, one update an optimizer step, exact resume."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.regularizers.support import data_for, leaves
from tinsmith.core.errors import ConfigError, DataError, UnknownNameError
from tinsmith.regularizers import (
    ComposedLoss,
    CustomLossOptions,
    DualAscent,
    EmaNormalisation,
    LinearWeight,
    Regularizer,
    RegularizerState,
)
from tinsmith.regularizers.adaptive import make_rule
from tinsmith.regularizers.outputs import ACCUMULATED_NORM, TOTAL_NORM
from tinsmith.types import ForwardBackwardOutput


def total(data: Any, logprobs: list[torch.Tensor]) -> Any:
    return -torch.cat(logprobs).sum(), {}


def call(
    state: RegularizerState, terms: list[Regularizer], value: float, **options: Any
) -> ComposedLoss:
    """An evaluation whose term has `value`, sent."""
    logprobs = leaves((-value,))
    loss = ComposedLoss(
        None, terms, state=state, options=CustomLossOptions(**options), track_grad_norms=True
    )
    loss(data_for(logprobs), logprobs)
    loss.commit()
    return loss


def weight(loss: ComposedLoss) -> float:
    return loss.output.regularizers["total"].weight


def test_dual_ascent_moves_once_an_optimizer_step() -> None:
    term = Regularizer(total, 2.0, state=DualAscent(1.0, rate=0.5, initial=1.0, high=2.0))
    state = RegularizerState()
    weights = []
    for value in (3.0, 3.0, 0.0, 0.0, 0.0):
        weights.append(weight(call(state, [term], value)))
        state.advance()
    # 1, 1 + .5 * 2 = 2, held at 2, 2 - .5 = 1.5, 1, each times 2.
    assert weights == [2.0, 4.0, 4.0, 3.0, 2.0]


def test_evaluations_between_steps_do_not_move_the_state() -> None:
    term = Regularizer(total, 1.0, state=DualAscent(1.0, rate=0.5))
    state = RegularizerState()
    assert [weight(call(state, [term], 3.0)) for _ in range(3)] == [1, 1, 1]
    state.advance()
    # Three calls of a term that needs the whole batch: the step's value is their mean, 3.
    assert weight(call(state, [term], 3.0)) == 2.0


def test_a_sum_adds_up_over_the_calls_of_a_step_and_a_mean_is_averaged() -> None:
    for reduction, moved in (("sum", 1 + 0.1 * (4 + 2)), ("mean", 1 + 0.1 * (0.75 * 4 + 0.25 * 2))):
        term = Regularizer(total, 1.0, reduction=reduction, state=DualAscent(0.0, rate=0.1))  # type: ignore[arg-type]
        state = RegularizerState()
        call(state, [term], 4.0, share=0.75)
        call(state, [term], 2.0, share=0.25)
        state.advance()
        assert weight(call(state, [term], 1.0)) == pytest.approx(moved)


def test_the_running_mean_equals_its_closed_form_after_three_steps() -> None:
    decay, values = 0.9, (2.0, -4.0, 8.0)
    term = Regularizer(total, 1.0, state=EmaNormalisation(decay))
    state = RegularizerState()
    assert weight(call(state, [term], values[0])) == 1.0
    for value in values:
        call(state, [term], value) if value != values[0] else None
        state.advance()
    sizes = [abs(value) for value in values]
    ema = sum((1 - decay) * decay ** (2 - i) * size for i, size in enumerate(sizes))
    expected = 1 / (ema / (1 - decay**3))
    assert weight(call(state, [term], 1.0)) == pytest.approx(expected)


def test_the_running_mean_has_a_floor() -> None:
    rule = EmaNormalisation(0.5, floor=0.1)
    assert rule.factor(rule.update(rule.init(), 0.0)) == 10.0


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(0, 19))
def test_a_restored_state_goes_on_exactly(values: list[float], at: int) -> None:
    """Cut anywhere, through JSON, the weights are the same to the bit."""
    terms = [
        Regularizer(
            total, 0.7, "dual", state=DualAscent(0.3, rate=0.2), schedule=LinearWeight(30, 1, 0.5)
        ),
        Regularizer(total, 0.1, "ema", state=EmaNormalisation(0.95)),
    ]

    def go(state: RegularizerState, values: list[float]) -> list[list[float]]:
        weights = []
        for value in values:
            output = call(state, terms, value).output
            weights.append([term.weight for term in output.regularizers.values()])
            state.advance()
        return weights

    whole = go(RegularizerState(), values)
    first = RegularizerState()
    before = go(first, values[:at])
    call(first, terms, 99.0)  # of a step that is not in the checkpoint
    saved = json.dumps(first.state_dict())
    resumed = RegularizerState()
    resumed.load_state_dict(json.loads(saved))
    assert before + go(resumed, values[at:]) == whole


def test_terms_come_and_go_and_keep_their_state() -> None:
    a = Regularizer(total, 1.0, "total", state=DualAscent(0.0, rate=1.0))
    b = Regularizer(total, 1.0, "b")
    state = RegularizerState()
    call(state, [a], 1.0)
    state.advance()
    call(state, [b], 1.0)  # a is away for a step
    state.advance()
    assert weight(call(state, [a, b], 1.0)) == 2.0
    state.forget("total")
    assert weight(call(state, [a], 1.0)) == 1.0
    assert state.state_dict() == {"step": 2, "terms": {}}


def test_an_evaluation_that_was_not_sent_is_not_observed() -> None:
    term = Regularizer(total, 1.0, state=DualAscent(0.0, rate=1.0))
    state = RegularizerState()
    logprobs = leaves((-5.0,))
    ComposedLoss(None, [term], state=state)(data_for(logprobs), logprobs)
    state.advance()
    assert state.state_dict() == {"step": 1, "terms": {}}


def test_the_norm_of_the_accumulated_gradient() -> None:
    term = Regularizer(total, 1.0)
    state = RegularizerState()
    logprobs = leaves((-1.0, -1.0), (-3.0,))
    whole = ComposedLoss(None, [term], track_grad_norms=True)
    whole(data_for(logprobs), logprobs)
    for part in logprobs:
        loss = ComposedLoss(None, [term], state=state, track_grad_norms=True)
        loss(data_for([part]), [part])
        loss.commit()
    assert state.accumulated_grad_norm == pytest.approx(whole.output.total_grad_norm)
    assert state.accumulated_grad_norm == pytest.approx(math.sqrt(3))
    untracked = ComposedLoss(None, [term], state=state)
    untracked(data_for(logprobs), logprobs)
    untracked.commit()
    assert state.accumulated_grad_norm is None  # and not the norm of a part
    state.advance()
    assert state.accumulated_grad_norm == 0.0
    assert state.step == 1


BAD_STATES: list[Any] = [
    {},
    {"step": -1, "terms": {}},
    {"step": 1.5, "terms": {}},
    {"step": 1, "terms": []},
    {"step": 1, "terms": {"kl": 3}},
    {"step": 1, "terms": {"kl": {"multiplier": 1.0}}},
    {"step": 1, "terms": {"kl": {"kind": "dual_ascent", "multiplier": "1"}}},
]


def test_what_is_refused_says_what_is_allowed(golden: Callable[[str, Any], None]) -> None:
    messages = []
    for bad in BAD_STATES:
        state = RegularizerState()
        with pytest.raises(DataError) as unreadable:
            state.load_state_dict(bad)
        assert state.state_dict() == {"step": 0, "terms": {}}
        messages.append(str(unreadable.value))
    state = RegularizerState()
    call(state, [Regularizer(total, 1.0, state=DualAscent(0.0))], 1.0)
    state.advance()
    attempts: list[Callable[[], Any]] = [
        lambda: call(state, [Regularizer(total, 1.0, state=EmaNormalisation())], 1.0),
        lambda: DualAscent(math.nan),
        lambda: DualAscent(0.0, rate=0),
        lambda: DualAscent(0.0, initial=200),
        lambda: EmaNormalisation(1.0),
        lambda: EmaNormalisation(floor=0),
        lambda: make_rule("dual", target=1.0),
        lambda: make_rule("dual_ascent"),
    ]
    for attempt in attempts:
        with pytest.raises((ConfigError, UnknownNameError)) as refused:
            attempt()
        messages.append(str(refused.value))
    golden("regularizer_state_errors.json", messages)


def test_the_norm_by_the_parameters_is_the_newest_answers_until_the_step() -> None:
    state = RegularizerState()
    calls = []
    for _ in range(2):
        logprobs = leaves([-1.0, -2.0])
        loss = ComposedLoss(total, None, state=state, track_grad_norms="parameters")
        loss(data_for(logprobs), logprobs)
        loss.commit()
        calls.append(loss)
    answer = ForwardBackwardOutput(
        loss_fn_output_type="ArrayRecord", loss_fn_outputs=[], metrics={"loss:sum": 1.0}
    )
    assert state.accumulated_grad_norm is None  # no answer has come
    newest = calls[1].finished(answer, {ACCUMULATED_NORM: 5.0, TOTAL_NORM: 3.0})
    assert (newest.accumulated_grad_norm, newest.total_grad_norm) == (5.0, 3.0)
    assert newest.metrics["reg/total/accumulated_grad_norm"] == 5.0
    calls[0].finished(answer, {ACCUMULATED_NORM: 4.0})  # an older answer that comes late
    assert state.accumulated_grad_norm == 5.0
    state.advance()
    assert state.accumulated_grad_norm == 0.0
    calls[1].finished(answer, {ACCUMULATED_NORM: 5.0})
    assert state.accumulated_grad_norm == 0.0
