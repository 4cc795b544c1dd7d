"""Roll-ups against exact arithmetic, and level by level against points."""

import math
import statistics
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith.telemetry.rollups import (
    LEVELS,
    QuantileSketch,
    Rollups,
    merge_buckets,
    rollup_points,
    variance,
)

POINTS = st.dictionaries(st.integers(-40_000, 40_000), st.floats(), max_size=80)


def columns(points: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array(sorted(points), dtype=np.int64)
    return steps, np.array([points[step] for step in steps.tolist()], dtype=np.float64)


def assert_same_bits(a: Rollups, b: Rollups) -> None:
    assert a.level == b.level
    assert a.rows.tobytes() == b.rows.tobytes()
    assert a.sketches is not None
    assert b.sketches is not None
    assert list(a.sketches) == list(b.sketches)


@given(points=POINTS)
def test_each_bucket_tells_what_exact_arithmetic_tells(points: dict[int, float]) -> None:
    rollups = rollup_points(*columns(points))
    assert rollups.rows["bucket"].tolist() == sorted({step // 100 for step in points})
    for i, row in enumerate(rollups.rows):
        inside = {s: v for s, v in sorted(points.items()) if s // 100 == row["bucket"]}
        finite = {s: v for s, v in inside.items() if math.isfinite(v)}
        assert row["n"] == len(finite)
        assert row["num_nan"] == sum(map(math.isnan, inside.values()))
        assert row["num_pos_inf"] == sum(v == math.inf for v in inside.values())
        assert row["num_neg_inf"] == sum(v == -math.inf for v in inside.values())
        odd = [s for s in inside if s not in finite]
        assert row["nonfinite_step"] == (odd[0] if odd else 0)
        assert rollups.sketches is not None
        assert rollups.sketches[i] == QuantileSketch.of(finite.values())
        if not finite:
            assert np.isnan([row[f] for f in ("mean", "minimum", "maximum", "first", "last")]).all()
            continue
        steps, values = list(finite), list(finite.values())
        low, high = min(values), max(values)
        assert (row["first_step"], row["first"]) == (steps[0], values[0])
        assert (row["last_step"], row["last"]) == (steps[-1], values[-1])
        assert (row["minimum_step"], row["minimum"]) == (steps[values.index(low)], low)
        assert (row["maximum_step"], row["maximum"]) == (steps[values.index(high)], high)
        assert_moments(row, values)


def assert_moments(row: np.void, values: list[float]) -> None:
    exact = [Fraction(value) for value in values]
    largest = max(abs(value) for value in values)
    # n roundings of numbers up to 2 max|x|, each of relative size 2^-53; the smallest double where
    # even that vanishes.
    slack = len(values) * 4 * 2.0**-53 * largest + 5e-324
    mean = statistics.mean(exact)
    assert abs(Fraction(float(row["mean"])) - mean) <= Fraction(slack)
    m2 = sum((value - mean) ** 2 for value in exact)
    if m2 < Fraction(1e300) and math.isfinite(row["m2"]):
        # An error d in the mean adds n d^2; the differences themselves carry relative 2^-52.
        bound = m2 * Fraction(1e-12) + len(values) * Fraction(slack) ** 2 + Fraction(1e-300)
        assert abs(Fraction(float(row["m2"])) - m2) <= bound * 4 + 2 * Fraction(slack) * sum(
            abs(value - mean) for value in exact
        )
    total = sum(exact)
    if math.isfinite(row["total"]):
        assert abs(Fraction(float(row["total"])) - total) <= Fraction(slack) * len(values)


def test_variance_survives_a_large_offset() -> None:
    values = 1e9 + np.random.default_rng(1).normal(size=100)
    row = rollup_points(np.arange(100), values).rows
    assert variance(row)[0] == pytest.approx(np.var(values - 1e9, ddof=1), rel=1e-12)
    assert row["mean"][0] == pytest.approx(np.mean(values), rel=1e-15)


def test_a_constant_has_no_variance_at_any_level() -> None:
    rollups = rollup_points(np.arange(1000), np.full(1000, 0.1))
    for level in LEVELS[1:]:
        rollups = merge_buckets(rollups, level)
        assert rollups.rows["m2"].tolist() == [0.0]
        assert rollups.rows["mean"].tolist() == [0.1]


def test_variance_of_one_value_is_unknown() -> None:
    assert np.isnan(variance(rollup_points(np.array([5]), np.array([1.0])).rows)).all()


@given(points=POINTS)
def test_levels_agree_with_points(points: dict[int, float]) -> None:
    steps, values = columns(points)
    lower = rollup_points(steps, values)
    for level in LEVELS[1:]:
        lower = merge_buckets(lower, level)
        direct = rollup_points(steps, values, level)
        exact = [f for f in lower.rows.dtype.names or () if f not in {"total", "mean", "m2"}]
        for field in exact:
            np.testing.assert_array_equal(lower.rows[field], direct.rows[field])
        scale = np.maximum(abs(direct.rows["minimum"]), abs(direct.rows["maximum"]))
        error = abs(lower.rows["mean"] / 2 - direct.rows["mean"] / 2)
        assert not (error > 1e-13 * scale + 5e-324).any()
        assert lower.sketches is not None
        assert direct.sketches is not None
        assert list(lower.sketches) == list(direct.sketches)


@given(points=POINTS)
def test_rows_round_trip(points: dict[int, float]) -> None:
    rollups = rollup_points(*columns(points))
    rows = rollups.to_rows("loss", 3)
    assert all(row[:3] == ("loss", 3, 100) for row in rows)
    assert_same_bits(Rollups.from_rows(100, rows), rollups)
    bare = Rollups.from_rows(100, rows, with_sketches=False)
    assert bare.sketches is None
    assert bare.rows.tobytes() == rollups.rows.tobytes()


@given(points=POINTS, start=st.integers(-41_000, 41_000), length=st.integers(0, 20_000))
@settings(max_examples=50)
def test_a_range_holds_whole_buckets_only(
    points: dict[int, float], start: int, length: int
) -> None:
    rollups = rollup_points(*columns(points))
    part = rollups.in_steps(start, start + length)
    inside = [
        b
        for b in rollups.rows["bucket"].tolist()
        if start <= b * 100 and (b + 1) * 100 <= start + length
    ]
    assert part.rows["bucket"].tolist() == inside
    assert part.sketches is not None
    assert len(part.sketches) == len(part)
    whole = {row["bucket"]: i for i, row in enumerate(rollups.rows)}
    assert rollups.sketches is not None
    for i, bucket in enumerate(inside):
        assert part.sketches[i] == rollups.sketches[whole[bucket]]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must ascend strictly"):
        rollup_points(np.array([2, 2]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="2 steps and 1 values"):
        rollup_points(np.array([1, 2]), np.array([1.0]))
    with pytest.raises(ValueError, match="level=150: must be a multiple of 100"):
        merge_buckets(Rollups.empty(100), 150)
