"""Runs in MLflow's SQLite store (`mlflow.db`)."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tinsmith.telemetry.exchange.bundle import RunBundle, derived_run_id
from tinsmith.telemetry.exchange.importers.columns import PointCollector
from tinsmith.telemetry.exchange.importers.sqlite import open_foreign, rows_of
from tinsmith.telemetry.model import Json, RunRecord, RunStatus

__all__ = ["read_mlflow"]

_STATUS = {
    "FINISHED": RunStatus.FINISHED,
    "FAILED": RunStatus.FAILED,
    "KILLED": RunStatus.FAILED,
}
_MAX = sys.float_info.max


def read_mlflow(path: Path) -> Iterator[RunBundle]:
    """Read every run that is not deleted.

    MLflow has no infinities and writes the largest float in their place, so that these become
    infinities again. Of values that it keeps several of for one step, the last written counts.

    Raises:
        DataError: not an MLflow database.
    """
    with closing(open_foreign(path, "MLflow", ("experiments", "runs", "metrics", "params"))) as db:
        runs = rows_of(
            db,
            "SELECT r.run_uuid, r.name, r.status, r.start_time, e.name FROM runs r"
            " JOIN experiments e USING (experiment_id)"
            " WHERE r.lifecycle_stage = 'active' ORDER BY r.start_time",
        )
        for run_uuid, name, status, start_ms, experiment in runs:
            yield _read_run(db, (run_uuid, name or run_uuid, status, experiment), int(start_ms))


def _read_run(
    db: sqlite3.Connection, identity: tuple[str, str, str, str], start_ms: int
) -> RunBundle:
    run_uuid, name, status, experiment = identity
    points = PointCollector()
    metrics = rows_of(
        db,
        "SELECT key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ?"
        " ORDER BY step, timestamp, rowid",
        run_uuid,
    )
    for key, step, ts_ms, value, is_nan in metrics:
        points.add(key, step, ts_ms * 1_000_000, _value(value, is_nan=bool(is_nan)))
    params = rows_of(db, "SELECT key, value FROM params WHERE run_uuid = ?", run_uuid)
    tags = dict(rows_of(db, "SELECT key, value FROM tags WHERE run_uuid = ?", run_uuid))
    record = RunRecord(
        run_id=derived_run_id(start_ms * 1_000_000, "mlflow", experiment, run_uuid),
        project=experiment,
        name=name,
        created_ns=start_ms * 1_000_000,
        status=_STATUS.get(status, RunStatus.CREATED),
        tags=tuple(f"{key}={tags[key]}" for key in sorted(tags) if not key.startswith("mlflow.")),
        config={key: _param(value) for key, value in params},
        metadata={"imported_from": "mlflow", "mlflow_run_id": run_uuid},
    )
    return RunBundle(record=record, points=points.columns(), skipped=points.skipped)


def _value(value: float, *, is_nan: bool) -> float:
    if is_nan:
        return float("nan")
    return value * 2 if abs(value) == _MAX else float(value)


def _param(text: str) -> Json:
    """Read a parameter, which MLflow keeps as text, back as the number that it may have been."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, (bool, int, float)) else text
