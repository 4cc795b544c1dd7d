"""The SQLite store beyond the contract: files, faults, forks and other processes."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.telemetry.records import event, points, run_record, sample, stored_run, triples
from tinsmith.core.errors import UnknownNameError, UserError
from tinsmith.telemetry.errors import StoreError, TelemetryWarning
from tinsmith.telemetry.model import Batch, KeyInfo
from tinsmith.telemetry.stores import SqliteStore
from tinsmith.telemetry.stores.sqlite import folder_name
from tinsmith.telemetry.stores.sqlite_schema import SCHEMA_VERSION, schema_statements


def file_of(store: SqliteStore, run_id: str) -> Path:
    (path,) = store.root.glob(f"*/{run_id}/run.sqlite")
    return path


def test_a_run_is_one_write_ahead_logged_file_in_a_folder_of_its_own(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    run_id = stored_run(store, project="math-rl")
    store.append(run_id, points(("loss", 1, 2.0)))
    store.close()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [
        Path("math-rl", run_id, "run.sqlite")
    ]
    db = sqlite3.connect(file_of(store, run_id))
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("SELECT step, value FROM point JOIN key USING (key_id)").fetchall() == [
        (1, 2)
    ]
    db.close()


def test_a_change_of_tables_comes_with_a_new_version(
    schema_digests: Callable[[str, dict[int, str]], None],
) -> None:
    schema_digests("sqlite", {SCHEMA_VERSION: schema_statements()})


def test_another_store_on_the_folder_reads_what_one_wrote(tmp_path: Path) -> None:
    writer, reader = SqliteStore(tmp_path), SqliteStore(tmp_path)
    run_id = stored_run(writer)
    for value in (1.0, 2.0):
        writer.append(run_id, points(("loss", 1, value)))
        assert triples(reader.points(run_id)) == [("loss", 1, value)]


@pytest.mark.parametrize("project", ["", "..", "/", "Ünï", "a/b", "A", "nul", "x" * 300, "\ud800"])
def test_the_folder_of_any_project_is_plain_and_below_the_root(project: str) -> None:
    name = folder_name(project)
    assert name
    assert len(name) <= 80
    assert name.isascii()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_projects_that_look_alike_have_folders_apart() -> None:
    assert len({folder_name(name) for name in ("a-b", "a/b", "A-B", "a b", "a--b")}) == 5


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "x" * 129, "a\0b", "ü"])
def test_a_run_id_that_is_no_file_name_is_refused(tmp_path: Path, run_id: str) -> None:
    store = SqliteStore(tmp_path)
    with pytest.raises(UserError, match="must be 1 to 128 letters"):
        store.put_run(run_record(run_id=run_id))
    with pytest.raises(UnknownNameError):
        store.get_run(run_id)
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_create_a_run_at_once_one_does(tmp_path: Path) -> None:
    record = run_record()
    created: list[bool] = []
    ready = threading.Barrier(6)

    def create() -> None:
        store = SqliteStore(tmp_path)
        ready.wait()
        created.append(store.put_run(record, replace=False))
        store.close()

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(created) == [False] * 5 + [True]
    assert [path.name for path in (tmp_path / "p").iterdir()] == [record.run_id]


def test_more_runs_than_may_be_open_at_once_can_be_used(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, max_open_files=2)
    ids = [stored_run(store) for _ in range(5)]
    for run_id in ids:
        store.append(run_id, points(("loss", 1, 2.0)))
    assert sum(len(store.points(run_id)) for run_id in ids) == 5
    assert len(store._files) == 2


# -------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("garbage", [b"not a database at all" * 300, b"SQLite format 3\0" * 300])
def test_a_file_that_something_wrote_over_is_named_and_hides_no_other_run(
    tmp_path: Path, garbage: bytes
) -> None:
    store = SqliteStore(tmp_path)
    good, bad = stored_run(store), stored_run(store)
    store.close()
    path = file_of(store, bad)
    path.write_bytes(garbage)
    with pytest.raises(StoreError) as caught:
        store.append(bad, points(("loss", 1, 2.0)))
    assert caught.value.is_permanent
    assert str(path) in str(caught.value)
    assert "move the run's folder aside" in str(caught.value)
    with pytest.warns(TelemetryWarning, match=f"run {bad} is left out"):
        assert [run.run_id for run in store.list_runs()] == [good]


def test_a_database_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    folder = tmp_path / "p" / "theirs"
    folder.mkdir(parents=True)
    with sqlite3.connect(folder / "run.sqlite") as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(StoreError, match="not one of a run"):
        store.append("theirs", points(("loss", 1, 2.0)))


def test_a_file_of_a_later_release_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    run_id = stored_run(store)
    store.close()
    with sqlite3.connect(file_of(store, run_id)) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="schema version 99, this release reads up to 1") as caught:
        store.points(run_id)
    assert caught.value.hint == "pip install --upgrade tinsmith"


def test_a_locked_file_is_an_error_after_the_wait_and_then_works_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, busy_timeout_s=0.05)
    run_id = stored_run(store)
    other = sqlite3.connect(file_of(store, run_id), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="database is locked") as caught:
        store.append(run_id, points(("loss", 1, 2.0)))
    assert not caught.value.is_permanent
    assert len(store.points(run_id)) == 0  # readers are let in
    other.execute("ROLLBACK")
    other.close()
    store.append(run_id, points(("loss", 1, 2.0)))
    assert len(store.points(run_id)) == 1


def test_a_run_deleted_by_another_process_is_not_made_anew_by_a_write(tmp_path: Path) -> None:
    ours, theirs = SqliteStore(tmp_path), SqliteStore(tmp_path)
    run_id = stored_run(ours)
    ours.close()
    file = ours._file(run_id)  # known, and not open yet
    theirs.delete_run(run_id)
    with pytest.raises(StoreError, match="unable to open database file"):
        ours.append(run_id, points(("loss", 1, 2.0)))
    assert not file.path.exists()


FULL_DISK = """
import resource, sys
from tests.unit.telemetry.records import points, sample, stored_run
from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.model import Batch
from tinsmith.telemetry.stores import SqliteStore

