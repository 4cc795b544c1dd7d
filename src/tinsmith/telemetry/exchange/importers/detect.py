"""Which tool recorded a file, told by its content, and all runs under a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from tinsmith.core.errors import DataError
from tinsmith.telemetry.exchange.bundle import RunBundle
from tinsmith.telemetry.exchange.importers.metrics_files import (
    read_metrics_jsonl,
    read_trainer_state,
)
from tinsmith.telemetry.exchange.importers.mlflow import read_mlflow
from tinsmith.telemetry.exchange.importers.sqlite import open_foreign, rows_of
from tinsmith.telemetry.exchange.importers.tensorboard import event_files, read_tensorboard
from tinsmith.telemetry.exchange.importers.trackio import read_trackio
from tinsmith.telemetry.exchange.importers.wandb import read_wandb

__all__ = ["SOURCES", "read_foreign"]

SOURCES = (
    "W&B offline (*.wandb)",
    "TensorBoard (*.tfevents.*)",
    "MLflow (mlflow.db)",
    "trackio (PROJECT.db)",
    "Hugging Face Trainer (trainer_state.json)",
    "metrics.jsonl",
)

_READERS: dict[str, Callable[[Path], Iterator[RunBundle]]] = {
    "wandb": lambda path: iter([read_wandb(path)]),
    "tensorboard": lambda path: iter([read_tensorboard([path])]),
    "mlflow": read_mlflow,
    "trackio": read_trackio,
    "trainer_state": lambda path: iter([read_trainer_state(path)]),
    "metrics": lambda path: iter([read_metrics_jsonl(path)]),
}


def read_foreign(path: Path) -> Iterator[RunBundle]:
    """Read the runs that another tool left in a file, or in all files under a folder.

    Raises:
        DataError: nothing that is known is there, or a file of a known tool is damaged.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder", file=str(path))
    if path.is_file():
        kind = _kind(path)
        if kind is None:
            raise DataError(
                f"{path}: not the record of a tool that is known",
                hint=f"known: {', '.join(SOURCES)}",
                file=str(path),
            )
        yield from _READERS[kind](path)
        return
    num_found = 0
    for bundle in _under(path):
        num_found += 1
        yield bundle
    if not num_found:
        raise DataError(
            f"{path}: no run of a tool that is known in it", hint=f"known: {', '.join(SOURCES)}"
        )


def _under(folder: Path) -> Iterator[RunBundle]:
    """Read a folder and the folders in it; the event files of one folder are one run."""
    events = event_files(folder)
    if events:
        yield read_tensorboard(events)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _under(path)
        elif path.is_file() and path not in events:
            kind = _kind(path)
            if kind is not None:
                yield from _READERS[kind](path)


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b":W&B"):
        return "wandb"
    if head.startswith(b"SQLite format 3\x00"):
        return _database_kind(path)
    if ".tfevents." in path.name or head[16:].find(b"brain.Event:") >= 0:
        return "tensorboard"
    if path.name == "trainer_state.json":
        return "trainer_state"
    if path.suffix == ".jsonl" and _is_metrics(head):
        return "metrics"
    return None


def _database_kind(path: Path) -> str | None:
    with closing(open_foreign(path, "a tool", ())) as db:
        tables = {name for (name,) in rows_of(db, "SELECT name FROM sqlite_master")}
    if {"experiments", "runs", "metrics", "params"} <= tables:
        return "mlflow"
    return "trackio" if {"metrics", "configs"} <= tables else None


def _is_metrics(head: bytes) -> bool:
    try:
        row = json.loads(head.split(b"\n", 1)[0])
    except ValueError:
        return False
    return isinstance(row, dict) and "step" in row
