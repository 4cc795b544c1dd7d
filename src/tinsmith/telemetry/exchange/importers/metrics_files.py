"""Logs that are one JSON file: our `metrics.jsonl` and Hugging Face's `trainer_state.json`."""

from __future__ import annotations

import json
from pathlib import Path

from tinsmith.core.errors import DataError
from tinsmith.telemetry.exchange.bundle import RunBundle, derived_run_id
from tinsmith.telemetry.exchange.importers.columns import PointCollector
from tinsmith.telemetry.exchange.jsonl import read_jsonl
from tinsmith.telemetry.exchange.table import Cell
from tinsmith.telemetry.integrations.trainer_run import trainer_metric_name
from tinsmith.telemetry.model import Json, RunRecord, RunStatus

__all__ = ["read_metrics_jsonl", "read_trainer_state"]

_STEP = "step"


def read_metrics_jsonl(path: Path) -> RunBundle:
    """Read a metrics file: one object a line, with its `step`; the file's folder names the run.

    `config.json` beside it becomes the run's config.

    Raises:
        DataError: a line that is no JSON object or has no step.
    """
    points = PointCollector()
    first: object = None
    for position, row in enumerate(read_jsonl(path)):
        first = dict(row) if position == 0 else first
        step = row.pop(_STEP, None)
        if type(step) not in (int, float) or step != int(step):
            raise DataError(
                f"{path}, row {position}: step={step!r}; every row must have a whole number",
                file=str(path),
            )
        for key, cell in row.items():
            points.add_cell(key, int(step), 0, cell)
    return _bundle(path, "metrics", points, _config_beside(path), first)


def read_trainer_state(path: Path) -> RunBundle:
    """Read the log of a Hugging Face Trainer: `log_history` of a checkpoint's `trainer_state.json`.

    Keys become those that the Trainer's other loggers show: `train/loss`, `eval/loss`, and
    `train/...` for what it says at the end.

    Raises:
        DataError: not such a file.
    """
    try:
        # Python's reader, not the strict one: the Trainer writes a bare NaN.
        state = json.loads(path.read_text(encoding="utf-8"))
        history = state["log_history"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a trainer_state.json: it has no log_history", file=str(path)
        ) from error
    points = PointCollector()
    for entry in history:
        step = int(entry[_STEP])
        for key, cell in entry.items():
            if key != _STEP:
                points.add_cell(trainer_metric_name(key), step, 0, cell)
    config: dict[str, Json] = {
        key: cell
        for key, cell in state.items()
        if isinstance(cell, (bool, int, float, str)) and key not in {"log_history", "global_step"}
    }
    return _bundle(path, "trainer_state", points, config, history[:1])


def _bundle(
    path: Path, source: str, points: PointCollector, config: dict[str, Json], first: object
) -> RunBundle:
    folder = path.resolve().parent
    # The file says no time. The run's first entry tells it from others in folders of the same name,
    # and is the same when the file is read again after it grew.
    identity = (source, folder.parent.name, folder.name, repr(first))
    record = RunRecord(
        run_id=derived_run_id(0, *identity),
        project=folder.parent.name or source,
        name=folder.name,
        created_ns=path.stat().st_mtime_ns,
        status=RunStatus.FINISHED,
        config=config,
        metadata={"imported_from": source, "file": path.name},
    )
    return RunBundle(record=record, points=points.columns(), skipped=points.skipped)


def _config_beside(path: Path) -> dict[str, Json]:
    beside = path.with_name("config.json")
    if not beside.exists():
        return {}
    config: Cell = json.loads(beside.read_text(encoding="utf-8"))
    return config if isinstance(config, dict) else {}  # pyright: ignore[reportUnknownVariableType] - JSON
