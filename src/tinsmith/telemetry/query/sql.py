"""SQL over everything that was recorded, sealed or not: read only, by DuckDB in memory.

The tables are those of `query.arrow.TABLES`, and `points`, the effective line of `all_points`.
DuckDB never opens a file: sealed runs come to it as Arrow data sets, whose filters and columns it
pushes down, the others as Arrow tables read from their store. Statements other than one SELECT,
files, extensions and settings are refused.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from tinsmith.core.errors import UserError
from tinsmith.telemetry.model import RunFilter, RunRecord
from tinsmith.telemetry.query.arrow import (
    TABLES,
    ArrowTable,
    TimedRun,
    require_duckdb,
    require_pyarrow,
    schema_of,
    table_of_points,
    table_of_records,
    table_of_runs,
)
from tinsmith.telemetry.query.seal import SEALED_TABLES, Sealed, current_seal
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.lines import cuts_of

__all__ = ["query"]

Parameters: TypeAlias = "Sequence[object] | Mapping[str, object] | None"
Connection: TypeAlias = Any  # DuckDB's, which is imported when it is needed

_SETTINGS = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET python_enable_replacements = false",
    "SET temp_directory = ''",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
_POINT_COLUMNS = ", ".join(name for name in TABLES["all_points"] if name != "is_effective")


def query(
    sql: str,
    store: Store,
    *,
    parameters: Parameters = None,
    runs: RunFilter | Sequence[str] | None = None,
    sealed_root: Path | None = None,
) -> ArrowTable:
    """Answer one SELECT.

    Args:
        sql: In DuckDB's dialect.
        store: Whose runs.
        parameters: Values of `?` or `$1` (a sequence), or of `$name` (a mapping).
        runs: Which runs the tables hold, by a filter or their ids; all by default.
        sealed_root: The folder of sealed runs, where the store has none itself.

    Returns:
        A `pyarrow.Table`; `.to_pandas()` and `polars.from_arrow` take it further.

    Raises:
        UnknownNameError: there is no such run.
        UserError: the statement is not one SELECT, does not compile, or asks for a file or setting.
        MissingExtraError: duckdb or pyarrow is not installed.
    """
    duckdb = require_duckdb()
    require_pyarrow()
    _require_select(duckdb, sql)
    if runs is None or isinstance(runs, RunFilter):
        listed = store.list_runs(runs)
    else:
        listed = [store.get_run(run_id) for run_id in dict.fromkeys(runs)]
    with duckdb.connect(":memory:") as con:
        for name in TABLES:
            is_named = _names(sql, name) or (name == "all_points" and _names(sql, "points"))
            parts = list(_parts(store, name, listed, sealed_root)) if is_named else []
            _add_table(con, name, parts)
        con.execute(
            f"CREATE VIEW points AS SELECT {_POINT_COLUMNS} FROM all_points WHERE is_effective"
        )
        for setting in _SETTINGS:
            con.execute(setting)
        with _translated(duckdb):
            return con.sql(sql, params=parameters).to_arrow_table()


def _require_select(duckdb: Any, sql: str) -> None:  # Any: the package
    with _translated(duckdb):
        statements = duckdb.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise UserError(
            f"sql: is {' and '.join(kinds) or 'empty'}; one SELECT is allowed",
            field="sql",
            hint="what was recorded can be read here, not changed",
        )


@contextmanager
def _translated(duckdb: Any) -> Generator[None]:  # Any: the package
    try:
        yield
    except duckdb.Error as error:
        raise UserError(f"sql: {error}", field="sql") from error


def _names(sql: str, table: str) -> bool:
    """Whether a statement may mean a table; too often is harmless, it is only read for nothing."""
    return re.search(rf"\b{table}\b", sql, re.IGNORECASE) is not None


def _parts(
    store: Store, table: str, runs: Sequence[RunRecord], sealed_root: Path | None
) -> Iterator[ArrowTable]:
    """A table's rows: an Arrow data set of the sealed runs, and an Arrow table of the others."""
    if table == "runs":
        timed = (TimedRun(run, tuple(store.intervals(run.run_id))) for run in runs)
        yield table_of_runs(timed)
        return
    pa = require_pyarrow()
    sealed: list[Sealed] = []
    hot: list[ArrowTable] = []
    for run in runs:
        seal = current_seal(store, run.run_id, sealed_root) if table in SEALED_TABLES else None
        if seal is None:
            hot.append(_hot(store, table, run.run_id))
        else:
            sealed.append(seal)
    if hot:
        yield pa.concat_tables(hot).unify_dictionaries()
    if sealed:
        files = [str(seal.path(table)) for seal in sealed]
        yield pa.dataset.dataset(files, schema=schema_of(table))


def _hot(store: Store, table: str, run_id: str) -> ArrowTable:
    if table == "all_points":
        cuts = cuts_of(store.attempts(run_id))
        return table_of_points(run_id, store.points(run_id, attempt="all"), cuts)
    readers = {
        "events": store.events,
        "samples": store.samples,
        "artifacts": store.artifacts,
        "alerts": store.alerts,
        "attempts": store.attempts,
        "keys": store.keys,
    }
    return table_of_records(table, run_id, readers[table](run_id))


def _add_table(con: Connection, name: str, parts: Sequence[ArrowTable]) -> None:
    """Make a view of parts; without any, an empty one with the same columns."""
    parts = parts or [schema_of(name).empty_table()]
    for i, part in enumerate(parts):
        con.register(f"_{name}_{i}", part)
    union = " UNION ALL ".join(f"SELECT * FROM _{name}_{i}" for i in range(len(parts)))
    con.execute(f"CREATE VIEW {name} AS {union}")
