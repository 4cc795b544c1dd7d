"""The writer under faults: failing stores, full queues, commit mode, poisoned batches."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.telemetry.records import triples
from tinsmith import telemetry
from tinsmith.telemetry import StoreError, TelemetryWarning, WriterOptions, events, strictly
from tinsmith.telemetry.model import Batch, Cursor, Event
from tinsmith.telemetry.stores import MemoryStore, SqliteStore


class FaultyStore(MemoryStore):
    """Fails to append while told to, as a server that is down."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.num_attempts = 0
        self.gate = threading.Event()
        self.gate.set()

    def append(self, run_id: str, batch: Batch) -> Cursor:
        self.gate.wait(60)
        self.num_attempts += 1
        if self.fault is not None:
            raise self.fault
        return super().append(run_id, batch)


@pytest.fixture(autouse=True)
def _mistakes_warn() -> Iterator[None]:
    with strictly(False):
        yield


def begin(store: MemoryStore, **options: Any) -> telemetry.Run:
    return telemetry.init(store=store, options=WriterOptions(**options))


def test_a_store_that_is_down_for_a_while_loses_nothing() -> None:
    store = FaultyStore()
    run = begin(store)
    assert run.flush()
    store.fault = StoreError("connection refused")
    with pytest.warns(TelemetryWarning, match="cannot write; training goes on: connection refus"):
        log_until_tried(run, store)
    assert run.trouble == "connection refused"
    store.fault = None
    assert run.flush()
    assert run.trouble is None
    run.finish()
    assert len(store.points(run.run_id)) == 10
    assert set(run.health) == {"failed_writes"}


def log_until_tried(run: telemetry.Run, store: FaultyStore) -> None:
    before = store.num_attempts
    for step in range(10):
        run.log({"a": 1.0}, step=step)
    while store.num_attempts < before + 2:
        time.sleep(0.005)


def test_a_store_that_is_gone_for_good_is_told_once_and_every_loss_is_counted() -> None:
    store = FaultyStore()
    run = begin(store)
    run.flush()
    store.fault = StoreError("file is corrupt", is_permanent=True)
    with pytest.warns(TelemetryWarning, match="file is corrupt"):
        assert not lose_some(run)
    run.log({"a": 1.0}, step=7)
    assert not run.flush()
    store.fault = None
    run.finish()
    assert run.health["lost_points"] == 4
    assert run.health["lost_records"] == 1


def lose_some(run: telemetry.Run) -> bool:
    run.log({"a": 1.0, "b": 1.0, "c": 1.0}, step=0)
    run.event(events.BATCH_BUILT)
    return run.flush()


def test_finish_with_a_dead_store_ends_in_time_and_counts_what_was_lost() -> None:
    store = FaultyStore()
    run = begin(store, finish_s=0.5)
    run.flush()
    store.fault = StoreError("no route to host")
    started = time.monotonic()
    with pytest.warns(TelemetryWarning, match="no route to host"):
        finish_with(run)
    assert time.monotonic() - started < 5
    assert run.health["lost_points"] == 1


def finish_with(run: telemetry.Run) -> None:
    run.log({"a": 1.0}, step=0)
    run.finish()


class PickyStore(MemoryStore):
    """Chokes on one record, whatever else comes with it."""

    def append(self, run_id: str, batch: Batch) -> Cursor:
        if any("poison" in event.metadata for event in batch.events):
            raise ValueError("cannot encode")
        return super().append(run_id, batch)


def test_a_record_that_cannot_be_written_takes_no_other_with_it() -> None:
    store = PickyStore()
    run = begin(store)
    with pytest.warns(TelemetryWarning, match="ValueError: cannot encode"):
        poison(run)
    run.finish()
    assert [event.name for event in store.events(run.run_id, "b*")] == ["batch.built"]
    assert triples(store.points(run.run_id)) == [("a", 0, 1.0)]
    assert run.health == {"failed_writes": 1, "lost_records": 1}


def poison(run: telemetry.Run) -> None:
    run.log({"a": 1.0}, step=0)
    run.event(events.BATCH_BUILT)
    run.event(events.BATCH_BUILT, metadata={"poison": 1})
    run.flush()