store = SqliteStore(sys.argv[1])
run_id = stored_run(store)
store.append(run_id, points(("loss", 1, 1.0)))
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, no_limit[1]))
try:
    store.append(run_id, Batch(samples=(sample(completion="x" * 1_000_000),)))
    sys.exit("a full disk went unnoticed")
except StoreError as error:
    assert not error.is_permanent, error
    assert "the recorder tries again" in str(error), error
assert store.samples(run_id) == []
resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
store.append(run_id, points(("loss", 2, 2.0)))
assert store.points(run_id).value.tolist() == [1.0, 2.0]
print("done")
"""


def test_a_full_disk_loses_the_batch_at_hand_and_nothing_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[4],
    )
    assert done.stdout == "done\n", done.stderr


# --------------------------------------------------------------------------------------- forks


def in_child(work: object) -> int:
    """Run a function in a forked child; its exit code, 0 where the function returned."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_parent_and_forked_children_write_one_run_and_lose_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, busy_timeout_s=20)
    run_id = stored_run(store)
    stop = threading.Event()
    written: list[int] = []

    def keep_writing() -> None:
        while not stop.is_set():
            store.append(run_id, points(("parent", len(written), 1.0)))
            written.append(1)

    thread = threading.Thread(target=keep_writing)
    thread.start()
    for number in range(5):
        assert in_child(lambda n=number: store.append(run_id, points(("child", n, 1.0)))) == 0
    stop.set()
    thread.join()
    store.close()
    fresh = SqliteStore(tmp_path)
    assert fresh.points(run_id, ["child"]).step.tolist() == list(range(5))
    assert len(fresh.points(run_id, ["parent"])) == len(written)
    with sqlite3.connect(file_of(store, run_id)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_outlives_its_parents_store_without_losing_rows(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    run_id = stored_run(store)
    store.append(run_id, points(("a", 1, 1.0)))
    to_child, from_parent = os.pipe()

    def work() -> None:
        store.append(run_id, points(("a", 2, 2.0)))
        os.read(to_child, 1)  # until the parent has closed its own
        store.append(run_id, Batch(events=(event(),), samples=(sample(),)))

    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    store.close()
    os.write(from_parent, b"x")
    os.waitpid(pid, 0)
    os.close(to_child)
    os.close(from_parent)
    assert store.points(run_id).step.tolist() == [1, 2]
    assert len(store.events(run_id)) == 1
    store.close()


def test_a_value_that_no_column_takes_is_no_fault_that_time_heals(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    run_id = stored_run(store)
    with pytest.raises(StoreError, match="not supported") as refused:
        store.put_keys(run_id, [KeyInfo(key="loss", unit=cast("Any", object()))])
    assert refused.value.is_permanent
