"""Which format a file is in, told by its content, and conversion between them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from tinsmith.core.errors import ConfigError, DataError, unknown_name
from tinsmith.telemetry.exchange.csv_text import read_csv, write_csv
from tinsmith.telemetry.exchange.jsonl import read_jsonl, write_jsonl
from tinsmith.telemetry.exchange.parquet import read_parquet, write_parquet
from tinsmith.telemetry.exchange.table import Row

__all__ = ["TableFormat", "convert", "detect_format", "format_of_name", "read_table", "write_table"]

TableFormat = Literal["csv", "jsonl", "parquet"]

_ENDINGS: dict[str, TableFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}


class _Format(NamedTuple):
    read: Callable[[Path], Iterator[Row]]
    write: Callable[[Iterable[Row], Path], None]


_FORMATS: dict[TableFormat, _Format] = {
    "csv": _Format(read_csv, write_csv),
    "jsonl": _Format(read_jsonl, write_jsonl),
    "parquet": _Format(read_parquet, write_parquet),
}


def detect_format(path: Path) -> TableFormat:
    """Tell a table's format by what is in it; its name does not matter.

    Raises:
        DataError: empty, or none of the three.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise DataError(f"{path}: empty", file=str(path))
    if text.startswith(b"{"):
        return "jsonl"
    if b"\x00" in head:
        raise DataError(
            f"{path}: neither CSV nor JSONL nor Parquet: it holds binary data",
            hint="runs of other tools are read by `tinsmith runs import`",
            file=str(path),
        )
    return "csv"


def format_of_name(path: Path) -> TableFormat:
    """Tell the format that a file to be written is named for.

    Raises:
        ConfigError: an ending that says none.
    """
    found = _ENDINGS.get(path.suffix.lower())
    if found is None:
        raise ConfigError(
            f"{path}: its ending says no format; known: {', '.join(_ENDINGS)}",
            hint="name the file so, or say the format",
        )
    return found


def read_table(path: Path) -> Iterator[Row]:
    """Read rows of a file, whatever its format."""
    return _FORMATS[detect_format(path)].read(path)


def write_table(rows: Iterable[Row], path: Path, table_format: TableFormat | None = None) -> None:
    """Write rows into a file, which is there whole or not at all.

    Args:
        rows: The rows.
        path: The file; replaced if it exists.
        table_format: The format; by default what the file's ending says.

    Raises:
        ConfigError: no format said and none in the name.
        UnknownNameError: no such format.
    """
    chosen = table_format or format_of_name(path)
    if chosen not in _FORMATS:
        raise unknown_name("format", chosen, get_args(TableFormat))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        partial = Path(scratch) / "table"
        _FORMATS[chosen].write(rows, partial)
        partial.replace(path)


def convert(source: Path, target: Path, table_format: TableFormat | None = None) -> TableFormat:
    """Write a table in another format, with the same cells; return the source's format.

    Numbers stay equal (a whole number among fractions may come back as 2.0), columns are the union
    over all rows, and an absent cell equals a null.

    Raises:
        DataError: the source cannot be read, with its line.
    """
    found = detect_format(source)
    write_table(_FORMATS[found].read(source), target, table_format)
    return found
