"""Which store, and which run in it."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tinsmith.core.errors import UnknownNameError, UserError, unknown_name

if TYPE_CHECKING:
    from tinsmith.telemetry.model import RunRecord
    from tinsmith.telemetry.stores import Store

__all__ = ["LATEST", "find_run", "opened_store", "sealed_option", "short_id", "store_option"]

LATEST = "latest"
MIN_ID_PART = 4
SHORT = 8

store_option = click.option(
    "--store",
    metavar="STORE",
    help="A folder or a store's URL; default: TINSMITH_RECORD, else this machine's folder.",
)
sealed_option = click.option(
    "--sealed",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of sealed runs, for a database; other stores keep them beside each run.",
)


@contextmanager
def opened_store(address: str | None) -> "Generator[Store]":
    """Open the store that a command names."""
    from tinsmith.telemetry.stores import open_store

    with closing(open_store(address)) as store:
        yield store


def short_id(run_id: str) -> str:
    """Return the end of a run's id: its beginning is a time, which runs of one day share."""
    return run_id[-SHORT:]


def find_run(store: "Store", text: str) -> "RunRecord":
    """Return the run that a text names.

    Raises:
        UnknownNameError: no run is named so.
        UserError: a part of an id that several runs have.
    """
    from tinsmith.telemetry.errors import StoreError

    try:
        return store.get_run(text)
    except (UnknownNameError, UserError, StoreError):
        pass
    found = store.list_runs()
    if not found:
        raise UnknownNameError(
            f"run={text!r}: nothing is recorded in {store.url}",
            hint="name another store with --store, or record a run first",
        )
    if text == LATEST:
        return found[0]
    named = [run for run in found if run.name == text]
    if named:
        return named[0]
    parts = [run for run in found if text in run.run_id]
    if len(text) < MIN_ID_PART or not parts:
        known = [name for run in found for name in (run.name, short_id(run.run_id))]
        raise unknown_name("run", text, list(dict.fromkeys(known)))
    if len(parts) > 1:
        raise UserError(
            f"run={text!r}: {len(parts)} runs have this in their id",
            hint=f"write more of it: {', '.join(short_id(run.run_id) for run in parts[:5])}",
        )
    return parts[0]
