"""Tables of a run's SQLite file, and how a file is made.

`point` and its sisters have an integer primary key, `seq`, that only grows: a row that is replaced
gets a new, higher one. It is the cursor of `Store.tail`. A NULL in a column of floats is a NaN.
"""

from __future__ import annotations

import sqlite3

from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Event,
    RollupRow,
    SampleText,
)
from tinsmith.telemetry.stores.codec import columns_of

__all__ = [
    "SCHEMA_VERSION",
    "check_version",
    "create_tables",
    "insert_statement",
    "schema_statements",
]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x7153_6D54
"""Tells `file(1)` and us that a SQLite file is ours."""

_TYPES = {
    "ts_ns": "INTEGER NOT NULL",
    "mono_ns": "INTEGER NOT NULL",
    "opened_ns": "INTEGER NOT NULL",
    "closed_ns": "INTEGER",
    "duration_ns": "INTEGER",
    "step": "INTEGER",
    "rank": "INTEGER NOT NULL",
    "attempt": "INTEGER NOT NULL",
    "num_bytes": "INTEGER NOT NULL",
    "inclusion_p": "REAL NOT NULL",
    "score": "REAL",
    "threshold": "REAL",
}

_RECORDS = {
    "event": (Event, "event_id"),
    "sample": (SampleText, "sample_id"),
    "artifact": (Artifact, "digest, name"),
    "alert": (Alert, "alert_id"),
}

_TABLES = """
CREATE TABLE run (run_id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE attempt (
  attempt INTEGER, rank INTEGER, pid INTEGER NOT NULL, host TEXT NOT NULL,
  process_start TEXT NOT NULL, started_ns INTEGER NOT NULL, heartbeat_ns INTEGER NOT NULL,
  ended_ns INTEGER, status TEXT NOT NULL, exit_code INTEGER, resumed_from_step INTEGER,
  health TEXT NOT NULL, PRIMARY KEY (attempt, rank)) WITHOUT ROWID;
CREATE TABLE interval (
  attempt INTEGER, rank INTEGER, "index" INTEGER, kind TEXT NOT NULL, started_ns INTEGER NOT NULL,
  ended_ns INTEGER, duration_ns INTEGER NOT NULL,
  PRIMARY KEY (attempt, rank, "index")) WITHOUT ROWID;
CREATE TABLE key (
  key_id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, unit TEXT, goal TEXT, description TEXT);
CREATE TABLE point (
  seq INTEGER PRIMARY KEY, key_id INTEGER NOT NULL, step INTEGER NOT NULL, rank INTEGER NOT NULL,
  attempt INTEGER NOT NULL, ts_ns INTEGER NOT NULL, value REAL,
  UNIQUE (key_id, step, rank, attempt));
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_AFTER_RECORDS = """
CREATE INDEX event_time ON event (ts_ns);
CREATE INDEX event_name ON event (name, ts_ns);
CREATE INDEX event_trace ON event (trace_id) WHERE trace_id IS NOT NULL;
"""


def schema_statements() -> str:
    """Return what makes the tables; a change of it needs the next `SCHEMA_VERSION`."""
    statements = [_TABLES]
    for table, (kind, identity) in _RECORDS.items():
        columns = ", ".join(f"{name} {_TYPES.get(name, 'TEXT')}" for name in columns_of(kind))
        statements.append(
            f"CREATE TABLE {table} (seq INTEGER PRIMARY KEY, {columns}, UNIQUE ({identity}));"
        )
    return "\n".join([*statements, _rollup_tables(), _AFTER_RECORDS])


def create_tables(db: sqlite3.Connection) -> None:
    """Make an empty database into that of a run."""
    # One transaction: each costs a wait for the disk.
    db.executescript("\n".join(["BEGIN;", schema_statements(), "COMMIT;"]))
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _rollup_tables() -> str:
    reals = {"total", "mean", "m2", "minimum", "maximum", "first", "last"}
    *names, sketch = columns_of(RollupRow)
    columns = ", ".join(
        f"{name} {'TEXT' if name == 'key' else 'REAL' if name in reals else 'INTEGER'}"
        for name in names
    )
    # The sketch is ten times the rest, and stands apart: a chart reads ten thousand rows without.
    place = "PRIMARY KEY (level, key, bucket, rank)"
    return f"""
CREATE TABLE rollup ({columns}, {place}) WITHOUT ROWID;
CREATE TABLE rollup_sketch (
  level INTEGER, key TEXT, bucket INTEGER, rank INTEGER, {sketch} BLOB NOT NULL, {place}
) WITHOUT ROWID;
"""


def insert_statement(table: str, kind: type, verb: str) -> str:
    """Return the INSERT of a record's columns; `verb` is what to do when its identity is there."""
    columns = columns_of(kind)
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR {verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})"


def check_version(db: sqlite3.Connection, path: str) -> None:
    """Refuse a file that is not a run's, or comes from a later version.

    Raises:
        StoreError: it is one of these; permanent.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise StoreError(
            f"file={path!r}: is a SQLite database, but not one of a run",
            field="file",
            hint="move it out of the folder of runs",
            is_permanent=True,
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"file={path!r}: has schema version {version}, this release reads up to "
            f"{SCHEMA_VERSION}",
            field="file",
            hint="pip install --upgrade tinsmith",
            is_permanent=True,
        )
