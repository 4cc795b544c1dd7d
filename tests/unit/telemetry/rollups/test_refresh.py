"""Roll-ups follow the points: after any writing, rewriting and resuming they equal a recompute."""

import random
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.unit.telemetry.records import other_machine, points, stored_run
from tinsmith.telemetry.model import Attempt, Batch, PointColumns, RollupRow
from tinsmith.telemetry.rollups import LEVELS, merge_buckets, refresh_rollups, rollup_points
from tinsmith.telemetry.stores import MemoryStore, SqliteStore, Store

KEYS = ("loss", "lr", "a/b")
RANKS = (0, 3)


def begin(store: Store, run_id: str, number: int, resumed_from_step: int | None = None) -> None:
    times = {"started_ns": 1, "heartbeat_ns": 1}
    writer = other_machine()._asdict()
    store.put_attempt(
        run_id, Attempt(attempt=number, resumed_from_step=resumed_from_step, **times, **writer)
    )


def recomputed(store: Store, run_id: str) -> dict[int, list[RollupRow]]:
    """Every row of every level, from nothing but the effective points."""
    found = store.points(run_id)
    rows: dict[int, list[RollupRow]] = {level: [] for level in LEVELS}
    for code, key in enumerate(found.names):
        for rank in np.unique(found.rank).tolist():
            mine = (found.key == code) & (found.rank == rank)
            rollups = rollup_points(found.step[mine], found.value[mine])
            for level in LEVELS:
                rollups = merge_buckets(rollups, level)
                rows[level] += rollups.to_rows(key, rank)
    return rows


def assert_right(store: Store, run_id: str) -> None:
    for level, expected in recomputed(store, run_id).items():
        keys = sorted({*KEYS, *(row.key for row in expected)})
        stored = store.rollups(run_id, keys, level)
        # Compared as text: NaN equals NaN, and every bit counts.
        assert sorted(map(repr, stored)) == sorted(map(repr, expected))


def random_batch(rng: random.Random, attempt: int, size: int, past: int) -> Batch:
    """Mostly new steps, some old ones again, some of them not finite."""
    rows = []
    for _ in range(size):
        step = past + rng.randrange(200) if rng.random() < 0.7 else rng.randrange(-50, past + 200)
        value = rng.choice([rng.gauss(0, 1), rng.gauss(0, 1e6), 0.0, float("nan"), float("inf")])
        rows.append((rng.choice(KEYS), step, value, rng.choice(RANKS), attempt))
    return points(*rows)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_ten_thousand_random_writes_rewrites_and_resumes_equal_a_recompute(
    kind: str, tmp_path: Path
) -> None:
    rng = random.Random(kind)
    store: Store = SqliteStore(tmp_path) if kind == "sqlite" else MemoryStore()
    run_id = stored_run(store)
    attempt, num_written = 1, 0
    begin(store, run_id, attempt)
    while num_written < 10_000:
        past = num_written * 3
        if rng.random() < 0.1:
            attempt += 1
            begin(store, run_id, attempt, resumed_from_step=rng.randrange(past + 1))
            if rng.random() < 0.5:  # also before it has written anything
                refresh_rollups(store, run_id)
                assert_right(store, run_id)
        store.append(run_id, random_batch(rng, attempt, size := rng.randrange(1, 400), past))
        num_written += size
        if rng.random() < 0.3:
            refresh_rollups(store, run_id)
            assert_right(store, run_id)
    refresh_rollups(store, run_id)
    assert_right(store, run_id)
    assert refresh_rollups(store, run_id) == 0
    store.close()


def test_only_dirty_buckets_are_computed_again() -> None:
    store = MemoryStore()
    run_id = stored_run(store)
    store.append(run_id, points(*(("loss", step, float(step)) for step in range(5000))))
    assert refresh_rollups(store, run_id) == 50
    store.append(run_id, points(("loss", 4321, -1.0), ("loss", 4399, 7.0), ("lr", 3, 0.1)))
    assert refresh_rollups(store, run_id) == 2
    assert_right(store, run_id)


def test_a_resume_hides_points_from_the_roll_ups_before_it_writes_any() -> None:
    store = MemoryStore()
    run_id = stored_run(store)
    begin(store, run_id, 1)
    store.append(run_id, points(*(("loss", step, 1.0) for step in range(1000))))
    refresh_rollups(store, run_id)
    begin(store, run_id, 2, resumed_from_step=149)
    refresh_rollups(store, run_id)
    assert [(row.bucket, row.n) for row in store.rollups(run_id, ["loss"], 100)] == [
        (0, 100),
        (1, 50),
    ]
    assert [row.n for row in store.rollups(run_id, ["loss"], 10_000)] == [150]


def test_a_refresh_in_several_rounds_equals_one_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinsmith.telemetry.rollups.refresh._CHANGES_A_ROUND", 77)
    store = MemoryStore()
    run_id = stored_run(store)
    store.append(run_id, points(*(("loss", step, step % 7) for step in range(1000))))
    assert refresh_rollups(store, run_id) >= 10
    assert_right(store, run_id)


def test_refreshes_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    run_id = stored_run(store)
    errors: list[BaseException] = []

    def refreshing() -> None:
        try:
            for _ in range(10):
                refresh_rollups(store, run_id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=refreshing) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(0, 2000, 100):
        store.append(run_id, points(*(("loss", start + i, float(i)) for i in range(150))))
    for thread in threads:
        thread.join()
    assert not errors
    refresh_rollups(store, run_id)
    assert_right(store, run_id)
    store.close()


def test_keys_that_change_together_are_read_together() -> None:
    store = MemoryStore()
    run_id = stored_run(store)
    names = tuple(f"layer/{i}" for i in range(300))
    columns = PointColumns.of(names, np.arange(300), np.full(300, 5), np.ones(300))
    store.append(run_id, Batch(points=columns))
    asked = []
    original = store.points
    store.points = lambda *args, **kw: asked.append(args) or original(*args, **kw)  # type: ignore[method-assign]
    assert refresh_rollups(store, run_id) == 300
    assert len(asked) == 1
