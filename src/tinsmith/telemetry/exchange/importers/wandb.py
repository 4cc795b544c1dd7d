"""Runs that W&B recorded offline: `wandb/offline-run-*/run-*.wandb`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tinsmith.core.errors import DataError
from tinsmith.telemetry.exchange.bundle import RunBundle, derived_run_id
from tinsmith.telemetry.exchange.importers.columns import PointCollector
from tinsmith.telemetry.exchange.importers.wire import (
    Fields,
    as_signed,
    double,
    fields_of,
    message_of,
    number_in,
    read_wandb_log,
)
from tinsmith.telemetry.exchange.table import Cell, decode_json
from tinsmith.telemetry.model import Json, RunRecord, RunStatus

__all__ = ["read_wandb"]

# Numbers of fields in W&B's protocol: Record, RunRecord, HistoryRecord and the items in them.
_HISTORY, _CONFIG, _OUTPUT_KINDS, _RUN, _EXIT = 2, 5, (4, 13), 17, 18
_RUN_ID, _PROJECT, _RUN_CONFIG, _GROUP, _JOB, _NAME, _NOTES, _TAGS = 1, 3, 4, 6, 7, 8, 9, 10
_START_TIME = 17
_ITEM, _STEP, _UPDATE = 1, 2, 1
_KEY, _NESTED, _BOOLEAN, _INTEGER, _NUMBER, _TEXT, _JSON, _VALUE_JSON = 1, 2, 4, 5, 6, 7, 8, 16
_OWN = "_wandb"
_MEDIA = "/_type"  # says what a table, an image or a histogram is, beside its other cells


def read_wandb(path: Path) -> RunBundle:
    """Read one run.

    Keys that W&B adds to each step are kept where they are numbers (`_runtime`, `_timestamp`);
    tables, histograms and media are counted in `skipped`. A file without its end is read as far as
    it goes, and the run counts as crashed-or-running: its status is "created".

    Raises:
        DataError: not a W&B log, or a damaged one.
    """
    run: Fields = {}
    config: dict[str, Json] = {}
    points = PointCollector()
    exit_code: int | None = None
    skipped: Counter[str] = Counter()
    for position, record in enumerate(read_wandb_log(path)):
        try:
            fields = fields_of(record)
            if _RUN in fields:
                run = {**run, **_message(fields, _RUN)}
                if _RUN_CONFIG in run:
                    _update_config(config, _message(run, _RUN_CONFIG))
            elif _CONFIG in fields:
                _update_config(config, _message(fields, _CONFIG))
            elif _HISTORY in fields:
                _add_history(points, _message(fields, _HISTORY))
            elif _EXIT in fields:
                exit_code = as_signed(number_in(_message(fields, _EXIT), 1))
            elif any(kind in fields for kind in _OUTPUT_KINDS):
                skipped["console output"] += 1
        except (ValueError, KeyError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: record {position}: {error}", file=str(path)) from error
    if not run:
        raise DataError(
            f"{path}: no run is described in it; the recording ended too early", file=str(path)
        )
    config.pop(_OWN, None)
    return _bundle(run, config, points, exit_code, skipped)


def _bundle(
    run: Fields,
    config: dict[str, Json],
    points: PointCollector,
    exit_code: int | None,
    skipped: Counter[str],
) -> RunBundle:
    started = _message(run, _START_TIME) if _START_TIME in run else {}
    started_ns = number_in(started, 1) * 10**9 + number_in(started, 2)
    foreign_id, project = _text(run, _RUN_ID), _text(run, _PROJECT) or "uncategorized"
    if exit_code is None:
        status = RunStatus.CREATED
    else:
        status = RunStatus.FINISHED if exit_code == 0 else RunStatus.FAILED
    record = RunRecord(
        run_id=derived_run_id(started_ns, "wandb", project, foreign_id),
        project=project,
        name=_text(run, _NAME) or foreign_id,
        created_ns=started_ns,
        status=status,
        group=_text(run, _GROUP) or None,
        job=_text(run, _JOB) or None,
        hypothesis=_text(run, _NOTES) or None,
        tags=tuple(tag.decode() for tag in run.get(_TAGS, []) if isinstance(tag, bytes)),
        config=config,
        metadata={"imported_from": "wandb", "wandb_run_id": foreign_id},
    )
    return RunBundle(record=record, points=points.columns(), skipped=points.skipped + skipped)


def _update_config(config: dict[str, Json], record: Fields) -> None:
    for item in record.get(_UPDATE, []):
        fields = fields_of(message_of(item))
        target: dict[str, Any] = config  # Any: what JSON can say, mappings on the way to the name
        *parents, name = _path(fields)
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = decode_json(json.loads(message_of(fields[_VALUE_JSON][-1])))


def _add_history(points: PointCollector, record: Fields) -> None:
    step = as_signed(number_in(_message(record, _STEP), 1)) if _STEP in record else 0
    cells = {"/".join(_path(f)): _cell(f) for f in map(fields_of, map(message_of, record[_ITEM]))}
    step = int(cells.pop("_step", step))
    ts_ns = int(float(cells.get("_timestamp", 0.0)) * 1e9)
    media = {key.removesuffix(_MEDIA): str(c) for key, c in cells.items() if key.endswith(_MEDIA)}
    points.skipped.update(media.values())
    for key, cell in cells.items():
        if key != _OWN and not any(key.startswith(f"{name}/") for name in media):
            points.add_cell(key, step, ts_ns, cell)


def _path(fields: Fields) -> list[str]:
    nested = [message_of(part).decode() for part in fields.get(_NESTED, [])]
    return nested or [_text(fields, _KEY)]


def _cell(fields: Fields) -> Cell:
    if _NUMBER in fields:
        return double(number_in(fields, _NUMBER))
    if _INTEGER in fields:
        return as_signed(number_in(fields, _INTEGER))
    if _BOOLEAN in fields:
        return bool(number_in(fields, _BOOLEAN))
    if _TEXT in fields:
        return _text(fields, _TEXT)
    for kind in (_VALUE_JSON, _JSON):
        if kind in fields:
            return json.loads(message_of(fields[kind][-1]))
    return None


def _message(fields: Fields, number: int) -> Fields:
    return fields_of(message_of(fields[number][-1]))


def _text(fields: Fields, number: int) -> str:
    return message_of(fields[number][-1]).decode() if number in fields else ""
