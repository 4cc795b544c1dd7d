"""Runs in trackio's databases, one file a project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from tinsmith.core.errors import DataError
from tinsmith.telemetry.exchange.bundle import RunBundle, derived_run_id
from tinsmith.telemetry.exchange.importers.columns import PointCollector
from tinsmith.telemetry.exchange.importers.sqlite import open_foreign, rows_of
from tinsmith.telemetry.exchange.table import decode_json
from tinsmith.telemetry.model import Json, RunRecord, RunStatus

__all__ = ["read_trackio"]


def read_trackio(path: Path) -> Iterator[RunBundle]:
    """Read every run of a project; system metrics, traces and media are counted in `skipped`.

    Raises:
        DataError: not a trackio database, or a row of it that is no JSON.
    """
    with closing(open_foreign(path, "trackio", ("metrics", "configs"))) as db:
        columns = {name for _, name, *_ in rows_of(db, "PRAGMA table_info(metrics)")}
        # Older files know a run by its name alone.
        key = "run_id" if "run_id" in columns else "run_name"
        runs = rows_of(
            db,
            f"SELECT {key}, max(run_name), min(timestamp) FROM metrics GROUP BY {key} ORDER BY 3",
        )
        configs = dict(rows_of(db, f"SELECT {key}, config FROM configs"))
        for run, name, started in list(runs):
            points = PointCollector()
            rows = rows_of(
                db,
                f"SELECT id, step, timestamp, metrics FROM metrics WHERE {key} = ? ORDER BY id",
                run,
            )
            for row, step, timestamp, metrics in rows:
                for metric, cell in _parse(metrics, path, f"metrics row {row}").items():
                    points.add_cell(metric, step, _ns(timestamp), cell)
            config = _parse(configs.get(run, "{}"), path, f"config of {name}")
            record = RunRecord(
                run_id=derived_run_id(_ns(started), "trackio", path.stem, run),
                project=path.stem,
                name=name,
                created_ns=_ns(started),
                status=RunStatus.FINISHED,
                group=str(config["_Group"]) if config.get("_Group") else None,
                config={key: cell for key, cell in config.items() if not key.startswith("_")},
                metadata={"imported_from": "trackio", "trackio_run_id": run},
            )
            yield RunBundle(record=record, points=points.columns(), skipped=points.skipped)


def _parse(text: str | bytes, path: Path, where: str) -> dict[str, Json]:
    try:
        return decode_json(json.loads(text))
    except ValueError as error:
        raise DataError(f"{path}, {where}: not JSON: {error}", file=str(path)) from error


def _ns(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1e6) * 1000
