"""Questions to recorded runs: CPU of the process that asks, which other load changes little.

A million points are one run of two metrics; windows are of 1,000 steps. The run of ten million
points is there as the roll-ups that its points give; the chart does not read the points. Main name:
`recorder_read_measurements`.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bench.measurement import Measurement, Setting
from bench.results import Bound, Row
from tests.postgres import find_programs, running_postgres
from tinsmith.core.ids import new_uuid7
from tinsmith.telemetry.charts import read_chart
from tinsmith.telemetry.model import Batch, PointColumns, RollupState, RunRecord, RunStatus
from tinsmith.telemetry.query import Points, seal_run
from tinsmith.telemetry.rollups import LEVELS, merge_buckets, rollup_points
from tinsmith.telemetry.rollups.buckets import Rollups
from tinsmith.telemetry.stores import PostgresStore, SqliteStore, Store

__all__ = ["recorder_read_measurements"]

WINDOW_TARGET = Bound("at most", 0.5)
CHART_TARGET = Bound("at most", 0.05)
_STEPS_A_PIECE = 50_000


def recorder_read_measurements(setting: Setting) -> Iterator[Measurement]:
    """Windows over a million points in each store and sealed, and a chart of ten million."""
    num_steps = 50_000 if setting.quick else 500_000
    stores = ["sqlite", *(["postgresql"] if find_programs() is not None else [])]
    for kind in stores:
        for what in ("written", "hot", "sealed"):
            name = {
                "written": "recorder, 1M points written, points a CPU second",
                "hot": "recorder, mean and p95 by window of 1M points",
                "sealed": "recorder, the same of a sealed run",
            }[what]
            yield Measurement(
                name,
                kind,
                lambda name=name, kind=kind, what=what: _windows(
                    Row(name, kind, "points/s" if what == "written" else "s"),
                    setting.scratch / new_uuid7(),
                    what,
                    num_steps,
                ),
            )
    name = "recorder, chart of 10M points through roll-ups"
    num_points = 1_000_000 if setting.quick else 10_000_000
    yield Measurement(
        name, "sqlite", lambda: _chart(name, setting.scratch / new_uuid7(), num_points)
    )


def _windows(row: Row, folder: Path, what: str, num_steps: int) -> Row:
    with _store(row.model, folder) as store:
        run_id, write_s = _write_run(store, num_steps)
        if what == "written":
            return Row(row.name, row.model, row.unit, ours=2 * num_steps / write_s)
        root = folder / "sealed"
        if what == "sealed":
            seal_run(store, run_id, root)
        question = Points(store, root).runs(run_id).window(1000)
        seconds = _cpu_s(lambda: question.aggregate("mean", "p95"))
        return Row(row.name, row.model, row.unit, ours=seconds, target=WINDOW_TARGET)


@contextlib.contextmanager
def _store(kind: str, folder: Path) -> Iterator[Store]:
    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            store: Store = SqliteStore(folder)
        else:
            programs = find_programs()
            assert programs is not None
            store = PostgresStore(stack.enter_context(running_postgres(programs)))
        stack.callback(store.close)
        yield store


def _write_run(store: Store, num_steps: int) -> tuple[str, float]:
    """Write two metrics; returns the run and the CPU seconds of writing."""
    run = _run()
    store.put_run(run)
    values = np.random.default_rng(0).normal(size=2 * num_steps)
    started = time.process_time()
    for first in range(0, num_steps, _STEPS_A_PIECE):
        steps = np.arange(first, min(first + _STEPS_A_PIECE, num_steps))
        key = np.repeat([0, 1], len(steps))
        piece = values[2 * first : 2 * first + len(key)]
        points = PointColumns.of(("loss", "lr"), key, np.tile(steps, 2), piece)
        store.append(run.run_id, Batch(points=points))
    return run.run_id, time.process_time() - started


def _chart(name: str, folder: Path, num_points: int) -> Row:
    store = SqliteStore(folder)
    run = _run()
    store.put_run(run)
    rollups = Rollups.empty(LEVELS[1])
    rng = np.random.default_rng(0)
    for first in range(0, num_points, 1_000_000):
        steps = np.arange(first, first + 1_000_000)
        piece = merge_buckets(rollup_points(steps, rng.normal(size=len(steps))), LEVELS[1])
        rollups = Rollups.joined(LEVELS[1], [rollups, piece])
    rows = rollups.to_rows("loss", 0) + merge_buckets(rollups, LEVELS[2]).to_rows("loss", 0)
    store.replace_rollups(run.run_id, rows, [], RollupState(), RollupState())
    chart = read_chart(store, run.run_id, "loss")
    assert chart.num_points == num_points
    seconds = _cpu_s(lambda: read_chart(store, run.run_id, "loss"))
    store.close()
    return Row(name, "sqlite", "s", ours=seconds, target=CHART_TARGET)


def _run() -> RunRecord:
    return RunRecord(
        run_id=new_uuid7(), project="bench", name="run", created_ns=0, status=RunStatus.FINISHED
    )


def _cpu_s(work: Callable[[], object]) -> float:
    """Median CPU seconds of five rounds, after one that does not count."""
    work()
    rounds: list[float] = []
    for _ in range(5):
        started = time.process_time()
        work()
        rounds.append(time.process_time() - started)
    return statistics.median(rounds)
