"""SQLite files of other tools, opened so that nothing is changed in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tinsmith.core.errors import DataError

__all__ = ["open_foreign", "rows_of"]


def open_foreign(path: Path, tool: str, tables: Sequence[str]) -> sqlite3.Connection:
    """Open a tool's database for reading.

    Raises:
        DataError: no database, or not one of the tool.
    """
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        found = {name for (name,) in rows_of(db, "SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        db.close()
        raise DataError(f"{path}: not a SQLite database: {error}", file=str(path)) from error
    missing = [name for name in tables if name not in found]
    if missing:
        db.close()
        raise DataError(f"{path}: not a database of {tool}: no table {missing}", file=str(path))
    return db


def rows_of(db: sqlite3.Connection, query: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a query."""
    yield from db.execute(query, parameters)
