"""Chart reads: the band is exact, spikes stay, NaN shows, at every zoom and from roll-ups too."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.telemetry.records import stored_run
from tinsmith.telemetry.charts import (
    Chart,
    Line,
    View,
    chart_points,
    chart_rollups,
    choose_level,
    lttb,
    read_chart,
)
from tinsmith.telemetry.model import Batch, PointColumns
from tinsmith.telemetry.rollups import Rollups, merge_buckets, rollup_points
from tinsmith.telemetry.stores import MemoryStore

WIDTH = 300


def noisy_loss(num_points: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    decay = 2.0 * np.exp(-np.arange(num_points) / num_points)
    return decay + rng.normal(scale=0.05, size=num_points)


def rolled(steps: np.ndarray, values: np.ndarray, level: int) -> Rollups:
    return rollup_points(steps, values, level, with_sketches=False)


def assert_exact(chart: Chart, steps: np.ndarray, values: np.ndarray) -> None:
    """Every pixel's band is the extremes of the finite points in it, and the line is of points."""
    finite = np.isfinite(values)
    kept_steps, kept = steps[finite], values[finite]
    pixels = kept_steps // chart.pixel_steps
    assert chart.band.starts.tolist() == (np.unique(pixels) * chart.pixel_steps).tolist()
    for i, pixel in enumerate(np.unique(pixels)):
        inside = kept[pixels == pixel]
        assert chart.band.low[i] == inside.min()
        assert chart.band.high[i] == inside.max()
        assert chart.band.low_steps[i] == kept_steps[pixels == pixel][inside.argmin()]
        assert chart.band.high_steps[i] == kept_steps[pixels == pixel][inside.argmax()]
    recorded = dict(zip(steps.tolist(), values.tolist(), strict=True))
    line = list(zip(chart.line.steps.tolist(), chart.line.values.tolist(), strict=True))
    assert all(recorded[step] == value for step, value in line)
    assert [step for step, _ in line] == sorted({step for step, _ in line})
    if len(kept):
        assert line[0] == (kept_steps[0], kept[0])
        assert line[-1] == (kept_steps[-1], kept[-1])
    assert sum(sum(mark[1:]) for mark in chart.marks) == int((~finite).sum())
    assert chart.num_points == len(steps)


@given(
    points=st.dictionaries(st.integers(-3000, 3000), st.floats(), max_size=200),
    width=st.integers(3, 40),
)
def test_band_line_and_marks_are_exact_for_any_points(points: dict[int, float], width: int) -> None:
    steps = np.array(sorted(points), dtype=np.int64)
    values = np.array([points[step] for step in steps.tolist()], dtype=np.float64)
    chart = chart_points(steps, values, width=width)
    assert_exact(chart, steps, values)
    assert len(chart.line.steps) <= max(width, 2 * width if len(steps) <= 2 * width else 0)


@given(
    points=st.dictionaries(st.integers(-9000, 9000), st.floats(), max_size=200),
    width=st.integers(3, 40),
)
@settings(max_examples=50)
def test_roll_ups_chart_as_exactly_as_points(points: dict[int, float], width: int) -> None:
    steps = np.array(sorted(points), dtype=np.int64)
    values = np.array([points[step] for step in steps.tolist()], dtype=np.float64)
    assert_exact(chart_rollups(rolled(steps, values, 100), width=width), steps, values)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("source", ["points", "roll-ups"])
def test_twenty_of_twenty_planted_spikes_are_kept(seed: int, source: str) -> None:
    steps, values = np.arange(100_000), noisy_loss(100_000, seed)
    spikes = np.random.default_rng(100 + seed).choice(100_000, size=20, replace=False)
    values[spikes] = 50.0 + np.arange(20)
    if source == "points":
        chart = chart_points(steps, values, width=1500)
    else:
        level = choose_level(1_000_000, width=300)
        chart = chart_rollups(rolled(steps, values, level), width=1500)
        assert level == 1000
    # Two spikes in one pixel are one column on the screen: the higher one's top.
    for spike in spikes:
        pixel = np.searchsorted(chart.band.starts, spike, side="right") - 1
        assert chart.band.high[pixel] >= values[spike]
        assert values[chart.band.high_steps[pixel]] == chart.band.high[pixel]
    if source == "points":
        assert len(np.intersect1d(chart.line.steps, spikes)) >= 19


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 100_000), (40_000, 52_000), (41_234, 41_235 + 900)]
)
def test_a_spike_is_in_view_at_every_zoom(start: int, stop: int) -> None:
    values = noisy_loss(100_000, seed=9)
    values[41_777] = 50.0
    chart = chart_points(np.arange(start, stop), values[start:stop], width=WIDTH)
    assert chart.band.high.max() == 50.0
    assert 41_777 in chart.line.steps
    assert len(chart.band.starts) <= WIDTH + 1 or chart.pixel_steps == 1


def test_marks_tell_the_first_step_and_each_kind() -> None:
    values = noisy_loss(100_000, seed=3)
    values[[70_001, 70_002, 70_003, 5]] = [math.nan, math.inf, -math.inf, math.nan]
    chart = chart_points(np.arange(100_000), values, width=WIDTH)
    assert [tuple(mark) for mark in chart.marks] == [(5, 1, 0, 0), (70_001, 1, 1, 1)]
    through = chart_rollups(rolled(np.arange(100_000), values, 100), width=WIDTH)
    assert through.marks == chart.marks


