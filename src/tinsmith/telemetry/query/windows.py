"""Windows of a series: the last n points, the last stretch of time, a range, sliding windows.

Pure functions over columns. A sliding window is half-open, [start, start + size); windows start at
`origin` and every `every` from there, so that the windows of two runs line up; empty ones are left
out. Statistics are of the finite values; the others are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith.telemetry.model import PointColumns

__all__ = ["WindowStats", "in_steps", "in_time", "last_n", "last_time", "sliding"]


def last_n(points: PointColumns, n: int) -> PointColumns:
    """Return the last n points of each series (key and rank), in their order.

    Args:
        points: By key and step, as a store returns them.
        n: How many; at least 1.
    """
    if n < 1:
        raise ValueError(f"n={n}: must be 1 or more")
    order = np.lexsort((points.step, points.rank, points.key))
    keys, ranks = points.key[order], points.rank[order]
    is_end = np.ones(len(order), np.bool_)
    is_end[:-1] = (keys[1:] != keys[:-1]) | (ranks[1:] != ranks[:-1])
    ends = np.flatnonzero(is_end)
    to_end = np.repeat(ends, np.diff(ends, prepend=-1)) - np.arange(len(order))
    return points.take(np.sort(order[to_end < n]))


def in_steps(points: PointColumns, first: int, last: int) -> PointColumns:
    """Return the points of the steps from `first` to `last`, both included."""
    return points.take((points.step >= first) & (points.step <= last))


def in_time(points: PointColumns, since_ns: int, until_ns: int) -> PointColumns:
    """Return the points recorded from `since_ns` to `until_ns`, both included."""
    return points.take((points.ts_ns >= since_ns) & (points.ts_ns <= until_ns))


def last_time(points: PointColumns, seconds: float, now_ns: int | None = None) -> PointColumns:
    """Return the points of the last so many seconds.

    Args:
        points: Any.
        seconds: Length of the window, positive.
        now_ns: Its end, included; by default the time of the latest point.
    """
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: must be positive")
    if now_ns is None:
        now_ns = int(points.ts_ns.max(initial=0))
    return in_time(points, now_ns - round(seconds * 1e9), now_ns)


@dataclass(frozen=True, slots=True)
class WindowStats:
    """Statistics of windows, by ascending start; columns of equal length.

    Attributes:
        start: Where each window begins.
        count: Number of finite values in it.
        num_nonfinite: Number of NaN and infinite ones.
        mean, min, max: Of the finite values; NaN where there are none.
        std: Sample standard deviation (ddof=1); NaN below two values.
        quantiles: A column for each q asked for, as `numpy.quantile` (linear interpolation).
    """

    start: NDArray[np.int64]
    count: NDArray[np.int64]
    num_nonfinite: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    quantiles: dict[float, NDArray[np.float64]]


def sliding(
    x: NDArray[np.int64],
    values: NDArray[np.float64],
    size: int,
    *,
    every: int | None = None,
    origin: int = 0,
    quantiles: Sequence[float] = (0.5, 0.95),
) -> WindowStats:
    """Return statistics of sliding windows over one series.

    Args:
        x: Steps or times, ascending.
        values: One at each x.
        size: Length of a window, in the unit of x; positive.
        every: Distance between starts; by default `size`, so that windows touch.
        origin: Where a window starts.
        quantiles: Which ones, each in [0, 1].

    Raises:
        ValueError: an argument is out of its range, or x does not ascend.
    """
    every = size if every is None else every
    _check(x, values, size, every, quantiles)
    starts, bounds = _window_bounds(x, size, every, origin)
    rows = [_stats(values[lo:hi], quantiles) for lo, hi in bounds]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 6 + len(quantiles)).T
    count, num_nonfinite, mean, std, low, high = table[:6]
    return WindowStats(
        start=starts,
        count=count.astype(np.int64),
        num_nonfinite=num_nonfinite.astype(np.int64),
        mean=mean,
        std=std,
        min=low,
        max=high,
        quantiles=dict(zip(quantiles, table[6:], strict=True)),
    )


def _check(
    x: NDArray[np.int64],
    values: NDArray[np.float64],
    size: int,
    every: int,
    quantiles: Sequence[float],
) -> None:
    if size < 1:
        raise ValueError(f"size={size}: must be 1 or more")
    if every < 1:
        raise ValueError(f"every={every}: must be 1 or more")
    bad = [q for q in quantiles if not 0.0 <= q <= 1.0]
    if bad:
        raise ValueError(f"quantiles={bad}: must be in [0, 1]")
    if len(x) != len(values):
        raise ValueError(f"{len(x)} places and {len(values)} values: one value a place")
    if (np.diff(x) < 0).any():
        raise ValueError("x must ascend")


def _window_bounds(
    x: NDArray[np.int64], size: int, every: int, origin: int
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Starts of the windows that hold a point, and their slices of x."""
    if len(x) == 0:
        return np.empty(0, np.int64), []
    # Points lie in the windows k with k every <= x - origin < k every + size.
    last = (x - origin) // every
    first = -((size - 1 - (x - origin)) // every)
    is_new = (np.diff(first, prepend=first[0] - 1) > 0) | (np.diff(last, prepend=last[0] - 1) > 0)
    spans = zip(first[is_new].tolist(), last[is_new].tolist(), strict=True)
    numbers = [number for a, b in spans for number in range(a, b + 1)]
    starts = origin + np.unique(np.array(numbers, dtype=np.int64)) * every
    lows = np.searchsorted(x, starts)
    highs = np.searchsorted(x, starts + size)
    return starts, list(zip(lows.tolist(), highs.tolist(), strict=True))


def _stats(values: NDArray[np.float64], quantiles: Sequence[float]) -> list[float]:
    finite = values[np.isfinite(values)]
    count = len(finite)
    if count == 0:
        return [0, len(values), *[np.nan] * (4 + len(quantiles))]
    with np.errstate(over="ignore", invalid="ignore"):
        std = float(finite.std(ddof=1)) if count > 1 else np.nan
        inner = [float(q) for q in np.quantile(finite, quantiles)] if quantiles else []
        return [
            count,
            len(values) - count,
            float(finite.mean()),
            std,
            float(finite.min()),
            float(finite.max()),
            *inner,
        ]
