"""The DPO loss against closed forms in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.algorithms.preference import answer_logprobs, dpo

RATIOS = st.lists(
    st.tuples(st.floats(-30, 30, width=32), st.floats(-30, 30, width=32)), min_size=1, max_size=6
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@given(
    ratios=RATIOS, beta=st.floats(0.01, 5), smoothing=st.one_of(st.just(0.0), st.floats(0, 0.49))
)
def test_loss_and_gradient_are_those_of_the_formula(
    ratios: list[tuple[float, float]], beta: float, smoothing: float
) -> None:
    chosen, rejected = (
        torch.tensor(column, dtype=torch.float64) for column in zip(*ratios, strict=True)
    )
    chosen.requires_grad_(True)
    rejected.requires_grad_(True)
    found = dpo(chosen, rejected, beta=beta, label_smoothing=smoothing)
    found.losses.sum().backward()
    for place, (better, worse) in enumerate(ratios):
        margin = beta * (better - worse)
        # -log sigmoid(m) as log(1 + exp(-m)), in NumPy's stable form.
        expected = (1 - smoothing) * np.logaddexp(0, -margin) + smoothing * np.logaddexp(0, margin)
        assert found.losses[place].item() == pytest.approx(expected, rel=1e-12, abs=1e-300)
        slope = (1 - smoothing) * np.exp(-np.logaddexp(0, margin)) - smoothing * np.exp(
            -np.logaddexp(0, -margin)
        )
        # The two parts of the slope may cancel: an absolute tolerance of a few ulp of beta.
        assert chosen.grad[place].item() == pytest.approx(-beta * slope, rel=1e-9, abs=1e-14)
        assert rejected.grad[place].item() == pytest.approx(beta * slope, rel=1e-9, abs=1e-14)


def test_a_policy_that_is_its_reference_loses_log_two_with_the_steepest_slope() -> None:
    chosen = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    found = dpo(chosen, torch.zeros(1, dtype=torch.float64), beta=0.3)
    found.losses.sum().backward()
    assert found.losses.item() == pytest.approx(math.log(2), rel=1e-15)
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.3 / 2, rel=1e-15)


def test_rewards_are_beta_times_the_log_ratios_and_smoothing_has_a_finite_optimum() -> None:
    ratios = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0])
    found = dpo(*ratios, beta=0.5)
    assert found.chosen_rewards.tolist() == [1.0, -0.5]
    assert found.margins.tolist() == [0.75, -2.0]
    # d/dm = 0 where sigmoid(m) = 1 - smoothing.
    best = torch.tensor([math.log(0.8 / 0.2)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    dpo(best, zero, beta=1.0, label_smoothing=0.2).losses.sum().backward()
    assert best.grad is not None
    assert abs(best.grad.item()) < 1e-15


def test_an_extreme_margin_neither_overflows_nor_loses_its_gradient() -> None:
    chosen = torch.tensor([-5000.0], requires_grad=True)
    found = dpo(chosen, torch.tensor([5000.0]), beta=1.0)
    found.losses.sum().backward()
    assert found.losses.item() == 10_000.0
    assert chosen.grad is not None
    assert chosen.grad.item() == -1.0


def test_an_answer_is_its_own_tokens_summed_or_averaged_in_float64() -> None:
    logprobs = torch.tensor([-9.0, -0.1, -0.2, -0.6], dtype=torch.float32)
    weights = torch.tensor([0.0, 1.0, 1.0, 1.0])
    total = answer_logprobs(logprobs, weights)
    assert total.dtype is torch.float64
    assert total.item() == pytest.approx(-0.9, rel=1e-6)
    mean = answer_logprobs(logprobs, weights, is_length_normalised=True)
    assert mean.item() == pytest.approx(-0.3, rel=1e-6)
