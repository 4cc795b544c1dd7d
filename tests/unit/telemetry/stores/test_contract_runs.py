"""Every store: runs, writers, time and keys."""

import threading
import time
from dataclasses import replace

import pytest

from tests.unit.telemetry.records import (
    dead_writer,
    other_machine,
    points,
    run_record,
    stored_run,
)
from tinsmith.core.errors import ConfigError, UnknownNameError
from tinsmith.telemetry.errors import WriterBusyError
from tinsmith.telemetry.model import (
    GitState,
    Interval,
    KeyInfo,
    RunFilter,
    RunStatus,
)
from tinsmith.telemetry.processes import this_writer
from tinsmith.telemetry.stores import Store

FULL = {
    "group": "seeds",
    "job": "train",
    "parent_run": "0190-parent",
    "forked_from_step": 12,
    "hypothesis": "smaller is better — perhaps",
    "condition": "treatment",
    "tags": ("a", "b/c", "ü"),
    "config": {"lr": 1e-4, "layers": [1, 2], "name": None, "nested": {"on": True}},
    "seed": 2**40,
    "git": GitState(revision="abc", branch="main", is_dirty=True, diff="-a\n+b\n"),
    "command": ("train", "--lr=1e-4"),
    "metadata": {"tokenizer": "x"},
}


def test_a_run_reads_back_as_it_was_written(store: Store) -> None:
    record = run_record(**FULL)
    assert store.put_run(record)
    assert store.get_run(record.run_id) == record


def test_putting_a_run_again_replaces_it_unless_asked_not_to(store: Store) -> None:
    record = run_record(name="first")
    store.put_run(record)
    assert not store.put_run(replace(record, name="second"), replace=False)
    assert store.get_run(record.run_id).name == "first"
    assert store.put_run(replace(record, name="third"))
    assert store.get_run(record.run_id).name == "third"


def test_names_of_any_kind_keep_runs_apart(store: Store) -> None:
    names = ["a/b", "a_b", "../up", "ünï", "x" * 400, " ", "con", "a\\b", ""]
    ids = {stored_run(store, name=name, project=name): name for name in names}
    assert {run.run_id: run.name for run in store.list_runs()} == ids
    assert {run_id: store.get_run(run_id).project for run_id in ids} == ids


def test_an_unknown_run_is_an_error_that_offers_the_nearest_one(store: Store) -> None:
    known = stored_run(store)
    asked = known[:-1] + ("0" if known[-1] != "0" else "1")
    with pytest.raises(UnknownNameError, match=f"did you mean '{known}'"):
        store.get_run(asked)


def test_every_call_for_an_unknown_run_is_refused(store: Store) -> None:
    calls = (
        lambda: store.delete_run("no"),
        lambda: store.begin_attempt("no", this_writer(0)),
        lambda: store.attempts("no"),
        lambda: store.intervals("no"),
        lambda: store.keys("no"),
        lambda: store.put_keys("no", [KeyInfo(key="k")]),
        lambda: store.append("no", points(("loss", 1, 2.0))),
        lambda: store.points("no"),
        lambda: store.events("no"),
        lambda: store.samples("no"),
        lambda: store.artifacts("no"),
        lambda: store.alerts("no"),
        lambda: store.rollup_state("no"),
    )
    for call in calls:
        with pytest.raises(UnknownNameError, match="run_id='no': unknown"):
            call()


def test_lists_are_newest_first_and_restricted_by_every_field(store: Store) -> None:
    old = stored_run(store, created_ns=1, project="a", tags=("x", "y"))
    new = stored_run(store, created_ns=2, project="a", group="g", condition="treatment")
    other = stored_run(store, created_ns=3, project="b", name="special", parent_run=old)

    def ids(where: RunFilter | None = None) -> list[str]:
        return [run.run_id for run in store.list_runs(where)]

    assert ids() == [other, new, old]
    assert ids(RunFilter(project="a")) == [new, old]
    assert ids(RunFilter(group="g")) == [new]
    assert ids(RunFilter(condition="treatment")) == [new]
    assert ids(RunFilter(name="special")) == [other]
    assert ids(RunFilter(parent_run=old)) == [other]
    assert ids(RunFilter(tags=("y",))) == [old]
    assert ids(RunFilter(tags=("y", "z"))) == []
    assert ids(RunFilter(limit=2)) == [other, new]
    assert ids(RunFilter(status=RunStatus.CREATED)) == [other, new, old]
    assert ids(RunFilter(status=RunStatus.RUNNING)) == []


def test_a_deleted_run_is_gone_and_its_id_can_be_used_again(store: Store) -> None:
    record = run_record()
    store.put_run(record)
    store.append(record.run_id, points(("loss", 1, 2.0)))
    store.delete_run(record.run_id)
    with pytest.raises(UnknownNameError):
        store.get_run(record.run_id)
    assert store.list_runs() == []
    store.put_run(record)
    assert len(store.points(record.run_id)) == 0


# ------------------------------------------------------------------------------------- writers


def test_the_status_of_a_run_is_that_of_its_living_writers(store: Store) -> None:
    run_id = stored_run(store)
    assert store.get_run(run_id).status is RunStatus.CREATED
    begun = store.begin_attempt(run_id, this_writer(0))
    assert store.get_run(run_id).status is RunStatus.RUNNING
    store.put_attempt(run_id, replace(begun, status=RunStatus.PAUSED))
    assert store.get_run(run_id).status is RunStatus.PAUSED
    ended = replace(begun, status=RunStatus.FAILED, ended_ns=time.time_ns(), exit_code=3)
    store.put_attempt(run_id, ended)
    assert store.get_run(run_id).status is RunStatus.FAILED
    assert store.attempts(run_id) == [ended]


