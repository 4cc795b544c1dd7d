"""The KL estimators, against exact divergences of small distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.algorithms.kl import kl_k1, kl_k2, kl_k3

LOGITS = st.lists(st.floats(-3, 3), min_size=5, max_size=5)


def log_softmax(logits: list[float]) -> np.ndarray:
    values = np.array(logits)
    return values - np.logaddexp.reduce(values)


@given(p=LOGITS, q=LOGITS)
def test_the_expectation_of_k1_and_k3_over_all_tokens_is_the_divergence(
    p: list[float], q: list[float]
) -> None:
    log_p, log_q = log_softmax(p), log_softmax(q)
    exact = float(np.sum(np.exp(log_p) * (log_p - log_q)))
    for estimate in (kl_k1, kl_k3):
        assert np.exp(log_p) @ estimate(log_p, log_q) == pytest.approx(exact, rel=1e-9, abs=1e-12)


@given(d=st.lists(st.floats(-20, 20), min_size=1, max_size=6))
def test_k2_and_k3_are_their_formulas_and_never_negative(d: list[float]) -> None:
    values, zero = np.array(d), np.zeros(len(d))
    assert kl_k1(values, zero).tolist() == d
    assert kl_k2(values, zero) == pytest.approx(values**2 / 2)
    assert kl_k3(values, zero) == pytest.approx(np.exp(-values) - 1 + values, rel=1e-9, abs=1e-12)
    assert (kl_k2(values, zero) >= 0).all()
    assert (kl_k3(values, zero) >= 0).all()


def test_near_equal_models_keep_their_digits() -> None:
    # d^2 / 2 to first order; exp(-d) - 1 + d would be lost to rounding without expm1.
    assert kl_k3([1e-7], [0.0])[0] == pytest.approx(5e-15, rel=1e-2)
