r"""Tables as CSV (RFC 4180) that keeps types: texts are quoted, and nothing else is.

    step,train/nll,done,note,usage:json
    1,2.5,false,"a ""b"" c","{""tokens"": 7}"
    2,NaN,true,,

An empty field is an absent cell and `""` an empty text; `true` and `false` are truth values. Files
of others, which quote only where they must, are read too: a field without quotes that is no number
and no truth value is a text. Floats are written so that they read back exactly.

A column with lists or mappings is named `name:json` and holds JSON; a column whose own name ends so
gets the ending once more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tinsmith.core.errors import DataError
from tinsmith.core.jsonio import dumps, loads
from tinsmith.telemetry.exchange.table import (
    NONFINITE,
    Cell,
    Row,
    columns_of,
    decode_json,
    encode_json,
    float_text,
    union_of,
    whole_rows,
)

__all__ = ["csv_lines", "read_csv", "write_csv"]

_JSON = ":json"
_FIELD = re.compile(r'"((?:[^"]|"")*)"|([^",\r\n]*)')
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")
_NAMED: dict[str, Cell] = {
    **NONFINITE,
    "nan": NONFINITE["NaN"],
    "inf": NONFINITE["Infinity"],
    "-inf": NONFINITE["-Infinity"],
    "true": True,
    "false": False,
    "True": True,
    "False": False,
}
_PADDED = re.compile(r"[+-]?0\d")  # 007 is a name, not a number
_TEXT_START = re.compile(r"[^0-9+\-.]")


def write_csv(rows: Iterable[Row], path: Path, columns: list[str] | None = None) -> None:
    """Write rows under the union of their columns.

    Args:
        rows: The rows; kept in memory to learn their columns.
        path: The file.
        columns: These columns, first; others follow as they appear.
    """
    kept = list(whole_rows(rows))
    names = union_of(columns or [], columns_of(kept))
    with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.writelines(csv_lines(kept, names))


def csv_lines(rows: Sequence[Row], columns: Sequence[str]) -> Iterator[str]:
    """Return the text of a table: its header, and a line a row, each with its line end."""
    as_json = {name for name in columns if name.endswith(_JSON)}
    as_json |= {
        name for row in rows for name, cell in row.items() if isinstance(cell, (list, tuple, dict))
    }
    header = (name + _JSON if name in as_json else name for name in columns)
    yield ",".join(_quoted(name) if _needs_quotes(name) else name for name in header) + "\r\n"
    for row in rows:
        fields = (_field(row.get(name), as_json=name in as_json) for name in columns)
        yield ",".join(fields) + "\r\n"


def _field(cell: Cell, *, as_json: bool) -> str:
    if cell is None:
        return ""
    if as_json:
        return _quoted(dumps(encode_json(cell)))
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float):
        return float_text(cell)
    return _quoted(str(cell))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _needs_quotes(name: str) -> bool:
    return not name or any(char in name for char in '",\r\n') or name != name.strip()


def read_csv(path: Path) -> Iterator[Row]:
    """Read rows, one at a time.

    Raises:
        DataError: no header, a column twice, a row with another number of fields, or a quote that
            does not end, with the line.
    """
    with path.open(encoding="utf-8-sig", errors="surrogatepass", newline="") as file:
        records = _records(file, path)
        _, header = next(records, (0, None))
        if header is None:
            raise DataError(f"{path}: empty; a CSV file begins with its column names", line=1)
        names = [text for text, _ in header]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise DataError(f"{path}, line 1: columns named twice: {doubled}", line=1)
        for line, fields in records:
            if len(fields) != len(names):
                raise DataError(
                    f"{path}, line {line}: {len(fields)} fields for {len(names)} columns",
                    hint="a text with commas or line breaks must stand in double quotes",
                    file=str(path),
                    line=line,
                )
            yield _row(names, fields, path, line)


def _row(names: list[str], fields: list[tuple[str, bool]], path: Path, line: int) -> Row:
    row: Row = {}
    for name, (text, is_quoted) in zip(names, fields, strict=True):
        if not text and not is_quoted:
            continue
        if not name.endswith(_JSON):
            row[name] = text if is_quoted else _value(text)
            continue
        try:
            row[name.removesuffix(_JSON)] = decode_json(loads(text))
        except (json.JSONDecodeError, DataError) as error:
            message = f"{path}, line {line}, column {name!r}: not JSON: {error}"
            raise DataError(message, file=str(path), line=line) from error
    return row


def _value(text: str) -> Cell:
    if text in _NAMED:
        return _NAMED[text]
    if _TEXT_START.match(text) or _PADDED.match(text):
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text


def _records(lines: Iterable[str], path: Path) -> Iterator[tuple[int, list[tuple[str, bool]]]]:
    """Yield (line of its start, fields as (text, was quoted)) for each record."""
    pending, start = "", 0
    for number, line in enumerate(lines, start=1):
        start = start if pending else number
        pending += line
        if pending.count('"') % 2:
            continue  # within quotes: the record goes on in the next line
        if pending.strip("\r\n"):
            yield start, _fields(pending.rstrip("\r\n"), path, start)
        pending = ""
    if pending:
        raise DataError(
            f"{path}, line {start}: a quote that does not end", file=str(path), line=start
        )


def _fields(record: str, path: Path, line: int) -> list[tuple[str, bool]]:
    fields: list[tuple[str, bool]] = []
    at = 0
    while True:
        match = _FIELD.match(record, at)
        end = match.end() if match else at
        if match is None or (end < len(record) and record[end] != ","):
            raise DataError(
                f"{path}, line {line}: a quote within field {len(fields) + 1}",
                hint='write it as "" within a field in double quotes',
                file=str(path),
                line=line,
            )
        quoted, bare = match.group(1), match.group(2)
        fields.append((quoted.replace('""', '"'), True) if quoted is not None else (bare, False))
        if end == len(record):
            return fields
        at = end + 1
