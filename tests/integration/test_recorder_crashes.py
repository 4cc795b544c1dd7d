"""What survives: SIGKILL at random moments, many writers at once with a reader."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.integration.recorder_crash import MAX_STEPS
from tests.postgres import require_programs, running_server
from tinsmith.telemetry import open_store
from tinsmith.telemetry.model import Cursor
from tinsmith.telemetry.stores import Store

REPOSITORY = Path(__file__).parents[2]
IS_SLOW = bool(os.environ.get("TINSMITH_SLOW"))
NUM_KILLS = 30 if IS_SLOW else 6
RUSH_S = 60.0 if IS_SLOW else 3.0

pytestmark = pytest.mark.integration


@dataclass
class Place:
    """A store that processes share, by its address."""

    url: str
    check: Callable[[], None]


def sqlite_place(folder: Path) -> Place:
    def check() -> None:
        for file in folder.glob("*/*/run.sqlite"):
            with sqlite3.connect(file) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()

    return Place(str(folder), check)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield sqlite_place(tmp_path / "runs")
        return
    pytest.importorskip("psycopg")
    with running_server(require_programs()) as server:
        yield Place(server.url, lambda: None)


def wait_for(is_so: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None, "the writer died by itself"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_at_random(place: Place, run_id: str, durability: str, folder: Path) -> "np.ndarray":
    """Start a writer, kill it some time later, and return when it acknowledged each step."""
    shared = folder / f"{run_id}.bin"
    shared.write_bytes(b"\0" * (8 * MAX_STEPS))
    noted = np.memmap(shared, dtype="<i8", mode="r")
    script = Path(__file__).with_name("recorder_crash.py")
    process = subprocess.Popen(
        [sys.executable, str(script), place.url, run_id, durability, str(shared)], cwd=REPOSITORY
    )
    try:
        wait_for(lambda: bool(noted[0]), process)
        time.sleep(random.uniform(0.0, 0.15))
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return noted[: int(np.count_nonzero(noted))].copy()


@pytest.mark.parametrize("durability", ["async", "commit"])
def test_a_killed_writer_loses_nothing_acknowledged_or_at_most_50_ms(
    place: Place, tmp_path: Path, durability: str
) -> None:
    random.seed(8)
    lost_ms: list[float] = []
    for number in range(NUM_KILLS):
        run_id = f"{durability}-{number}"
        acknowledged = kill_at_random(place, run_id, durability, tmp_path)
        store = open_store(place.url)  # opens without any repair
        found = store.points(run_id)
        store.close()
        # A prefix without a hole, each value that of its step.
        assert found.step.tolist() == list(range(len(found)))
        assert np.array_equal(found.value, found.step)
        lost = acknowledged[len(found) :]
        lost_ms.append((lost[-1] - lost[0]) / 1e6 if len(lost) else 0.0)
        if durability == "commit":
            assert len(lost) == 0
    place.check()
    print(f"{place.url}, {durability}: lost at most {max(lost_ms):.1f} ms in {NUM_KILLS} kills")
    assert max(lost_ms) <= 50.0


RANK = """
import sys, time
from tinsmith import telemetry

store, run_id, rank, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
telemetry.open_store(store)
run = telemetry.init(store=store, run_id=run_id, rank=rank)
until, step = time.monotonic() + seconds, 0
while time.monotonic() < until:
    run.log({"loss": float(step), "lr": 0.5}, step=step)
    if step % 100 == 0:
        run.event(telemetry.events.BATCH_BUILT, step=step)
    step += 1
    time.sleep(0.0005)
run.finish()
assert run.health == {}, run.health
print(step)
"""


def test_four_ranks_and_a_reader_have_no_lock_errors_and_miss_no_row(place: Place) -> None:
    run_id = "rush"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RANK, place.url, run_id, str(rank), str(RUSH_S)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    store = open_store(place.url)
    seen: set[tuple[str, int, int]] = set()
    cursor = Cursor()
    is_over = False
    while True:
        is_over = all(rank.poll() is not None for rank in ranks)
        if has_run(store, run_id):
            batch, cursor = store.tail(run_id, cursor)
            seen |= {(key, step, rank) for key, step, rank, *_ in batch.points.rows()}
            store.get_run(run_id)
            if is_over and not len(batch):
                break
        assert has_run(store, run_id) or not is_over
        time.sleep(0.02)
    numbers: list[int] = []
    for rank in ranks:
        out, err = rank.communicate(timeout=60)
        assert rank.returncode == 0, err
        numbers.append(int(out))
    assert seen == {
        (key, step, rank)
        for rank, number in enumerate(numbers)
        for step in range(number)
        for key in ("loss", "lr")
    }
    assert len(store.points(run_id)) == 2 * sum(numbers)
    assert [attempt.rank for attempt in store.attempts(run_id)] == [0, 1, 2, 3]
    store.close()
    place.check()


def has_run(store: Store, run_id: str) -> bool:
    return any(run.run_id == run_id for run in store.list_runs())
