"""Windows against the definition, window by window."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.telemetry.model import PointColumns
from tinsmith.telemetry.query.windows import in_steps, in_time, last_n, last_time, sliding

SECOND = 1_000_000_000


def series(num_points: int = 10, key: int = 0, rank: int = 0) -> PointColumns:
    steps = np.arange(num_points) * 5
    return PointColumns.of(
        ("loss", "lr"),
        np.full(num_points, key),
        steps,
        steps * 1.0,
        ts_ns=steps * SECOND,
        rank=rank,
    )


def joined(*parts: PointColumns) -> PointColumns:
    rows = sorted(row for part in parts for row in part.rows())
    return PointColumns.from_rows(rows)


def test_the_last_n_of_each_series() -> None:
    points = joined(series(6), series(3, key=1), series(4, rank=1))
    kept = sorted(row[:3] for row in last_n(points, 2).rows())
    assert kept == [
        ("loss", 10, 1),
        ("loss", 15, 1),
        ("loss", 20, 0),
        ("loss", 25, 0),
        ("lr", 5, 0),
        ("lr", 10, 0),
    ]
    assert len(last_n(points, 100)) == len(points)
    assert len(last_n(PointColumns.empty(), 3)) == 0


def test_ranges_include_both_ends() -> None:
    assert in_steps(series(), 10, 20).step.tolist() == [10, 15, 20]
    assert in_time(series(), 10 * SECOND, 20 * SECOND).step.tolist() == [10, 15, 20]
    assert last_time(series(), 10).step.tolist() == [35, 40, 45]
    assert last_time(series(), 10, now_ns=20 * SECOND).step.tolist() == [10, 15, 20]
    assert len(last_time(PointColumns.empty(), 1.0)) == 0


@given(
    points=st.dictionaries(st.integers(-50, 50), st.floats(), max_size=30),
    size=st.integers(1, 40),
    every=st.integers(1, 40),
    origin=st.integers(-20, 20),
)
def test_each_sliding_window_is_what_its_bounds_say(
    points: dict[int, float], size: int, every: int, origin: int
) -> None:
    x = np.array(sorted(points), dtype=np.int64)
    values = np.array([points[at] for at in x.tolist()], dtype=np.float64)
    stats = sliding(x, values, size, every=every, origin=origin)
    expected = {}
    for number in range(-300, 300):
        start = origin + number * every
        inside = values[(x >= start) & (x < start + size)]
        if len(inside):
            expected[start] = inside
    assert stats.start.tolist() == sorted(expected)
    for i, start in enumerate(sorted(expected)):
        inside = expected[start]
        finite = inside[np.isfinite(inside)]
        assert stats.count[i] == len(finite)
        assert stats.num_nonfinite[i] == len(inside) - len(finite)
        with np.errstate(over="ignore", invalid="ignore"):
            for told, reference in (
                (stats.mean, np.mean(finite) if len(finite) else math.nan),
                (stats.min, np.min(finite) if len(finite) else math.nan),
                (stats.max, np.max(finite) if len(finite) else math.nan),
                (stats.std, np.std(finite, ddof=1) if len(finite) > 1 else math.nan),
                (stats.quantiles[0.95], np.quantile(finite, 0.95) if len(finite) else math.nan),
            ):
                np.testing.assert_equal(told[i], reference)


def test_bad_windows_are_refused() -> None:
    x, values = np.arange(3), np.arange(3.0)
    with pytest.raises(ValueError, match="size=0: must be 1 or more"):
        sliding(x, values, 0)
    with pytest.raises(ValueError, match="every=-1: must be 1 or more"):
        sliding(x, values, 2, every=-1)
    with pytest.raises(ValueError, match=r"quantiles=\[95\]: must be in \[0, 1\]"):
        sliding(x, values, 2, quantiles=(95,))
    with pytest.raises(ValueError, match="x must ascend"):
        sliding(x[::-1], values, 2)
    with pytest.raises(ValueError, match="3 places and 2 values"):
        sliding(x, values[:2], 2)
    with pytest.raises(ValueError, match="n=0: must be 1 or more"):
        last_n(series(), 0)
    with pytest.raises(ValueError, match=r"seconds=0\.0: must be positive"):
        last_time(series(), 0.0)
