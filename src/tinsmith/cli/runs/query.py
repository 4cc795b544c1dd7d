"""`tinsmith runs query`: SQL over what was recorded."""

import sys
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.runs.choosing import find_run, opened_store, sealed_option, store_option
from tinsmith.cli.runs.plots import number_text
from tinsmith.cli.tables import print_json, print_table
from tinsmith.core.errors import UserError

__all__ = ["query_runs"]

SHOWN = 100
NOTHING = "-"
DIGITS = 6


@click.command("query")
@click.argument("sql")
@click.option(
    "-r", "--run", "runs", multiple=True, help="Read only this run; may be repeated. Default: all."
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=SHOWN,
    show_default=True,
    help="Rows of the table that is shown; 0 shows all. --json and --csv give all.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, with a header and exact numbers.")
@sealed_option
@store_option
@json_option
def query_runs(
    sql: str,
    runs: tuple[str, ...],
    limit: int,
    as_csv: bool,
    sealed: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Ask recorded runs by SQL: one SELECT, in DuckDB's dialect; `-` reads it from standard input.

    Tables: points (the line that counts), all_points (with lines that were given up), events,
    samples, artifacts, alerts, attempts, keys, runs. `DESCRIBE points` tells a table's columns.
    """
    from tinsmith.telemetry.exchange.csv_text import csv_lines
    from tinsmith.telemetry.exchange.table import encode_json
    from tinsmith.telemetry.query import query

    if as_json and as_csv:
        raise UserError("--json and --csv: both are asked for; one is allowed", field="csv")
    statement = sys.stdin.read() if sql == "-" else sql
    with opened_store(store) as opened:
        ids = [find_run(opened, text).run_id for text in runs]
        answer = query(statement, opened, runs=ids or None, sealed_root=sealed)
    names = _distinct(answer.column_names)
    if as_json:
        rows = [encode_json(dict(zip(names, row, strict=True))) for row in _rows(answer)]
        print_json({"columns": names, "rows": rows})
    elif as_csv:
        rows = [dict(zip(names, row, strict=True)) for row in _rows(answer)]
        sys.stdout.writelines(line.replace("\r\n", "\n") for line in csv_lines(rows, names))
    else:
        shown = answer.slice(0, limit) if limit else answer
        count = len(answer)
        title = f"{count} row{'' if count == 1 else 's'}"
        if len(shown) < count:
            title += f" ({len(shown)} shown; --limit 0: all)"
        print_table(title, names, [[_text(cell) for cell in row] for row in _rows(shown)])


def _distinct(names: Sequence[str]) -> list[str]:
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if doubled:
        raise UserError(
            f"sql: columns named twice: {', '.join(doubled)}",
            field="sql",
            hint="name each one: SELECT a.value AS first, b.value AS second",
        )
    return list(names)


def _rows(table: Any) -> Iterator[tuple[object, ...]]:  # Any: Arrow's table, without types
    """Rows of an Arrow table, each cell as JSON can say it."""
    from pyarrow import types

    columns: list[list[object]] = []
    for column in table.columns:
        cells: list[Any] = column.to_pylist()  # Any: Arrow's cells
        if types.is_map(column.type):  # a list of pairs, for Arrow
            cells = [None if cell is None else dict(cell) for cell in cells]
        columns.append([_plain(cell) for cell in cells])
    return zip(*columns, strict=True)


def _plain(cell: Any) -> object:  # Any: Arrow's cells
    if isinstance(cell, dict):
        return {str(name): _plain(inner) for name, inner in cell.items()}
    if isinstance(cell, list):
        return [_plain(inner) for inner in cell]
    if isinstance(cell, Decimal):  # DuckDB's sums of whole numbers, and its literals like 0.5
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, (datetime, date, time)):
        return cell.isoformat()
    if isinstance(cell, bytes):
        return cell.hex()
    return cell if cell is None or isinstance(cell, (bool, int, float, str)) else str(cell)


def _text(cell: object) -> str:
    if cell is None:
        return NOTHING
    if isinstance(cell, float):
        return number_text(cell, DIGITS)
    return str(cell)
