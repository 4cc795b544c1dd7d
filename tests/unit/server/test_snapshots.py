"""Snapshots in an engine's memory: loaded once, never dropped in use, those on disk go first."""

from __future__ import annotations

from pathlib import Path

from tests.unit.server.fakes import ManualEngine
from tinsmith.core.errors import ServerError, TinsmithError
from tinsmith.server.errors import GoneError
from tinsmith.server.messages import LoadSnapshot, ReleaseSnapshot
from tinsmith.server.snapshots import SnapshotCache

DISK = Path("saved")


def acquire(
    cache: SnapshotCache, snapshot_id: str, directory: Path | None = DISK
) -> list[TinsmithError | None]:
    got: list[TinsmithError | None] = []
    cache.acquire(snapshot_id, directory, got.append)
    return got


def test_a_resident_snapshot_is_there_at_once() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=4)
    cache.add("a", None)
    assert acquire(cache, "a", None) == [None]
    assert not engine.calls


def test_several_samples_wait_for_one_load() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=4)
    waiting = [acquire(cache, "a"), acquire(cache, "a")]
    assert [command for command, _ in engine.calls] == [LoadSnapshot(DISK)]
    engine.answer("a")
    assert waiting == [[None], [None]]


def test_other_content_than_was_saved_is_refused_and_released() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=4)
    got = acquire(cache, "a")
    engine.answer("b")
    assert isinstance(got[0], ServerError)
    assert [command for command, _ in engine.calls] == [ReleaseSnapshot("b")]
    assert "a" not in cache


def test_a_failed_load_can_be_tried_again() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=4)
    got = acquire(cache, "a")
    engine.answer(ServerError("disk"))
    assert isinstance(got[0], ServerError)
    acquire(cache, "a")
    assert engine.calls


def test_above_capacity_the_oldest_on_disk_leaves_before_one_that_is_in_memory_only() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=2)
    cache.add("memory", None)
    cache.add("disk", DISK)
    cache.add("new", None)
    assert engine.history == [ReleaseSnapshot("disk")]
    cache.add("newer", None)
    assert engine.history[-1] == ReleaseSnapshot("memory")
    assert isinstance(acquire(cache, "memory", None)[0], GoneError)


def test_a_snapshot_in_use_never_leaves() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=1)
    cache.add("a", DISK)
    acquire(cache, "a")
    cache.add("b", DISK)
    assert engine.history == [ReleaseSnapshot("b")]
    cache.drop("a")
    assert "a" in cache
    cache.release("a")
    assert "a" not in cache
    assert engine.history[-1] == ReleaseSnapshot("a")


def test_a_dropped_snapshot_that_is_asked_for_again_stays() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=2)
    cache.add("a", None)
    for again in (lambda: cache.add("a", None), lambda: acquire(cache, "a", None)):
        acquire(cache, "a", None)
        cache.drop("a")
        again()
        cache.release("a")
        assert "a" in cache
    assert not engine.history


def test_what_inflight_saves_leave_behind_pushes_no_frozen_snapshot_out() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=3)
    cache.add("frozen", None)
    for step in range(5):  # each is being sampled from when the next one comes
        cache.add(f"step{step}", None)
        acquire(cache, f"step{step}", None)
        if step:
            cache.drop(f"step{step - 1}")
            cache.release(f"step{step - 1}")
    assert "frozen" in cache
    assert engine.history == [ReleaseSnapshot(f"step{step}") for step in range(4)]


def test_every_answer_that_named_a_snapshot_is_given_back() -> None:
    engine = ManualEngine()
    cache = SnapshotCache(engine, capacity=2)
    got = acquire(cache, "a")  # loads it, and meanwhile a save of equal weights answers
    cache.add("a", None)
    users = acquire(cache, "a")
    engine.answer("a")
    assert (got, users) == ([None], [None])
    cache.drop("a")
    cache.release("a")
    assert "a" in cache, "one of the two still samples"
    cache.release("a")
    assert engine.history[-1] == ReleaseSnapshot("a", num_holds=2)
