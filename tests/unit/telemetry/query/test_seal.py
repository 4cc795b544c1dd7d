"""Sealed runs: exact, whole or absent, and never older than the run."""

import hashlib
import json
import math
from pathlib import Path

import duckdb
import polars
import pyarrow.parquet
import pytest

from tests.unit.telemetry.query.conftest import write_everything
from tests.unit.telemetry.records import other_machine, points, stored_run
from tinsmith.core.errors import UserError
from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.model import Attempt, Batch, RunStatus
from tinsmith.telemetry.query import current_seal, seal_run
from tinsmith.telemetry.stores import MemoryStore, SqliteStore


def test_other_programs_read_the_same_numbers(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    run_id = write_everything(store)
    path = seal_run(store, run_id).path("all_points")
    assert path.parent == store.run_folder(run_id) / "sealed"
    expected = [
        (key, step, rank, attempt, ts_ns, str(value))
        for key, step, rank, attempt, ts_ns, value in store.points(run_id, attempt="all").rows()
    ]
    names = ["key", "step", "rank", "attempt", "ts_ns", "value"]
    by_arrow = pyarrow.parquet.read_table(path).select(names).to_pylist()
    by_polars = polars.read_parquet(path).select(names).rows()
    by_duckdb = duckdb.sql(f"SELECT {', '.join(names)} FROM read_parquet('{path}')").fetchall()
    for found in ([tuple(row.values()) for row in by_arrow], by_polars, by_duckdb):
        assert [(*row[:-1], str(row[-1])) for row in found] == expected
    compression = pyarrow.parquet.ParquetFile(path).metadata.row_group(0).column(6).compression
    assert compression == "ZSTD"
    store.close()


def test_the_manifest_says_rows_and_digests(tmp_path: Path) -> None:
    store = MemoryStore()
    sealed = seal_run(store, write_everything(store), tmp_path)
    said = json.loads((sealed.folder / "manifest.json").read_text())
    assert said["num_rows"] == {
        "all_points": 18,
        "events": 2,
        "samples": 1,
        "artifacts": 1,
        "alerts": 1,
    }
    for name, digest in said["sha256"].items():
        assert hashlib.sha256((sealed.folder / name).read_bytes()).hexdigest() == digest
    assert current_seal(store, sealed.run_id, tmp_path) == sealed


def test_a_run_that_lives_is_not_sealed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path)
    run_id = stored_run(store, status=RunStatus.RUNNING)
    with pytest.raises(UserError, match="is running, and only a run that has ended is sealed"):
        seal_run(store, run_id)
    assert not (store.run_folder(run_id) / "sealed").exists()
    store.close()


def test_a_store_without_folders_needs_a_root() -> None:
    store = MemoryStore()
    run_id = stored_run(store, status=RunStatus.FINISHED)
    with pytest.raises(UserError, match="has no folder for sealed runs; give root="):
        seal_run(store, run_id)
    assert current_seal(store, run_id) is None


def test_writing_during_or_after_sealing_makes_it_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    run_id = write_everything(store)
    seal_run(store, run_id, tmp_path)
    store.append(run_id, points(("loss", 3, math.nan, 0, 2)))
    assert current_seal(store, run_id, tmp_path) is None
    resealed = seal_run(store, run_id, tmp_path)
    assert current_seal(store, run_id, tmp_path) == resealed
    store.put_attempt(
        run_id,
        Attempt(
            attempt=3,
            resumed_from_step=1,
            started_ns=1,
            heartbeat_ns=1,
            status=RunStatus.FINISHED,
            ended_ns=2,
            **other_machine()._asdict(),
        ),
    )
    assert current_seal(store, run_id, tmp_path) is None
    original = store.events
    monkeypatch.setattr(
        store,
        "events",
        lambda *args: (store.append(run_id, points(("late", 1, 1.0))), original(*args))[1],
    )
    with pytest.raises(StoreError, match="was written to while it was sealed"):
        seal_run(store, run_id, tmp_path)


def test_a_seal_that_lacks_a_file_does_not_count(tmp_path: Path) -> None:
    store = MemoryStore()
    sealed = seal_run(store, write_everything(store), tmp_path)
    sealed.path("events").unlink()
    assert current_seal(store, sealed.run_id, tmp_path) is None


def test_an_empty_run_is_sealed_with_empty_tables(tmp_path: Path) -> None:
    store = MemoryStore()
    run_id = stored_run(store, status=RunStatus.FINISHED)
    store.append(run_id, Batch())
    sealed = seal_run(store, run_id, tmp_path)
    assert set(sealed.num_rows.values()) == {0}
    assert pyarrow.parquet.read_table(sealed.path("events")).num_rows == 0
