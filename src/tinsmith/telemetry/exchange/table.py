"""Tables between file formats: rows of named cells, read and written without losing anything.

A cell is a number, a text, a truth value, or a list or mapping of such; an absent cell and a null
are the same thing. NaN and the infinities are numbers. Each format of `formats` says in its own way
what it has no word for:

    JSONL    a number that JSON lacks is the text "NaN", "Infinity" or "-Infinity"; a text that
             reads so is {"$text": "NaN"}
    CSV      texts are quoted and nothing else is; a column of lists or mappings ends in `:json`
    Parquet  a column of mixed types holds JSON texts, and its field says so in its metadata
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

__all__ = [
    "NONFINITE",
    "Cell",
    "Row",
    "columns_of",
    "decode_json",
    "encode_json",
    "float_text",
    "whole_rows",
]

Cell: TypeAlias = Any  # Any: what JSON can say, and NaN and the infinities
Row: TypeAlias = dict[str, Cell]

NONFINITE: Mapping[str, float] = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_TEXT = "$text"


def float_text(value: float) -> str:
    """Return the shortest text that `float()` reads back exactly."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def encode_json(cell: Cell) -> Cell:
    """Turn a cell into what strict JSON can say; `decode_json` is its inverse."""
    if isinstance(cell, float) and not math.isfinite(cell):
        return float_text(cell)
    if isinstance(cell, str) and cell in NONFINITE:
        return {_TEXT: cell}
    if isinstance(cell, Mapping):
        encoded = {str(name): encode_json(value) for name, value in _items(cell)}
        return {_TEXT: encoded} if set(encoded) == {_TEXT} else encoded
    if isinstance(cell, (list, tuple)):
        return [encode_json(item) for item in _list(cell)]
    return cell


def decode_json(cell: Cell) -> Cell:
    """Undo `encode_json`."""
    if isinstance(cell, str):
        return NONFINITE.get(cell, cell)
    if isinstance(cell, dict):
        if set(_dict(cell)) == {_TEXT}:
            inner = _dict(cell)[_TEXT]
            return inner if isinstance(inner, str) else _decode_items(inner)
        return _decode_items(cell)
    if isinstance(cell, list):
        return [decode_json(item) for item in _list(cell)]
    return cell


def columns_of(rows: Iterable[Row]) -> list[str]:
    """Return every column that any row has, in the order in which they first appear."""
    seen: dict[str, None] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None:
                seen.setdefault(name)
    return list(seen)


def union_of(first: Iterable[str], then: Iterable[str]) -> list[str]:
    """Return names without repeats, in order."""
    seen: dict[str, None] = {}
    for name in (*first, *then):
        seen.setdefault(name)
    return list(seen)


def whole_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Leave out absent cells, and rows that have no other."""
    for row in rows:
        present = {name: cell for name, cell in row.items() if cell is not None}
        if present:
            yield present


def _decode_items(cell: Cell) -> Cell:
    return {name: decode_json(value) for name, value in cell.items()}


# The cells of a mapping and of a list are cells: said once, for the type checker.
def _items(cell: Cell) -> Iterable[tuple[Any, Cell]]:
    return cell.items()


def _dict(cell: Cell) -> dict[str, Cell]:
    return cell


def _list(cell: Cell) -> list[Cell]:
    return cell
