"""Tables as Parquet (zstd): one typed column for each column, JSON texts where types are mixed."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tinsmith.core.errors import DataError, missing_extra
from tinsmith.core.jsonio import dumps, loads
from tinsmith.telemetry.exchange.table import (
    Cell,
    Row,
    columns_of,
    decode_json,
    encode_json,
    union_of,
    whole_rows,
)

__all__ = ["read_parquet", "write_parquet"]

_JSON_FIELD = {b"tinsmith": b"json"}
_MAX_EXACT = 2**53
_INT64 = range(-(2**63), 2**63)


def write_parquet(rows: Iterable[Row], path: Path, columns: list[str] | None = None) -> None:
    """Write rows under the union of their columns.

    Whole numbers are int64, numbers float64, texts and truth values themselves. A column of whole
    numbers and fractions is float64 where that is exact.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    pa, pq = _pyarrow()
    kept = list(whole_rows(rows))
    names = union_of(columns or [], columns_of(kept))
    fields: list[Any] = []
    arrays: list[Any] = []
    for name in names:
        cells = [row.get(name) for row in kept]
        kind = _kind(cells)
        if kind == "json":
            cells = [None if cell is None else dumps(encode_json(cell)) for cell in cells]
        arrow_type = pa.string() if kind == "json" else pa.type_for_alias(kind)
        fields.append(pa.field(name, arrow_type, metadata=_JSON_FIELD if kind == "json" else None))
        arrays.append(pa.array(cells, arrow_type, from_pandas=False))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    pq.write_table(table, path, compression="zstd")


def _kind(cells: list[Cell]) -> str:
    types: set[type] = {type(cell) for cell in cells if cell is not None}
    if not types:
        return "string"
    if types == {bool}:
        return "bool"
    if types == {str}:
        return "string"
    if types == {int}:
        return "int64" if all(cell is None or cell in _INT64 for cell in cells) else "json"
    if types == {float}:
        return "double"
    if types == {int, float}:
        exact = all(abs(cell) <= _MAX_EXACT for cell in cells if type(cell) is int)
        return "double" if exact else "json"
    return "json"


def read_parquet(path: Path) -> Iterator[Row]:
    """Read rows, a row group at a time.

    Raises:
        DataError: not a Parquet file, or one that is cut off.
        MissingExtraError: pyarrow is not installed.
    """
    pa, pq = _pyarrow()
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a whole Parquet file: {error}", file=str(path)) from error
    with file:
        schema = file.schema_arrow
        as_json = {field.name for field in schema if b"tinsmith" in (field.metadata or ())}
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield {
                    name: decode_json(loads(cell)) if name in as_json else _plain(cell)
                    for name, cell in row.items()
                    if cell is not None
                }


def _plain(cell: Cell) -> Cell:
    """Say times and decimals, which other people's files hold, as texts."""
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    if isinstance(cell, decimal.Decimal):
        return str(cell)
    return cell


def _pyarrow() -> tuple[Any, Any]:  # Any: pyarrow has no complete type stubs
    try:
        import pyarrow  # pyright: ignore[reportMissingTypeStubs] - it has none
        import pyarrow.parquet  # pyright: ignore[reportMissingTypeStubs] - as above
    except ImportError as error:
        raise missing_extra("pyarrow", "data") from error
    return pyarrow, pyarrow.parquet