def test_a_full_queue_blocks_once_and_then_drops_points_by_exact_count() -> None:
    store = FaultyStore()
    run = begin(store, max_calls=10, block_s=0.05)
    run.flush()
    store.gate.clear()
    with pytest.warns(TelemetryWarning, match="points come faster than they can be written"):
        flood(run, 200)
    store.gate.set()
    run.finish()
    kept = len(store.points(run.run_id))
    assert 20 <= kept < 400
    assert run.health == {"dropped_points": 400 - kept}


def flood(run: telemetry.Run, number: int) -> None:
    started = time.monotonic()
    for step in range(number):
        run.log({"a": 1.0, "b": 2.0}, step=step)
        time.sleep(0.0005)
    assert time.monotonic() - started < 5  # one wait of 0.05 s, not one a call


def test_too_many_events_drop_the_oldest_and_never_a_point() -> None:
    store = FaultyStore()
    run = begin(store, max_records=5)
    run.flush()
    store.gate.clear()
    run.log({"a": 1.0}, step=0)  # the writer is now held at the gate, or soon
    with pytest.warns(TelemetryWarning, match="the oldest are dropped"):
        emit(run, 50)
    store.gate.set()
    run.finish()
    kept = [event.step for event in store.events(run.run_id, events.BATCH_BUILT.name)]
    assert kept[-4:] == [46, 47, 48, 49]
    assert len(store.points(run.run_id)) == 1
    dropped = run.health["dropped_events"]
    all_kept = len(store.events(run.run_id))
    assert dropped + all_kept == 50 + 2  # with the events that the run began and ended by


def emit(run: telemetry.Run, number: int) -> None:
    for step in range(number):
        run.event(events.BATCH_BUILT, step=step)


def test_waiting_texts_are_bounded_by_their_size() -> None:
    store = FaultyStore()
    run = begin(store, max_record_bytes=3_000_000)
    run.flush()
    store.gate.clear()
    run.log({"a": 1.0}, step=0)
    with pytest.warns(TelemetryWarning, match="the oldest are dropped"):
        sample_each(run, 10)
    store.gate.set()
    run.finish()
    kept = [sample.step for sample in store.samples(run.run_id)]
    assert kept[-1] == 9
    assert run.health["dropped_samples"] == 10 - len(kept)


def sample_each(run: telemetry.Run, number: int) -> None:
    for step in range(number):
        run.sample("p", "x" * 1_000_000, step=step)


def test_in_commit_mode_every_call_is_durable_when_it_returns(tmp_path: Path) -> None:
    with telemetry.init(store=tmp_path, durability="commit") as run:
        for step in range(20):
            run.log({"a": 1.0}, step=step)
            run.event(events.BATCH_BUILT)
            (file,) = tmp_path.glob("*/*/run.sqlite")
            with sqlite3.connect(file) as db:
                assert db.execute("SELECT count(*) FROM point").fetchone() == (step + 1,)
                found = db.execute("SELECT count(*) FROM event WHERE name = 'batch.built'")
                assert found.fetchone() == (step + 1,)
            db.close()


def test_in_commit_mode_a_failing_store_is_waited_for_once() -> None:
    store = FaultyStore()
    run = begin(store, durability="commit", commit_s=0.1, finish_s=0.3)
    store.fault = StoreError("down")
    started = time.monotonic()
    with pytest.warns(TelemetryWarning, match=r"cannot write|not durable"):
        log_many(run)
    assert time.monotonic() - started < 5
    assert run.health["unacknowledged"] == 100
    store.fault = None
    run.finish()
    assert len(store.points(run.run_id)) == 100


def log_many(run: telemetry.Run) -> None:
    for step in range(100):
        run.log({"a": 1.0}, step=step)


def test_many_threads_log_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    with telemetry.init(store=tmp_path) as run:

        def work(number: int) -> None:
            for step in range(500):
                run.log({f"k{number}": float(step)}, step=step)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(run.store.points(run.run_id)) == 2000


