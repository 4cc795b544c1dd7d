"""Advantages within a group, against their definitions."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.algorithms.advantages import group_centred, group_standardised

REWARDS = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12)


@given(rewards=REWARDS)
def test_advantages_of_a_group_sum_to_zero_and_keep_its_order(rewards: list[float]) -> None:
    found = group_centred(rewards)
    mean = statistics.fmean(rewards)
    assert found == pytest.approx([reward - mean for reward in rewards], abs=1e-10)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    assert np.argmax(found) == np.argmax(rewards)


@given(rewards=REWARDS, scale=st.floats(0.5, 4), shift=st.floats(-5, 5))
def test_standardised_advantages_have_unit_spread_whatever_the_scale_of_rewards(
    rewards: list[float], scale: float, shift: float
) -> None:
    found = group_standardised(rewards)
    if len(set(rewards)) == 1:
        assert found.tolist() == [0.0] * len(rewards)
        return
    assert found == pytest.approx(
        (np.array(rewards) - statistics.fmean(rewards)) / statistics.pstdev(rewards),
        rel=1e-6,
        abs=1e-6,
    )
    if np.ptp(rewards) > 1e-3:  # below that, shifted rewards round to others
        moved = group_standardised(np.array(rewards) * scale + shift)
        assert moved == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("rewards", [[0.1] * 3, [0.7], [1e16] * 7])
def test_equal_rewards_have_no_advantage_to_the_bit(rewards: list[float]) -> None:
    assert group_centred(rewards).tolist() == [0.0] * len(rewards)
