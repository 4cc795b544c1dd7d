"""Sealing: a finished run's points, events and texts as Parquet files that everything reads.

    <run's folder>/sealed/
      all_points.parquet    zstd; sorted by key, step, rank, attempt events.parquet,
      samples.parquet, artifacts.parquet, alerts.parquet manifest.json         rows and SHA-256 of
      each file, and the place up to which they are the run

The folder appears at once or not at all. Sealing copies: the store keeps the run, and a run that
was written to after sealing is read from the store again until it is sealed anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tinsmith.core import jsonio
from tinsmith.core.errors import UserError
from tinsmith.core.paths import atomic_directory
from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.model import Batch, Cursor, RunStatus
from tinsmith.telemetry.query.arrow import (
    ArrowTable,
    require_pyarrow,
    table_of_points,
    table_of_records,
)
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.lines import cuts_of

__all__ = ["SEALED_TABLES", "Sealed", "current_seal", "seal_run", "sealed_folder"]

FORMAT_VERSION = 1
SEALED_TABLES = ("all_points", "events", "samples", "artifacts", "alerts")
_ENDED = {RunStatus.FINISHED, RunStatus.FAILED, RunStatus.CRASHED, RunStatus.ARCHIVED}
_MANIFEST = "manifest.json"
_ROWS_A_GROUP = 131_072


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed run.

    Attributes:
        run_id: The run.
        folder: Where the files are.
        cursor: The place in the store's order of writing that they reach.
        cuts: As `stores.lines.cuts_of` gave them.
        num_rows: Rows by table.
        digests: SHA-256 by file name, in hexadecimal.
    """

    run_id: str
    folder: Path
    cursor: Cursor
    cuts: Mapping[int, int]
    num_rows: Mapping[str, int]
    digests: Mapping[str, str]

    def path(self, table: str) -> Path:
        return self.folder / f"{table}.parquet"


@runtime_checkable
class _HasFolders(Protocol):
    def run_folder(self, run_id: str) -> Path: ...


def sealed_folder(store: Store, run_id: str, root: Path | None = None) -> Path | None:
    """Return where a run is sealed: under `root`, or beside the run where its store has a folder.

    None where there is neither.
    """
    if root is not None:
        return root / run_id / "sealed"
    return store.run_folder(run_id) / "sealed" if isinstance(store, _HasFolders) else None


def seal_run(store: Store, run_id: str, root: Path | None = None) -> Sealed:
    """Write a run that has ended as Parquet files; an older seal is replaced.

    Args:
        store: Where the run is.
        run_id: The run.
        root: The folder of sealed runs, for a store that has no folders itself.

    Raises:
        UserError: the run has not ended, or there is no folder to seal it in.
        StoreError: the run was written to meanwhile.
        MissingExtraError: pyarrow is not installed.
    """
    require_pyarrow()
    status = store.get_run(run_id).status
    if status not in _ENDED:
        raise UserError(
            f"run_id={run_id!r}: is {status}, and only a run that has ended is sealed",
            field="run_id",
            hint="finish it first",
        )
    folder = sealed_folder(store, run_id, root)
    if folder is None:
        raise UserError(
            f"store={store.url!r}: has no folder for sealed runs", field="root", hint="give root="
        )
    cursor = store.append(run_id, Batch())  # the place behind everything; writes nothing
    cuts = cuts_of(store.attempts(run_id))
    tables: dict[str, ArrowTable] = {
        "all_points": table_of_points(run_id, store.points(run_id, attempt="all"), cuts),
        "events": table_of_records("events", run_id, store.events(run_id)),
        "samples": table_of_records("samples", run_id, store.samples(run_id)),
        "artifacts": table_of_records("artifacts", run_id, store.artifacts(run_id)),
        "alerts": table_of_records("alerts", run_id, store.alerts(run_id)),
    }
    if not _is_current(store, run_id, cursor, cuts):
        raise StoreError(
            f"run_id={run_id!r}: was written to while it was sealed",
            field="run_id",
            hint="seal it again once its processes have ended",
        )
    num_rows = {name: len(table) for name, table in tables.items()}
    with atomic_directory(folder, overwrite=True) as partial:
        digests = {
            f"{name}.parquet": _write(table, partial / f"{name}.parquet")
            for name, table in tables.items()
        }
        sealed = Sealed(run_id, folder, cursor, cuts, num_rows, digests)
        text = jsonio.dumps(
            {
                "format_version": FORMAT_VERSION,
                "run_id": run_id,
                "cursor": cursor._asdict(),
                "cuts": {str(attempt): step for attempt, step in cuts.items()},
                "num_rows": num_rows,
                "sha256": digests,
            }
        )
        (partial / _MANIFEST).write_text(text, encoding="utf-8")
    return sealed


def _write(table: ArrowTable, path: Path) -> str:
    """Write a file and return its SHA-256."""
    pq = require_pyarrow().parquet
    pq.write_table(table, path, compression="zstd", row_group_size=_ROWS_A_GROUP)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def current_seal(store: Store, run_id: str, root: Path | None = None) -> Sealed | None:
    """Return a run's seal where it is whole and the run was not written to since; else None."""
    folder = sealed_folder(store, run_id, root)
    if folder is None or not (folder / _MANIFEST).exists():
        return None
    said: dict[str, Any] = jsonio.loads(
        (folder / _MANIFEST).read_text(encoding="utf-8")
    )  # Any: JSON
    if said["format_version"] != FORMAT_VERSION:
        return None
    sealed = Sealed(
        run_id,
        folder,
        Cursor(**said["cursor"]),
        {int(attempt): step for attempt, step in said["cuts"].items()},
        said["num_rows"],
        said["sha256"],
    )
    if not all((folder / name).exists() for name in sealed.digests):
        return None
    return sealed if _is_current(store, run_id, sealed.cursor, sealed.cuts) else None


def _is_current(store: Store, run_id: str, cursor: Cursor, cuts: Mapping[int, int]) -> bool:
    news, _ = store.tail(run_id, cursor, limit=1)
    return len(news) == 0 and cuts_of(store.attempts(run_id)) == cuts