def test_the_thread_sleeps_while_nothing_is_logged(tmp_path: Path) -> None:
    with telemetry.init(store=tmp_path) as run:
        run.log({"a": 1.0}, step=0)
        run.flush()
        time.sleep(0.1)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1


def test_nobody_waits_for_a_writer_that_has_nothing_to_do(tmp_path: Path) -> None:
    options = WriterOptions(block_s=30.0, max_age_s=0.001)
    with telemetry.init(store=tmp_path, options=options) as run:
        started = time.monotonic()
        for step in range(5):
            assert run.flush()
            assert run.flush()  # wakes the thread for nothing
            time.sleep(0.005)
            run.log({"a": 1.0}, step=step)
        assert time.monotonic() - started < 20


def test_heartbeats_and_times_are_written_while_the_run_lasts(tmp_path: Path) -> None:
    options = WriterOptions(heartbeat_s=0.02)
    with telemetry.init(store=tmp_path, options=options) as run:
        (first,) = run.store.attempts(run.run_id)
        deadline = time.monotonic() + 20
        while run.store.attempts(run.run_id)[0].heartbeat_ns <= first.heartbeat_ns:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (interval,) = run.store.intervals(run.run_id)
        assert interval.ended_ns is None
        assert interval.duration_ns > 0


def test_a_wall_clock_that_jumps_changes_no_duration(tmp_path: Path) -> None:
    from tinsmith.telemetry.timeline import Timeline

    wall, monotonic = [10**18], [0]
    timeline = Timeline(1, 0, wall_ns=lambda: wall[0], monotonic_ns=lambda: monotonic[0])
    wall[0] -= 3600 * 10**9
    monotonic[0] += 5
    timeline.switch("paused")
    wall[0] += 7200 * 10**9
    monotonic[0] += 7
    timeline.end()
    timeline.end()
    assert [one.duration_ns for one in timeline.intervals] == [5, 7]


FULL_DISK = """
import resource, sys, time, warnings
from tinsmith import telemetry
warnings.simplefilter("ignore", telemetry.TelemetryWarning)
run = telemetry.init(store=sys.argv[1], run_id="r1")
run.log({"a": 1.0}, step=0)
assert run.flush()
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, no_limit[1]))
for step in range(1, 20_000):
    run.log({"a": 1.0}, step=step)
while run.trouble is None:
    time.sleep(0.01)
print(run.trouble)
resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
assert run.flush()
assert run.trouble is None
run.finish()
assert set(run.health) == {"failed_writes"}, run.health
"""


def test_a_disk_that_fills_up_and_is_freed_again_costs_no_row(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    assert "the recorder tries again" in done.stdout or "disk" in done.stdout
    assert len(SqliteStore(tmp_path).points("r1")) == 20_000


def test_a_file_that_is_spoilt_while_the_run_lasts_is_told_and_does_not_stop_it(
    tmp_path: Path,
) -> None:
    run = telemetry.init(store=tmp_path)
    run.log({"a": 1.0}, step=0)
    run.flush()
    run.store.close()  # so that the next write opens the file anew
    (file,) = tmp_path.glob("*/*/run.sqlite")
    file.write_bytes(b"spoilt" * 1000)
    with pytest.warns(TelemetryWarning, match="file is not a database"):
        assert not lose_some(run)
    with pytest.warns(TelemetryWarning, match="not everything could be written"):
        run.finish()
    assert run.health["lost_points"] == 3


def test_an_event_in_a_signal_handler_cannot_lock_up(tmp_path: Path) -> None:
    import signal

    with telemetry.init(store=tmp_path) as run:
        old = signal.signal(signal.SIGALRM, lambda *_: run.event(events.CPU_SAMPLE))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for step in range(3_000):
                run.log({"a": 1.0}, step=step)
                run.event(events.BATCH_BUILT)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, old)
    found: list[Event] = run.store.events(run.run_id, events.BATCH_BUILT.name)
    assert len(found) + run.health.get("dropped_events", 0) >= 3_000
    assert len(run.store.points(run.run_id)) == 3_000
