"""Tables of the PostgreSQL store, and how a database gets them.

A change of tables is a new migration with the next number, never an edit of an old one: databases
out there have run it (`tests/golden/telemetry_schemas.json` holds every number's digest).

Points are partitioned by the hash of their run, or are a hypertable where TimescaleDB is there.
Each run has a row of counters that numbers what is written to it (`seq`): a writer holds that row's
lock until it commits, so that numbers become visible in their order and a reader at the tail misses
none.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.model import Alert, Artifact, Event, RollupRow, SampleText
from tinsmith.telemetry.stores.codec import columns_of
from tinsmith.telemetry.stores.timescale import (
    Timescale,
    find_timescale,
    hypertable_statements,
)

__all__ = [
    "MIGRATIONS",
    "NUM_PARTITIONS",
    "RECORDS",
    "SCHEMA_VERSION",
    "STAGING",
    "TAILS",
    "migrate",
    "partitions",
    "statements_of",
]

Connection: TypeAlias = Any  # psycopg's, which is imported when it is needed

RECORDS = {
    Event: ("telemetry_event", ("event_id",)),
    SampleText: ("telemetry_sample", ("sample_id",)),
    Artifact: ("telemetry_artifact", ("digest", "name")),
    Alert: ("telemetry_alert", ("alert_id",)),
}
"""Table and identity of each kind of record."""

TAILS = ("points", "events", "samples", "artifacts", "alerts")
"""Columns of counters, as the fields of `model.Cursor`."""

STAGING = """
CREATE TEMPORARY TABLE telemetry_staging (
  key_id integer, step bigint, rank integer, attempt integer, ts_ns bigint,
  value double precision, seq bigint) ON COMMIT DELETE ROWS"""
"""Where a connection that writes takes points in."""

NUM_PARTITIONS = 16
_LOCK = 0x7153_6D54
"""Advisory lock of those who migrate, one at a time."""

_TYPES = {
    "ts_ns": "bigint NOT NULL",
    "mono_ns": "bigint NOT NULL",
    "opened_ns": "bigint NOT NULL",
    "closed_ns": "bigint",
    "duration_ns": "bigint",
    "step": "bigint",
    "rank": "integer NOT NULL",
    "attempt": "integer NOT NULL",
    "num_bytes": "bigint NOT NULL",
    "inclusion_p": "double precision NOT NULL",
    "score": "double precision",
    "threshold": "double precision",
}
_ROLLUP_REALS = {"total", "mean", "m2", "minimum", "maximum", "first", "last"}

_FIRST = """
CREATE TABLE telemetry_run (
  run_id text PRIMARY KEY, project text NOT NULL, created_ns bigint NOT NULL, record text NOT NULL,
  points bigint NOT NULL DEFAULT 0, events bigint NOT NULL DEFAULT 0,
  samples bigint NOT NULL DEFAULT 0, artifacts bigint NOT NULL DEFAULT 0,
  alerts bigint NOT NULL DEFAULT 0, rollup_state text);
CREATE TABLE telemetry_attempt (
  run_id text, attempt integer, rank integer, pid bigint NOT NULL, host text NOT NULL,
  process_start text NOT NULL, started_ns bigint NOT NULL, heartbeat_ns bigint NOT NULL,
  ended_ns bigint, status text NOT NULL, exit_code bigint, resumed_from_step bigint,
  health text NOT NULL, PRIMARY KEY (run_id, attempt, rank));
CREATE TABLE telemetry_interval (
  run_id text, attempt integer, rank integer, index integer, kind text NOT NULL,
  started_ns bigint NOT NULL, ended_ns bigint, duration_ns bigint NOT NULL,
  PRIMARY KEY (run_id, attempt, rank, index));
CREATE TABLE telemetry_key (
  key_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text NOT NULL, key text NOT NULL,
  unit text, goal text, description text);
