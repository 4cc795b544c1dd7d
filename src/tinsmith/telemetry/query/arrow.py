"""What was recorded as Arrow tables with fixed schemas: one for sealed files, SQL and frames alike.

Table               One row is
`points`            a point of the effective line, or of any attempt in `all_points`
`events`            an event; measurements are a map of numbers, metadata JSON text
`samples`           a prompt and its completion
`artifacts`, `alerts`, `attempts`, `keys`, `runs`

NaN and infinities stay values; null means that nothing was said.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from tinsmith.core import jsonio
from tinsmith.core.errors import missing_extra
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    Event,
    Interval,
    KeyInfo,
    PointColumns,
    RunRecord,
    SampleText,
    run_times,
)
from tinsmith.telemetry.stores.lines import effective_line, sorted_points

__all__ = [
    "TABLES",
    "ArrowTable",
    "require_duckdb",
    "require_polars",
    "require_pyarrow",
    "schema_of",
    "table_of_points",
    "table_of_records",
    "table_of_runs",
]

ArrowTable: TypeAlias = Any  # pyarrow has no complete type stubs
Package: TypeAlias = Any  # of packages that are imported when they are needed


def require_pyarrow() -> Package:
    """Import pyarrow.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        pyarrow = importlib.import_module("pyarrow")
        for part in ("pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet"):
            importlib.import_module(part)
    except ImportError as error:
        raise missing_extra("pyarrow", "telemetry") from error
    return pyarrow


def require_duckdb() -> Package:
    """Import DuckDB.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise missing_extra("duckdb", "telemetry") from error
    return duckdb


def require_polars() -> Package:
    """Import polars.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import polars
    except ImportError as error:
        raise missing_extra("polars", "telemetry") from error
    return polars


_PLACE = {"rank": "int32", "attempt": "int32"}
_TRACE = {"trace_id": "string", "span_id": "string", "parent_id": "string"}

TABLES: Mapping[str, Mapping[str, str]] = {
    "all_points": {
        "run_id": "string",
        "key": "dictionary",
        "step": "int64",
        **_PLACE,
        "ts_ns": "int64",
        "value": "double",
        "is_effective": "bool",
    },
    "events": {
        "run_id": "string",
        "event_id": "string",
        "name": "string",
        "ts_ns": "int64",
        "mono_ns": "int64",
        "duration_ns": "int64",
        "step": "int64",
        **_PLACE,
        **_TRACE,
        "inclusion_p": "double",
        "measurements": "numbers",
        "metadata": "json",
    },
    "samples": {
        "run_id": "string",
        "sample_id": "string",
        "step": "int64",
        "ts_ns": "int64",
        "prompt": "string",
        "completion": "string",
        **_PLACE,
        "token_logprobs": "doubles",
        "rewards": "numbers",
        "trace_id": "string",
        "metadata": "json",
    },
    "artifacts": {
        "run_id": "string",
        "digest": "string",
        "name": "string",
        "kind": "string",
        "uri": "string",
        "num_bytes": "int64",
        "ts_ns": "int64",
        "step": "int64",
        **_PLACE,
        "metadata": "json",
    },
    "alerts": {
        "run_id": "string",
        "alert_id": "string",
        "rule": "string",
        "message": "string",
        "opened_ns": "int64",
        "closed_ns": "int64",
        "severity": "string",
        "key": "string",
        "step": "int64",
        "score": "double",
        "threshold": "double",
        **_PLACE,
        "metadata": "json",
    },
    "attempts": {
        "run_id": "string",
        **_PLACE,
        "status": "string",
        "pid": "int64",
        "host": "string",
        "started_ns": "int64",
        "heartbeat_ns": "int64",
        "ended_ns": "int64",
        "exit_code": "int64",
        "resumed_from_step": "int64",
        "health": "json",
    },
    "keys": {
        "run_id": "string",
        "key": "string",
        "unit": "string",
        "goal": "string",
        "description": "string",
    },
    "runs": {
        "run_id": "string",
        "project": "string",
        "name": "string",
        "status": "string",
        "created_ns": "int64",
        "run_group": "string",
        "job": "string",
        "parent_run": "string",
        "forked_from_step": "int64",
        "hypothesis": "string",
        "condition": "string",
        "tags": "strings",
        "config": "json",
        "seed": "int64",
        "git_revision": "string",
        "git_is_dirty": "bool",
        "wall_s": "double",
        "active_s": "double",
        "paused_s": "double",
        "metadata": "json",
    },
}
"""Columns and their kinds, by table."""


