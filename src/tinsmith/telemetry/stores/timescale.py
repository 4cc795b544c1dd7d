"""TimescaleDB, used where a database has the extension: points as a hypertable, compressed.

Not exercised in continuous integration: Debian has no package of it. The SQL made here is tested as
text, and a test runs it where the extension is found. What it is used for:

- `telemetry_point` is a hypertable by ranges of steps (its key must hold the dimension, and time is
  no part of a point's key), instead of partitions by hash;
- with the Community licence, chunks can be compressed (`compression_statement`); the Apache build
has
  no compression, and goes without.

Continuous aggregates are not used: our roll-ups know resumed attempts, and theirs cannot.
Source: TimescaleDB 2.13 documentation, "create_hypertable (generalized)", "compress_chunk".
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

__all__ = ["Timescale", "compression_statement", "find_timescale", "hypertable_statements"]

Connection: TypeAlias = Any  # psycopg's, which is imported when it is needed

STEPS_A_CHUNK = 1_000_000
_GENERALIZED = (2, 13)


class Timescale(NamedTuple):
    """An installed extension."""

    version: tuple[int, int]
    has_compression: bool
    """Whether it is the Community edition, not the Apache one."""


def find_timescale(db: Connection) -> Timescale | None:
    """Return the extension of a database; None where nobody ran CREATE EXTENSION."""
    row = db.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
    if row is None:
        return None
    (licence,) = db.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    major, minor, *_ = row[0].split(".")
    return Timescale((int(major), int(minor)), licence == "timescale")


def hypertable_statements(timescale: Timescale) -> list[str]:
    """Return what makes an empty `telemetry_point` a hypertable."""
    if timescale.version >= _GENERALIZED:
        create = f"create_hypertable('telemetry_point', by_range('step', {STEPS_A_CHUNK}))"
    else:
        create = (
            f"create_hypertable('telemetry_point', 'step', chunk_time_interval => {STEPS_A_CHUNK})"
        )
    statements = [f"SELECT {create};"]
    if timescale.has_compression:
        statements.append(
            "ALTER TABLE telemetry_point SET (timescaledb.compress, "
            "timescaledb.compress_segmentby = 'run_id, key_id, rank', "
            "timescaledb.compress_orderby = 'step, attempt');"
        )
    return statements


def compression_statement(older_than_step: int) -> str:
    """Return what compresses the chunks of steps before one; they still take upserts."""
    return (
        "SELECT compress_chunk(chunk, if_not_compressed => true) "
        f"FROM show_chunks('telemetry_point', older_than => {older_than_step:d}::bigint) AS chunk"
    )