CREATE UNIQUE INDEX telemetry_key_name ON telemetry_key (run_id, md5(key));
"""

_POINT = """
CREATE TABLE telemetry_point (
  run_id text NOT NULL, key_id integer NOT NULL, step bigint NOT NULL, rank integer NOT NULL,
  attempt integer NOT NULL, ts_ns bigint NOT NULL, value double precision NOT NULL,
  seq bigint NOT NULL, PRIMARY KEY (run_id, key_id, step, rank, attempt))"""


def partitions() -> str:
    """Return the table of points without TimescaleDB."""
    parts = [
        f"CREATE TABLE telemetry_point_{i} PARTITION OF telemetry_point "
        f"FOR VALUES WITH (MODULUS {NUM_PARTITIONS}, REMAINDER {i});"
        for i in range(NUM_PARTITIONS)
    ]
    return "\n".join([f"{_POINT} PARTITION BY HASH (run_id);", *parts])


_POINT_INDEX = "CREATE INDEX telemetry_point_seq ON telemetry_point (run_id, seq);"


def _records() -> str:
    statements: list[str] = []
    for kind, (table, identity) in RECORDS.items():
        columns = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in columns_of(kind))
        statements += [
            (
                f"CREATE TABLE {table} (run_id text NOT NULL, seq bigint NOT NULL, {columns}, "
                f"PRIMARY KEY (run_id, {', '.join(identity)}));"
            ),
            f"CREATE INDEX {table}_seq ON {table} (run_id, seq);",
        ]
    statements.append("CREATE INDEX telemetry_event_time ON telemetry_event (run_id, ts_ns);")
    return "\n".join(statements)


def _rollups() -> str:
    kinds = {"key": "text NOT NULL", "sketch": "bytea NOT NULL"}
    columns = ", ".join(
        f"{name} {kinds.get(name, 'double precision' if name in _ROLLUP_REALS else 'bigint')}"
        for name in columns_of(RollupRow)
    )
    return (
        f"CREATE TABLE telemetry_rollup (run_id text NOT NULL, {columns});\n"
        "CREATE UNIQUE INDEX telemetry_rollup_place "
        "ON telemetry_rollup (run_id, level, md5(key), bucket, rank);"
    )


MIGRATIONS: dict[int, str] = {
    1: "\n".join([_FIRST, partitions(), _POINT_INDEX, _records(), _rollups()]),
}
"""Statements by the version that they lead to."""

SCHEMA_VERSION = max(MIGRATIONS)


def migrate(db: Connection) -> None:
    """Bring a database up to this release's tables, unless it has them.

    Raises:
        StoreError: the tables come from a later release; permanent.
    """
    if _version(db) == SCHEMA_VERSION:
        return
    with db.transaction():
        db.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        version = _version(db)
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"database: has the recorder's tables of version {version}, and this release knows "
                f"up to {SCHEMA_VERSION}",
                hint="upgrade tinsmith",
                is_permanent=True,
            )
        timescale = find_timescale(db)
        for number in range(version + 1, SCHEMA_VERSION + 1):
            db.execute(statements_of(number, timescale))
        db.execute("CREATE TABLE IF NOT EXISTS telemetry_schema (version integer NOT NULL)")
        db.execute("DELETE FROM telemetry_schema")
        db.execute("INSERT INTO telemetry_schema VALUES (%s)", (SCHEMA_VERSION,))


def statements_of(number: int, timescale: Timescale | None) -> str:
    """Return a migration, with a hypertable in the place of partitions where there can be one."""
    if timescale is None:
        return MIGRATIONS[number]
    hypertable = "\n".join([f"{_POINT};", *hypertable_statements(timescale)])
    return MIGRATIONS[number].replace(partitions(), hypertable)


def _version(db: Connection) -> int:
    (has_any,) = db.execute("SELECT to_regclass('telemetry_schema') IS NOT NULL").fetchone()
    return db.execute("SELECT version FROM telemetry_schema").fetchone()[0] if has_any else 0
