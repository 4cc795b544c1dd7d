"""Records in memory: which sampling sessions move with a model's in-flight saves."""

from __future__ import annotations

from tinsmith.server.store import MemoryStore, SamplerRecord


def add(store: MemoryStore, number: int, snapshot_id: str, model_id: str | None) -> SamplerRecord:
    record = SamplerRecord(
        f"s:sample:{number}", "s", "tiny", snapshot_id=snapshot_id, inflight_model_id=model_id
    )
    store.add_sampler(record)
    return record


def test_inflight_sessions_of_one_model_move_and_tell_what_nobody_needs() -> None:
    store = MemoryStore()
    moving = [add(store, 0, "old", "m"), add(store, 1, "new", "m")]
    other = add(store, 2, "theirs", "n")
    frozen = add(store, 3, "kept", None)
    assert store.move_inflight("m", "new") == {"old"}
    assert [record.snapshot_id for record in moving] == ["new", "new"]
    assert (other.snapshot_id, frozen.snapshot_id) == ("theirs", "kept")
    assert store.move_inflight("m", "new") == set()


def test_a_snapshot_that_another_session_has_is_needed() -> None:
    store = MemoryStore()
    add(store, 0, "same", "m")
    add(store, 1, "same", None)
    assert store.move_inflight("m", "new") == set()
