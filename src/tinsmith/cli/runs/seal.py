"""`tinsmith runs seal`: ended runs as Parquet files, which SQL reads fastest."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.cli.options import json_option
from tinsmith.cli.runs.choosing import (
    find_run,
    opened_store,
    sealed_option,
    short_id,
    store_option,
)
from tinsmith.cli.tables import print_json, print_table, size_text

if TYPE_CHECKING:
    from tinsmith.telemetry.query import Sealed

__all__ = ["seal"]

ENDED = ("finished", "failed", "crashed", "archived")


@click.command("seal")
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@sealed_option
@store_option
@json_option
def seal(runs: tuple[str, ...], sealed: Path | None, store: str | None, as_json: bool) -> None:
    """Copy ended runs to Parquet files, which SQL reads fastest; without RUN, all that have ended.

    A run that is sealed already, and was not written to since, is left as it is.
    """
    from tinsmith.telemetry.query import current_seal, seal_run

    told: list[dict[str, object]] = []
    rows: list[tuple[str, ...]] = []
    with opened_store(store) as opened:
        if runs:
            records = [find_run(opened, text) for text in runs]
        else:
            records = [run for run in opened.list_runs() if str(run.status) in ENDED]
        for record in records:
            old = current_seal(opened, record.run_id, sealed)
            one = old or seal_run(opened, record.run_id, sealed)
            num_bytes = _size(one)
            told.append(
                {
                    "run_id": record.run_id,
                    "name": record.name,
                    "was_sealed": old is not None,
                    "folder": str(one.folder),
                    "num_rows": dict(one.num_rows),
                    "num_bytes": num_bytes,
                }
            )
            rows.append(
                (
                    short_id(record.run_id),
                    record.name,
                    "as it was" if old else "sealed",
                    str(one.num_rows["all_points"]),
                    size_text(num_bytes),
                    str(one.folder),
                )
            )
    if as_json:
        print_json({"runs": told})
        return
    count = sum(not one["was_sealed"] for one in told)
    print_table(
        f"{count} run{'' if count == 1 else 's'} sealed",
        ("Run", "Name", "Seal", "Points", "Size", "Folder"),
        rows,
    )


def _size(sealed: "Sealed") -> int:
    return sum((sealed.folder / name).stat().st_size for name in sealed.digests)