def test_a_writer_without_heartbeat_for_30_s_reads_as_crashed(store: Store) -> None:
    run_id = stored_run(store)
    begun = store.begin_attempt(run_id, this_writer(0))
    store.put_attempt(run_id, replace(begun, heartbeat_ns=time.time_ns() - 31 * 10**9))
    assert store.get_run(run_id).status is RunStatus.CRASHED
    assert store.list_runs(RunFilter(status=RunStatus.CRASHED))[0].run_id == run_id


def test_an_archived_run_stays_archived(store: Store) -> None:
    record = run_record(status=RunStatus.ARCHIVED)
    store.put_run(record)
    store.begin_attempt(record.run_id, this_writer(0))
    assert store.get_run(record.run_id).status is RunStatus.ARCHIVED


def test_attempts_keep_all_their_fields(store: Store) -> None:
    run_id = stored_run(store)
    begun = store.begin_attempt(run_id, this_writer(2), resumed_from_step=40)
    assert begun.resumed_from_step == 40
    full = replace(begun, health={"dropped_events": 3}, exit_code=-9, ended_ns=5)
    store.put_attempt(run_id, full)
    assert store.attempts(run_id) == [full]


def test_a_second_living_writer_of_a_rank_is_refused(store: Store) -> None:
    run_id = stored_run(store)
    store.begin_attempt(run_id, this_writer(0))
    message = r"rank=0: process \d+ on .+ writes it \(attempt 1, last heartbeat 0 s ago\)"
    with pytest.raises(WriterBusyError, match=message):
        store.begin_attempt(run_id, this_writer(0))
    assert len(store.attempts(run_id)) == 1


def test_of_many_writers_that_come_at_once_one_gets_the_rank(store: Store) -> None:
    run_id = stored_run(store)
    outcomes: list[str] = []
    ready = threading.Barrier(8)

    def come() -> None:
        ready.wait()
        try:
            store.begin_attempt(run_id, this_writer(0))
        except WriterBusyError:
            outcomes.append("refused")
        else:
            outcomes.append("in")

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in"] + ["refused"] * 7


def test_ranks_of_one_launch_share_an_attempt_and_a_restart_begins_the_next(store: Store) -> None:
    run_id = stored_run(store)
    first = [store.begin_attempt(run_id, this_writer(rank)) for rank in (0, 1)]
    assert [one.attempt for one in first] == [1, 1]
    for one in first:
        store.put_attempt(run_id, replace(one, process_start="1"))  # as after kill -9
    again = [store.begin_attempt(run_id, this_writer(rank)) for rank in (1, 0)]
    assert [one.attempt for one in again] == [2, 2]
    assert [(one.attempt, one.rank) for one in store.attempts(run_id)] == [
        (1, 0),
        (1, 1),
        (2, 0),
        (2, 1),
    ]


def test_a_writer_of_another_machine_lives_as_long_as_its_heartbeat(store: Store) -> None:
    run_id = stored_run(store)
    begun = store.begin_attempt(run_id, other_machine(0))
    with pytest.raises(WriterBusyError, match="somewhere-else"):
        store.begin_attempt(run_id, this_writer(0))
    store.put_attempt(run_id, replace(begun, heartbeat_ns=time.time_ns() - 31 * 10**9))
    assert store.begin_attempt(run_id, this_writer(0)).attempt == 2


def test_a_launcher_may_say_the_number_of_its_attempt(store: Store) -> None:
    run_id = stored_run(store)
    assert store.begin_attempt(run_id, dead_writer(0), attempt=3).attempt == 3
    assert store.begin_attempt(run_id, dead_writer(1), attempt=3).attempt == 3
    with pytest.raises(ConfigError, match="attempt=2: must be 3 or more"):
        store.begin_attempt(run_id, dead_writer(2), attempt=2)
    with pytest.raises(ConfigError, match="attempt=3: rank 1 of it has been written already"):
        store.begin_attempt(run_id, dead_writer(1), attempt=3)


def test_intervals_are_written_by_place_and_read_in_order(store: Store) -> None:
    run_id = stored_run(store)
    active = Interval(
        attempt=1, rank=0, index=0, kind="active", started_ns=1, ended_ns=None, duration_ns=0
    )
    paused = replace(active, index=1, kind="paused", started_ns=9)
    store.put_interval(run_id, paused)
    store.put_interval(run_id, active)
    ended = replace(active, ended_ns=8, duration_ns=7)
    store.put_interval(run_id, ended)
    assert store.intervals(run_id) == [ended, paused]


# ---------------------------------------------------------------------------------------- keys


def test_keys_are_those_with_points_and_those_described(store: Store) -> None:
    run_id = stored_run(store)
    store.append(run_id, points(("train/loss", 1, 2.0), ("ü/n", 1, 2.0)))
    loss = KeyInfo(key="train/loss", unit="nats", goal="min", description="mean")
    store.put_keys(run_id, [loss, KeyInfo(key="later")])
    assert store.keys(run_id) == [KeyInfo(key="later"), loss, KeyInfo(key="ü/n")]


def test_describing_a_key_again_leaves_what_is_not_said(store: Store) -> None:
    run_id = stored_run(store)
    store.put_keys(run_id, [KeyInfo(key="k", unit="s", goal="min")])
    store.put_keys(run_id, [KeyInfo(key="k", description="time", goal="max")])
    assert store.keys(run_id) == [KeyInfo(key="k", unit="s", goal="max", description="time")]


def test_ten_thousand_keys_are_no_trouble(store: Store) -> None:
    run_id = stored_run(store)
    store.append(run_id, points(*((f"layer/{i}", 1, float(i)) for i in range(10_000))))
    assert len(store.keys(run_id)) == 10_000
    assert store.points(run_id, ["layer/9999"]).value.tolist() == [9999.0]
