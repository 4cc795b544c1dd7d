"""Chart reads that keep every spike: an exact band per pixel, and a line that looks like the data.

A view of `width` pixels over a range of steps is cut into at most `width` pixels of equally many
steps. The *band* of a pixel is the exact minimum and maximum of the values in it, with the steps
where they are; the *line* is a choice of about `width` points by MinMax-LTTB, which always keeps
the first and the last. NaN and infinities are *marks*: they never move band or line, and never
vanish. The same code reads raw points (any zoom) and roll-ups (`level` of `choose_level`; a bucket
of the line is then a whole number of roll-up buckets, so the band stays exact).

Source: Donckt et al., "MinMaxLTTB: Leveraging MinMax-Preselection to Scale LTTB", IEEE VIS 2023,
with preselection ratio 4; LTTB is Steinarsson's thesis, 2013. The band is what Weights & Biases'
full fidelity mode draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinsmith.telemetry.model import PointColumns
from tinsmith.telemetry.rollups import (
    LEVELS,
    ROW,
    Rollups,
    merge_buckets,
    refresh_rollups,
    rollup_points,
)
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.lines import AttemptChoice

__all__ = [
    "Band",
    "Chart",
    "Line",
    "NonFiniteMark",
    "View",
    "chart_points",
    "chart_rollups",
    "choose_level",
    "lttb",
    "read_chart",
]

_BINS_PER_PIXEL = 2
"""Each gives its minimum and its maximum to the line: preselection ratio 4."""


class NonFiniteMark(NamedTuple):
    """The NaN and infinite values of one pixel; `step` is the first one's."""

    step: int
    num_nan: int
    num_pos_inf: int
    num_neg_inf: int


@dataclass(frozen=True, slots=True)
class Band:
    """Extremes of the finite values of each pixel that has any, by ascending step.

    Attributes:
        starts: first step of each pixel; it covers `pixel_steps` steps.
        low, high: exact minimum and maximum.
        low_steps, high_steps: where they are; of equal values, the first.
    """

    starts: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    low_steps: NDArray[np.int64]
    high_steps: NDArray[np.int64]