@cache
def schema_of(table: str) -> Any:  # Any: a pyarrow schema
    """Return the Arrow schema of a table of `TABLES`."""
    pa = require_pyarrow()
    types = {
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
        "numbers": pa.map_(pa.string(), pa.float64()),
        "doubles": pa.list_(pa.float64()),
        "strings": pa.list_(pa.string()),
        "json": pa.string(),
    }
    fields = [
        (name, types.get(kind) or pa.type_for_alias(kind)) for name, kind in TABLES[table].items()
    ]
    return pa.schema(fields)


def table_of_points(run_id: str, points: PointColumns, cuts: Mapping[int, int]) -> ArrowTable:
    """Return points of all attempts, by key (as text), step, rank and attempt.

    Args:
        run_id: Their run.
        points: Of all attempts.
        cuts: As `stores.lines.cuts_of` gives them; decide `is_effective`.
    """
    pa = require_pyarrow()
    points = _by_name(points)
    # The line is chosen with positions in the place of times, which says which rows it takes.
    places = replace(points, ts_ns=np.arange(len(points)))
    is_effective = np.zeros(len(points), np.bool_)
    is_effective[effective_line(places, cuts).ts_ns] = True
    columns = [
        _repeated(run_id, len(points)),
        pa.DictionaryArray.from_arrays(pa.array(points.key), pa.array(points.names, pa.string())),
        *(
            pa.array(np.ascontiguousarray(column))
            for column in (points.step, points.rank, points.attempt, points.ts_ns, points.value)
        ),
        pa.array(is_effective),
    ]
    return pa.Table.from_arrays(columns, schema=schema_of("all_points"))


def _by_name(points: PointColumns) -> PointColumns:
    names = sorted(points.names)
    place = {name: code for code, name in enumerate(names)}
    codes = np.array([place[name] for name in points.names], dtype=np.int32)
    return sorted_points(replace(points, names=tuple(names), key=codes[points.key]))


def _repeated(text: str, length: int) -> Any:  # Any: an Arrow array
    pa = require_pyarrow()
    return pa.repeat(pa.scalar(text, pa.string()), length)


_Record: TypeAlias = Event | SampleText | Artifact | Alert | Attempt | KeyInfo


def table_of_records(table: str, run_id: str, records: Iterable[_Record]) -> ArrowTable:
    """Return events, texts, artifacts, alerts, attempts or keys as the table of that name."""
    pa = require_pyarrow()
    listed = list(records)
    columns = [_repeated(run_id, len(listed))]
    schema = schema_of(table)
    for name, kind in list(TABLES[table].items())[1:]:
        column = [_CELLS.get(kind, _as_it_is)(getattr(record, name)) for record in listed]
        columns.append(pa.array(column, schema.field(name).type, from_pandas=False))
    return pa.Table.from_arrays(columns, schema=schema)


def _as_it_is(value: Any) -> Any:  # Any: one field of a record
    return value


def _pairs(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in numbers.items()]


_CELLS: Mapping[str, Callable[[Any], Any]] = {"numbers": _pairs, "json": jsonio.dumps}


@dataclass(frozen=True, slots=True)
class TimedRun:
    """A run and the stretches of time that it took."""

    record: RunRecord
    intervals: tuple[Interval, ...] = ()


def table_of_runs(runs: Iterable[TimedRun]) -> ArrowTable:
    """Return one row a run."""
    pa = require_pyarrow()
    rows = [_run_row(run) for run in runs]
    return pa.Table.from_pylist(rows, schema=schema_of("runs"))


def _run_row(run: TimedRun) -> dict[str, Any]:  # Any: cells
    record, times = run.record, run_times(run.intervals)
    told = {name: getattr(record, name) for name in TABLES["runs"] if hasattr(record, name)}
    git = record.git
    return {
        **told,
        "status": str(record.status),
        "run_group": record.group,
        "tags": list(record.tags),
        "config": jsonio.dumps(record.config),
        "metadata": jsonio.dumps(record.metadata),
        "git_revision": None if git is None else git.revision,
        "git_is_dirty": None if git is None else git.is_dirty,
        **times._asdict(),
    }
