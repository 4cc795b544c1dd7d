"""Learning-rate schedules: endpoints, warm-up, and what they refuse."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.algorithms.schedules import SCHEDULES, Constant, Cosine, Linear, make_schedule
from tinsmith.core.errors import ConfigError, UnknownNameError


def test_linear_falls_from_one_by_equal_amounts() -> None:
    schedule = Linear(num_steps=5)
    assert [schedule(step) for step in range(6)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_cosine_is_half_a_cosine() -> None:
    schedule = Cosine(num_steps=4)
    expected = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(5)]
    assert [schedule(step) for step in range(5)] == pytest.approx(expected)
    assert schedule(2) == pytest.approx(0.5)


def test_constant_stays_at_one() -> None:
    assert {Constant(num_steps=7)(step) for step in range(9)} == {1.0}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_warm_up_rises_evenly_to_the_peak_and_wastes_no_step(name: str) -> None:
    schedule = make_schedule(name, 20, 4)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_decay_after_warm_up_covers_the_steps_that_are_left() -> None:
    warmed, plain = Linear(num_steps=14, num_warmup_steps=4), Linear(num_steps=10)
    assert [warmed(step + 4) for step in range(11)] == pytest.approx(
        [plain(step) for step in range(11)]
    )


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    num_steps=st.integers(1, 500),
    data=st.data(),
)
def test_multipliers_stay_between_zero_and_one_and_every_step_learns(
    name: str, num_steps: int, data: st.DataObject
) -> None:
    warmup = data.draw(st.integers(0, num_steps - 1))
    schedule = make_schedule(name, num_steps, warmup)
    values = [schedule(step) for step in range(num_steps)]
    assert all(0 < value <= 1 for value in values)
    assert max(values) == values[warmup] == 1.0
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert values[:warmup] == sorted(values[:warmup])


def test_schedules_compare_and_print_by_their_settings() -> None:
    assert Linear(10, 2) == make_schedule("linear", 10, 2)
    assert repr(Linear(10, 2)) == ("Linear(num_steps=10, num_warmup_steps=2, final_fraction=0.0)")


def test_an_unknown_schedule_offers_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cosine'") as caught:
        make_schedule("cosin", 10)
    assert caught.value.field == "lr_schedule"


@pytest.mark.parametrize("warmup", [-1, 10, 11])
def test_a_warm_up_that_does_not_end_before_the_run_is_refused(warmup: int) -> None:
    with pytest.raises(ConfigError, match=f"warmup_steps={warmup}: must be 0 or more and below"):
        make_schedule("linear", 10, warmup)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_steps=0"):
        Constant(num_steps=0)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_decay_may_end_above_zero(name: str) -> None:
    schedule = make_schedule(name, 10, 2, final_fraction=0.1)
    plain = make_schedule(name, 10, 2)
    assert schedule(2) == 1
    assert schedule(10) == pytest.approx(0.1)
    assert [schedule(step) for step in range(2, 11)] == pytest.approx(
        [0.1 + 0.9 * plain(step) for step in range(2, 11)]
    )


def test_an_end_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"final_lr_fraction=1\.5: must be 0 to 1"):
        make_schedule("linear", 10, final_fraction=1.5)
