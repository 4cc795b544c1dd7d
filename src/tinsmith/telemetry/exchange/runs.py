"""A run as a folder of tables, written and read; and single tables of it, for other programs.

    run.json            what is known of the run, its attempts, its stretches of time, its keys
    points.parquet      key, step, rank, attempt, ts_ns, value: of all attempts
    events.parquet      and samples, artifacts, alerts: written where there are any

The tables are Parquet, CSV or JSONL; read again they give an equal run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from tinsmith.core.errors import DataError, unknown_name
from tinsmith.core.jsonio import dumps
from tinsmith.core.paths import atomic_directory
from tinsmith.telemetry.exchange.bundle import RunBundle
from tinsmith.telemetry.exchange.formats import TableFormat, read_table, write_table
from tinsmith.telemetry.exchange.table import Row, decode_json, encode_json
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
)

__all__ = ["is_exported_run", "long_rows", "read_run", "wide_rows", "write_run"]

SCHEMA_VERSION = 1

_T = TypeVar("_T")
_RUN_FILE = "run.json"
_TABLES = ("events", "samples", "artifacts", "alerts")


def long_rows(bundle: RunBundle, points: PointColumns | None = None) -> Iterator[Row]:
    """Yield one row a point; by default of all attempts."""
    columns = ("key", "step", "rank", "attempt", "ts_ns", "value")
    for row in (bundle.points if points is None else points).rows():
        yield dict(zip(columns, row, strict=True))


def wide_rows(points: PointColumns) -> Iterator[Row]:
    """Yield one row a step (and rank, where there are several) with a column for each key.

    `points` must be one line, as `Store.points` returns it by default: with the points of all
    attempts the later ones would silently replace the earlier.

    Raises:
        DataError: two points of one key, step and rank; or a key named like an own column.
    """
    ranks = np.unique(points.rank)
    own = ("step",) if len(ranks) < 2 else ("step", "rank")
    clash = sorted(set(own) & set(points.names))
    if clash:
        raise DataError(
            f"metrics {clash} are named like columns of the wide table", hint="export it long"
        )
    order = np.lexsort((points.key, points.rank, points.step))
    current: Row | None = None
    for row in points.take(order).rows():
        key, step, rank, _, _, value = row
        identity: Row = {"step": step, "rank": rank} if len(own) == 2 else {"step": step}
        if current is None or any(current[name] != identity[name] for name in own):
            if current is not None:
                yield current
            current = dict(identity)
        if key in current:
            raise DataError(f"two points of {key!r} at step {step}, rank {rank}: choose an attempt")
        current[key] = value
    if current is not None:
        yield current


def write_run(bundle: RunBundle, folder: Path, table_format: TableFormat = "parquet") -> None:
    """Write a run into a new folder, which is there whole or not at all.

    Raises:
        AlreadyExistsError: the folder exists.
        UnknownNameError: no such format.
    """
    if table_format not in get_args(TableFormat):
        raise unknown_name("format", table_format, get_args(TableFormat))
    about = {
        "schema_version": SCHEMA_VERSION,
        "run": _plain(bundle.record),
        "attempts": [_plain(attempt) for attempt in bundle.attempts],
        "intervals": [_plain(interval) for interval in bundle.intervals],
        "keys": [_plain(info) for info in bundle.keys],
    }
    with atomic_directory(folder) as partial:
        (partial / _RUN_FILE).write_text(dumps(encode_json(about), indent=1), encoding="utf-8")
        _write(long_rows(bundle), partial / f"points.{table_format}", table_format)
        for name in _TABLES:
            rows = getattr(bundle, name)
            if rows:
                plain = (_plain(row) for row in rows)
                _write(plain, partial / f"{name}.{table_format}", table_format)


def _write(rows: Iterable[Row], path: Path, table_format: TableFormat) -> None:
    write_table(rows, path, table_format)


def is_exported_run(folder: Path) -> bool:
    """Whether a folder was written by `write_run`."""
    return (folder / _RUN_FILE).is_file()


def read_run(folder: Path) -> RunBundle:
    """Read a run that `write_run` wrote.

    Raises:
        DataError: not such a folder, another version of it, or a damaged file in it.
    """
    about = _about(folder)
    version = about.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{folder}: schema_version={version!r}; this Tinsmith reads {SCHEMA_VERSION}",
            hint="read it with the version that wrote it",
        )
    points = PointColumns.from_rows(
        (row["key"], row["step"], row["rank"], row["attempt"], row["ts_ns"], float(row["value"]))
        for row in _rows(folder, "points")
    )
    return RunBundle(
        record=_build(RunRecord, about["run"], folder),
        attempts=tuple(_build(Attempt, row, folder) for row in about["attempts"]),
        intervals=tuple(_build(Interval, row, folder) for row in about["intervals"]),
        keys=tuple(_build(KeyInfo, row, folder) for row in about["keys"]),
        points=points,
        events=_table(folder, "events", Event),
        samples=_table(folder, "samples", SampleText),
        artifacts=_table(folder, "artifacts", Artifact),
        alerts=_table(folder, "alerts", Alert),
    )


def _table(folder: Path, name: str, kind: type[_T]) -> tuple[_T, ...]:
    return tuple(_build(kind, row, folder) for row in _rows(folder, name))


def _about(folder: Path) -> dict[str, Any]:  # Any: what JSON can say
    path = folder / _RUN_FILE
    try:
        about = decode_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {_RUN_FILE} in it: not an exported run") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}", file=str(path)) from error
    return about


def _rows(folder: Path, name: str) -> Iterator[Row]:
    found = [
        path for ending in get_args(TableFormat) if (path := folder / f"{name}.{ending}").exists()
    ]
    if len(found) > 1:
        raise DataError(f"{folder}: {name} twice: {[path.name for path in found]}")
    if found and found[0].stat().st_size:
        yield from read_table(found[0])


def _plain(record: object) -> Row:
    """Turn a record into cells; what is None is left out by the tables."""
    return dataclasses.asdict(record)  # pyright: ignore[reportArgumentType] - each is a dataclass


def _build(kind: type[_T], row: Mapping[str, Any], folder: Path) -> _T:
    """Make a record of cells, by the types that its fields have."""
    hints = get_type_hints(kind)
    unknown = sorted(set(row) - set(hints))
    if unknown:
        raise DataError(f"{folder}: {kind.__name__} has no {unknown}")
    try:
        return kind(**{name: _field(hints[name], value) for name, value in row.items()})
    except (TypeError, ValueError) as error:
        raise DataError(f"{folder}: not a {kind.__name__}: {error}") from error


def _field(hint: Any, value: Any) -> Any:
    """Make a field's value of a cell: tuple of list, enumeration of text, record of mapping."""
    if value is None:
        return None
    if get_origin(hint) in (Union, UnionType):
        (hint,) = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is tuple:
        return tuple(_field(get_args(hint)[0], item) for item in value)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value)
    if get_origin(hint) is Mapping and get_args(hint)[1] is float:
        return {name: float(number) for name, number in value.items()}
    if hint is float or (isinstance(hint, type) and issubclass(hint, str)):
        convert: Callable[[Any], Any] = hint
        return convert(value)
    return value


def _record(kind: Any, value: Any) -> Any:
    return kind(**value)