class Line(NamedTuple):
    """Recorded points to draw a line through, by ascending step; all finite."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chart:
    """What a chart of one series needs.

    Attributes:
        pixel_steps: steps a pixel; 1 where every point has a pixel of its own.
        band: extremes of each pixel.
        line: chosen points.
        marks: non-finite values.
        num_points: points in view, non-finite ones included.
    """

    pixel_steps: int
    band: Band
    line: Line
    marks: tuple[NonFiniteMark, ...]
    num_points: int


class View(NamedTuple):
    """The steps that a chart shows; by default all."""

    first_step: int | None = None
    last_step: int | None = None


_EVERYTHING = View()


def read_chart(
    store: Store,
    run_id: str,
    key: str,
    *,
    view: View = _EVERYTHING,
    width: int = 1500,
    rank: int = 0,
    attempt: AttemptChoice = "effective",
) -> Chart:
    """Chart one metric of a run, through its roll-ups where the view is long enough.

    Brings the roll-ups up to date first, so that nothing recorded is left out.

    Args:
        store: Where the run is.
        run_id: The run.
        key: The metric; one without points gives an empty chart.
        view: First and last step shown, both included.
        width: Pixels, at least 3.
        rank: Whose points.
        attempt: As in `Store.points`; an old line, which has no roll-ups, is read point by point.
    """
    _check_width(width)
    if attempt == "all":
        raise ValueError("attempt='all': a chart draws one line; give an attempt's number")
    if attempt == "effective":
        refresh_rollups(store, run_id)
        extent = _extent(store, run_id, key, rank, view)
        level = choose_level(extent[1] - extent[0] + 1, width)
        if level > 1:
            bins = _bins(store, run_id, (key, rank), extent, level)
            return chart_rollups(bins, width=width)
    points = store.points(
        run_id,
        [key],
        first_step=view.first_step,
        last_step=view.last_step,
        ranks=[rank],
        attempt=attempt,
    )
    return chart_points(points.step, points.value, width=width)


def _extent(store: Store, run_id: str, key: str, rank: int, view: View) -> tuple[int, int]:
    """First and last step that a view can show."""
    level = LEVELS[-1]
    rows = store.rollups(run_id, [key], level, ranks=[rank], with_sketches=False)
    if not rows:
        return 0, 0
    first, last = rows[0].bucket * level, rows[-1].bucket * level + level - 1
    if view.first_step is not None:
        first = max(first, view.first_step)
    if view.last_step is not None:
        last = min(last, view.last_step)
    return first, max(first, last)


def _bins(
    store: Store, run_id: str, series: tuple[str, int], extent: tuple[int, int], level: int
) -> Rollups:
    """Roll-ups of the whole buckets in view, between points rolled up where it cuts a bucket."""
    key, rank = series
    first, last = extent
    first_whole, after_whole = -(-first // level), (last + 1) // level

    def read_points(start: int, stop: int) -> Rollups:
        points = PointColumns.empty()
        if start < stop:
            points = store.points(run_id, [key], first_step=start, last_step=stop - 1, ranks=[rank])
        return rollup_points(points.step, points.value, level, with_sketches=False)

    rows = store.rollups(
        run_id,
        [key],
        level,
        first_bucket=first_whole,
        last_bucket=after_whole - 1,
        ranks=[rank],
        with_sketches=False,
    )
    parts = (
        read_points(first, first_whole * level),
        Rollups.from_rows(level, rows, with_sketches=False),
        read_points(after_whole * level, last + 1),
    )
    return Rollups(level, np.concatenate([part.rows for part in parts], dtype=ROW), None)


def choose_level(num_steps: int, width: int) -> int:
    """Return the roll-up level to read for a view, or 1 for raw points.

    Example:
        >>> choose_level(10_000_000, width=1500), choose_level(20_000, width=1500)
        (1000, 1)
    """
    fitting = [level for level in LEVELS if level * width * _BINS_PER_PIXEL <= num_steps]
    return max(fitting, default=1)


def chart_points(
    steps: NDArray[np.int64], values: NDArray[np.float64], *, width: int = 1500
) -> Chart:
    """Chart raw points.

    Args:
        steps: strictly ascending; the view is from the first to the last.
        values: one a step.
        width: pixels, at least 3.
    """
    _check_width(width)
    if len(steps) <= _BINS_PER_PIXEL * width:
        return _chart(rollup_points(steps, values, 1, with_sketches=False), width)
    num_steps = int(steps[-1]) - int(steps[0]) + 1
    bin_steps = -(-num_steps // (_BINS_PER_PIXEL * width))
    return _chart(rollup_points(steps, values, bin_steps, with_sketches=False), width)


def chart_rollups(rollups: Rollups, *, width: int = 1500) -> Chart:
    """Chart roll-ups of one level; at the view's ends a bucket may hold its visible part only."""
    _check_width(width)
    bare = Rollups(rollups.level, rollups.rows, None)
    if len(bare) == 0:
        return _chart(bare, width)
    buckets = bare.rows["bucket"]
    num_buckets = int(buckets[-1]) - int(buckets[0]) + 1
    ratio = -(-num_buckets // (_BINS_PER_PIXEL * width))
    return _chart(merge_buckets(bare, bare.level * ratio), width)


def _check_width(width: int) -> None:
    if width < 3:
        raise ValueError(f"width={width}: a chart has at least 3 pixels")


def _chart(bins: Rollups, width: int) -> Chart:
    pixel_steps = bins.level if bins.level == 1 else bins.level * _BINS_PER_PIXEL
    pixels = merge_buckets(bins, pixel_steps).rows
    is_drawn = pixels["n"] > 0
    drawn = pixels[is_drawn]
    band = Band(
        drawn["bucket"] * pixel_steps,
        drawn["minimum"],
        drawn["maximum"],
        drawn["minimum_step"],
        drawn["maximum_step"],
    )
    odd = pixels[pixels["num_nan"] + pixels["num_pos_inf"] + pixels["num_neg_inf"] > 0]
    fields = ["nonfinite_step", "num_nan", "num_pos_inf", "num_neg_inf"]
    marks = tuple(NonFiniteMark(*row) for row in odd[fields].tolist())
    num_points = int(pixels["n"].sum()) + sum(sum(mark[1:]) for mark in marks)
    return Chart(pixel_steps, band, lttb(_candidates(bins), width), marks, num_points)


def _candidates(bins: Rollups) -> Line:
    """The extremes of each bin, and the first and last point of all."""
    rows = bins.rows[bins.rows["n"] > 0]
    if len(rows) == 0:
        return Line(np.empty(0, np.int64), np.empty(0))
    steps = np.concatenate(
        [rows["minimum_step"], rows["maximum_step"], rows["first_step"][:1], rows["last_step"][-1:]]
    )
    values = np.concatenate(
        [rows["minimum"], rows["maximum"], rows["first"][:1], rows["last"][-1:]]
    )
    steps, places = np.unique(steps, return_index=True)
    return Line(steps, values[places])


def lttb(line: Line, num_points: int) -> Line:
    """Choose about `num_points` of a line's points: largest triangle, three buckets.

    The first and the last are kept; of each of `num_points - 2` buckets of equally many points
    between them, the one that spans the largest triangle with the point chosen before it and the
    mean of the next bucket.
    """
    if len(line.steps) <= num_points:
        return line
    # Counted from the first step and scaled, so that areas neither overflow nor lose digits.
    steps = line.steps.view(np.uint64)
    x = (steps - steps[0]).astype(np.float64)
    y = np.ldexp(line.values, -np.frexp(np.abs(line.values).max())[1])
    edges = np.linspace(1, len(x) - 1, num_points - 1).astype(np.int64)
    sizes = np.diff(edges)
    next_x = [*(np.add.reduceat(x[:-1], edges[:-1]) / sizes)[1:].tolist(), float(x[-1])]
    next_y = [*(np.add.reduceat(y[:-1], edges[:-1]) / sizes)[1:].tolist(), float(y[-1])]
    xs, ys, bounds = x.tolist(), y.tolist(), edges.tolist()
    chosen = [0]
    for bucket in range(len(bounds) - 1):
        ax, ay = xs[chosen[-1]], ys[chosen[-1]]
        dx, dy = next_x[bucket] - ax, next_y[bucket] - ay
        best, best_area = bounds[bucket], -1.0
        for i in range(bounds[bucket], bounds[bucket + 1]):
            area = abs((xs[i] - ax) * dy - dx * (ys[i] - ay))
            if area > best_area:
                best, best_area = i, area
        chosen.append(best)
    chosen.append(len(xs) - 1)
    return Line(line.steps[chosen], line.values[chosen])