def test_few_points_are_all_on_the_line_unchanged() -> None:
    steps = np.array([3, 10, 11, 500_000])
    chart = chart_points(steps, np.array([1.0, 2.0, math.nan, 4.0]))
    assert chart.line.steps.tolist() == [3, 10, 500_000]
    assert chart.line.values.tolist() == [1.0, 2.0, 4.0]


def test_nothing_to_draw_is_an_empty_chart() -> None:
    empty = np.empty(0, np.int64)
    for chart in (
        chart_points(empty, np.empty(0)),
        chart_rollups(Rollups(100, rolled(empty, np.empty(0), 100).rows, None)),
    ):
        assert chart.num_points == 0
        assert len(chart.band.starts) == len(chart.line.steps) == len(chart.marks) == 0
    only_nan = chart_points(np.arange(4), np.full(4, math.nan))
    assert only_nan.num_points == 4
    assert len(only_nan.line.steps) == 0
    assert len(only_nan.marks) == 4


def naive_lttb(x: np.ndarray, y: np.ndarray, edges: np.ndarray) -> list[int]:
    """Steinarsson's algorithm as the thesis tells it, given the buckets."""
    chosen = [0]
    for i in range(len(edges) - 1):
        last = i == len(edges) - 2
        after = slice(len(x) - 1, len(x)) if last else slice(edges[i + 1], edges[i + 2])
        corner = x[after].mean(), y[after].mean()
        a = chosen[-1]
        areas = [
            abs(np.linalg.det([[x[a], y[a], 1], [x[b], y[b], 1], [*corner, 1]])) / 2
            for b in range(edges[i], edges[i + 1])
        ]
        chosen.append(int(edges[i] + np.argmax(areas)))
    return [*chosen, len(x) - 1]


def test_lttb_equals_the_textbook() -> None:
    values = np.random.default_rng(5).normal(size=200)
    line = lttb(Line(np.arange(200) * 3 + 7, values), 30)
    edges = np.linspace(1, 199, 29).astype(int)
    expected = naive_lttb(np.arange(200) * 3.0, values, edges)
    assert line.values.tolist() == values[expected].tolist()


def test_huge_values_do_not_overflow_the_choice() -> None:
    values = np.random.default_rng(5).normal(size=200)
    plain = lttb(Line(np.arange(200), values), 30)
    huge = lttb(Line(np.arange(200), np.ldexp(values, 1020)), 30)
    assert huge.steps.tolist() == plain.steps.tolist()


def test_levels_are_the_coarsest_that_give_each_pixel_two_buckets() -> None:
    assert choose_level(10_000_000, width=1500) == 1000
    assert choose_level(30_000_000, width=1500) == 10_000
    assert choose_level(300_000, width=1500) == 100
    assert choose_level(299_999, width=1500) == 1


def test_merging_levels_charts_the_same() -> None:
    values = noisy_loss(240_000, seed=0)
    lower = rolled(np.arange(240_000), values, 100)
    by_100 = chart_rollups(lower, width=WIDTH)
    by_1000 = chart_rollups(merge_buckets(lower, 1000), width=WIDTH)
    np.testing.assert_array_equal(by_100.band.high.max(), by_1000.band.high.max())
    assert (by_100.pixel_steps, by_1000.pixel_steps) == (800, 2000)


def test_a_chart_of_two_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="width=2: a chart has at least 3 pixels"):
        chart_points(np.arange(4), np.arange(4.0), width=2)


# ------------------------------------------------------------------------------- from a store


def recorded(values: np.ndarray, start: int = 0) -> tuple[MemoryStore, str]:
    store = MemoryStore()
    run_id = stored_run(store)
    steps = np.arange(len(values)) + start
    store.append(
        run_id, Batch(points=PointColumns.of(("loss",), np.zeros(len(steps)), steps, values))
    )
    return store, run_id


@pytest.mark.parametrize("view", [View(), View(1050, 8949), View(250, None), View(0, 699)])
def test_a_store_charts_the_view_exactly_through_roll_ups(view: View) -> None:
    values = noisy_loss(9000, seed=4)
    values[[1055, 8200]] = math.nan, math.inf
    values[[1050, 8949]] = 50.0, -50.0  # at the edges, in buckets that the view cuts
    store, run_id = recorded(values)
    chart = read_chart(store, run_id, "loss", view=view, width=30)
    first, last = view.first_step or 0, 8999 if view.last_step is None else view.last_step
    steps = np.arange(first, last + 1)
    assert_exact(chart, steps, values[steps])
    assert chart.pixel_steps % 100 == (0 if last - first > 6000 else chart.pixel_steps)


def test_what_was_written_after_a_refresh_is_in_the_chart() -> None:
    store, run_id = recorded(noisy_loss(9000, seed=4))
    read_chart(store, run_id, "loss", width=30)
    late = PointColumns.of(("loss",), [0, 0], [10, 9100], [99.0, 98.0])
    store.append(run_id, Batch(points=late))
    chart = read_chart(store, run_id, "loss", width=30)
    assert {10, 9100} <= set(chart.band.high_steps.tolist())
    assert chart.num_points == 9001


def test_an_unknown_metric_and_an_empty_view_are_empty_charts() -> None:
    store, run_id = recorded(noisy_loss(9000, seed=4))
    assert read_chart(store, run_id, "none").num_points == 0
    assert read_chart(store, run_id, "loss", rank=1).num_points == 0
    assert read_chart(store, run_id, "loss", view=View(20_000, 30_000)).num_points == 0
    assert read_chart(store, run_id, "loss", view=View(50, 40)).num_points == 0
    with pytest.raises(ValueError, match="attempt='all': a chart draws one line"):
        read_chart(store, run_id, "loss", attempt="all")
