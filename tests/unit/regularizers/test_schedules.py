"""Weights by step and epoch."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.algorithms import make_schedule
from tinsmith.core.errors import ConfigError, UnknownNameError
from tinsmith.regularizers import (
    ConstantWeight,
    CosineWeight,
    ExponentialWeight,
    LinearWeight,
    PiecewiseWeight,
    WarmUpWeight,
    make_weight_schedule,
)
from tinsmith.regularizers.schedules import SCHEDULES, scheduled_factor


@pytest.mark.parametrize(
    ("schedule", "times", "factors"),
    [
        (ConstantWeight(0.5), (0, 9), (0.5, 0.5)),
        (LinearWeight(4, 1, 0), (-1, 0, 1, 4, 9), (1, 1, 0.75, 0, 0)),
        (LinearWeight(10, 0.2, 0.4), (5,), (0.3,)),
        (CosineWeight(4), (0, 1, 2, 4, 8), (1, (1 + math.sqrt(0.5)) / 2, 0.5, 0, 0)),
        (CosineWeight(2, 0.0, 3.0), (1, 2), (1.5, 3)),
        (WarmUpWeight(5), (0, 1, 5, 6), (0, 0.2, 1, 1)),
        (ExponentialWeight(0.5, 2.0, 0.3), (0, 1, 2, 9), (2, 1, 0.5, 0.3)),
        (PiecewiseWeight([(2, 1), (4, 3), (8, 0)]), (0, 2, 3, 4, 6, 9), (1, 1, 2, 3, 1.5, 0)),
    ],
)
def test_factors_by_hand(schedule: Any, times: Any, factors: Any) -> None:
    assert [schedule(time) for time in times] == pytest.approx(list(factors))


@given(st.floats(0.1, 1e4), st.floats(0, 5), st.floats(0, 5), st.floats(-10, 2e4))
def test_ramps_stay_between_their_ends_and_reach_them(
    over: float, start: float, stop: float, time: float
) -> None:
    for kind in (LinearWeight, CosineWeight):
        ramp = kind(over, start, stop)
        assert min(start, stop) - 1e-9 <= ramp(time) <= max(start, stop) + 1e-9
        assert ramp(0) == pytest.approx(start)
        assert ramp(over) == pytest.approx(stop)


def test_schedules_go_by_step_or_epoch() -> None:
    assert scheduled_factor(LinearWeight(4), 1, None) == 0.75
    assert scheduled_factor(LinearWeight(4, by="epoch"), 1, 2.0) == 0.5


def test_learning_rate_schedules_fit_as_they_are() -> None:
    schedule = make_schedule("linear", 4, 1)
    assert [scheduled_factor(schedule, step, None) for step in (0, 1, 4)] == [0.5, 1.0, 0.0]


def test_schedules_are_made_by_name() -> None:
    settings: dict[str, dict[str, Any]] = {
        "linear": {"over": 2},
        "cosine": {"over": 2},
        "warm_up": {"over": 2},
        "exponential": {"rate": 0.5},
        "piecewise": {"points": [[0, 1], [1, 0]]},
    }
    for kind, cls in SCHEDULES.items():
        assert make_weight_schedule(kind, **settings.get(kind, {})) == cls(**settings.get(kind, {}))


WRONG: list[Callable[[], Any]] = [
    lambda: make_weight_schedule("lineer", over=3),
    lambda: make_weight_schedule("linear"),
    lambda: make_weight_schedule("linear", over=3, until=2),
    lambda: make_weight_schedule("piecewise", points=[1, 2]),
    lambda: LinearWeight(0),
    lambda: CosineWeight(2, start=-1),
    lambda: WarmUpWeight(math.inf),
    lambda: ConstantWeight(math.nan),
    lambda: ExponentialWeight(1.5),
    lambda: PiecewiseWeight([]),
    lambda: PiecewiseWeight([(1, 1), (1, 2)]),
    lambda: LinearWeight(2, by="batch"),  # type: ignore[arg-type]
    lambda: scheduled_factor(LinearWeight(2, by="epoch"), 1, None),
    lambda: scheduled_factor(lambda step: -1.0, 1, None),
]


def test_what_is_refused_says_what_is_allowed(golden: Callable[[str, Any], None]) -> None:
    messages = []
    for make in WRONG:
        with pytest.raises((ConfigError, UnknownNameError)) as refused:
            make()
        messages.append(str(refused.value))
    golden("regularizer_schedule_errors.json", messages)
