"""Tables as JSON Lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tinsmith.core.errors import DataError
from tinsmith.core.jsonio import dumps, loads
from tinsmith.telemetry.exchange.table import Row, decode_json, encode_json, whole_rows

__all__ = ["read_jsonl", "write_jsonl"]


def write_jsonl(rows: Iterable[Row], path: Path) -> None:
    """Write rows as they come; a cell that is None is left out."""
    with path.open("w", encoding="utf-8") as file:
        for row in whole_rows(rows):
            file.write(dumps({name: encode_json(cell) for name, cell in row.items()}) + "\n")


def read_jsonl(path: Path) -> Iterator[Row]:
    """Read rows as they come; blank lines are skipped.

    Raises:
        DataError: a line is not a JSON object, with its number; a last line without its end, which
            a crash leaves, is told apart from others.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parse(line, path, number)


def _parse(line: str, path: Path, number: int) -> Row:
    try:
        row = loads(line)
    except (json.JSONDecodeError, DataError) as error:
        if line.endswith("\n"):
            hint = 'each line must be one JSON object; NaN is written as the text "NaN"'
        else:
            hint = "the last line has no end, as a crash leaves it: delete it and try again"
        raise DataError(
            f"{path}, line {number}: not JSON: {error}", hint=hint, file=str(path), line=number
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f"{path}, line {number}: holds {type(row).__name__}; must be an object of columns",
            file=str(path),
            line=number,
        )
    return {name: decode_json(cell) for name, cell in row.items() if cell is not None}  # pyright: ignore[reportUnknownVariableType] - the keys of a JSON object are texts
