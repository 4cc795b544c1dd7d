"""The sketch: its error bound, and that merging is exact."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.telemetry.rollups.sketch import QuantileSketch, bin_codes, bin_values

FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(FINITE, max_size=60)
ALPHAS = st.sampled_from([0.001, 0.01, 0.1])
# Rounding of log and exp at exponents up to 745, beside the bound itself.
ROUNDING = 1e-12
TINY = float(np.finfo(np.float64).tiny)


@given(values=VALUES.filter(bool), q=st.floats(0, 1), alpha=ALPHAS)
def test_a_quantile_is_within_the_relative_error(
    values: list[float], q: float, alpha: float
) -> None:
    estimate = QuantileSketch.of(values, alpha).quantile(q)
    # Selected by rank, since numpy's own interpolation overflows at the ends of the range.
    exact = sorted(values)[math.floor(q * (len(values) - 1))]
    if abs(exact) < TINY:
        assert estimate == 0.0
    else:
        assert abs(estimate / 2 - exact / 2) <= (alpha + ROUNDING) * abs(exact) / 2


@given(values=VALUES, cuts=st.lists(st.integers(0, 60), max_size=4), alpha=ALPHAS)
def test_merging_parts_equals_the_whole(values: list[float], cuts: list[int], alpha: float) -> None:
    edges = [0, *sorted(cuts), len(values)]
    parts = [QuantileSketch.of(values[a:b], alpha) for a, b in itertools.pairwise(edges)]
    whole = QuantileSketch.of(values, alpha)
    assert parts[0].merge(*parts[1:]) == whole
    assert parts[-1].merge(*parts[:-1]) == whole


@given(values=VALUES, alpha=ALPHAS)
def test_bytes_round_trip(values: list[float], alpha: float) -> None:
    sketch = QuantileSketch.of(values, alpha)
    assert QuantileSketch.from_bytes(sketch.to_bytes()) == sketch


@given(values=st.lists(FINITE, min_size=2, max_size=60))
def test_codes_are_ordered_like_values(values: list[float]) -> None:
    codes = bin_codes(np.sort(np.array(values)))
    assert (np.diff(codes) >= 0).all()


def test_the_ends_of_the_range_of_doubles_are_told() -> None:
    values = np.array([-np.finfo(np.float64).max, -TINY, 0.0, TINY, np.finfo(np.float64).max])
    with np.errstate(invalid="ignore"):
        told = bin_values(bin_codes(values))
    assert np.isfinite(told).all()
    np.testing.assert_allclose(told, values, rtol=0.01 + ROUNDING)


def test_wide_counts_survive_bytes() -> None:
    sketch = QuantileSketch.of([1.0])
    for _ in range(40):
        sketch = sketch.merge(sketch)
    assert sketch.num_values == 2**40
    assert QuantileSketch.from_bytes(sketch.to_bytes()) == sketch


def test_a_percentile_of_a_million_agrees_with_numpy() -> None:
    values = np.random.default_rng(0).lognormal(size=1_000_000)
    sketch = QuantileSketch.of(values)
    for q in (0.0, 0.05, 0.5, 0.95, 0.99, 1.0):
        exact = np.quantile(values, q, method="lower")
        assert sketch.quantile(q) == pytest.approx(exact, rel=0.01 + ROUNDING)


def test_an_empty_sketch_has_no_quantile() -> None:
    assert math.isnan(QuantileSketch.of([]).quantile(0.5))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"values\[1\]=nan: a sketch holds finite numbers only"):
        QuantileSketch.of([1.0, math.nan])
    with pytest.raises(ValueError, match=r"alpha=1\.0: must be in \(0, 1\)"):
        QuantileSketch.of([1.0], alpha=1.0)
    with pytest.raises(ValueError, match=r"q=1\.5: must be in \[0, 1\]"):
        QuantileSketch.of([1.0]).quantile(1.5)
    with pytest.raises(ValueError, match=r"alpha=0\.1: cannot merge into alpha=0\.01"):
        QuantileSketch.of([1.0]).merge(QuantileSketch.of([1.0], alpha=0.1))
    data = QuantileSketch.of([1.0, 5.0]).to_bytes()
    with pytest.raises(ValueError, match=r"22 bytes: 2 bins of 1-byte counts: 23"):
        QuantileSketch.from_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"3 bytes: a sketch has at least 13"):
        QuantileSketch.from_bytes(data[:3])
