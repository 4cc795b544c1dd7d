"""Runs that TensorBoard's or tensorboardX's writers recorded: `events.out.tfevents.*`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from tinsmith.core.errors import DataError
from tinsmith.telemetry.exchange.bundle import RunBundle, derived_run_id
from tinsmith.telemetry.exchange.importers.columns import PointCollector
from tinsmith.telemetry.exchange.importers.wire import (
    Fields,
    as_signed,
    double,
    fields_of,
    float32,
    message_of,
    number_in,
    read_tfrecords,
)
from tinsmith.telemetry.model import RunRecord, RunStatus

__all__ = ["event_files", "read_tensorboard"]

# Numbers of fields in TensorFlow's protocol: Event, Summary.Value, TensorProto.
_WALL_TIME, _STEP, _SUMMARY = 1, 2, 5
_TAG, _SIMPLE_VALUE, _TENSOR, _METADATA = 1, 2, 8, 9
_DTYPE, _CONTENT, _FLOAT_VALUES, _DOUBLE_VALUES = 1, 4, 5, 6
_FORMATS = {1: ("<f", _FLOAT_VALUES), 2: ("<d", _DOUBLE_VALUES)}
_PLUGIN, _PLUGIN_NAME = 1, 1
_VALUE_KINDS = {3: "histogram", 4: "image", 5: "histogram", 6: "audio"}


def event_files(folder: Path) -> list[Path]:
    """Return the event files directly in a folder, in the order in which they were written."""
    return sorted(path for path in folder.iterdir() if ".tfevents." in path.name)


def read_tensorboard(files: Sequence[Path]) -> RunBundle:
    """Read one run: the event files of one folder, or one file.

    Scalars become points; they are float32 in most files, and are kept as such. What is written
    twice for a step counts as last written. Histograms, images, audio and texts are counted in
    `skipped`. A last record that was cut off is left out.

    Raises:
        DataError: a damaged file.
    """
    points = PointCollector()
    started_s: float | None = None
    for path in files:
        for position, record in enumerate(read_tfrecords(path)):
            try:
                event = fields_of(record)
                wall_s = double(number_in(event, _WALL_TIME))
                started_s = wall_s if started_s is None else started_s
                step = as_signed(number_in(event, _STEP)) if _STEP in event else 0
                for summary in event.get(_SUMMARY, []):
                    for value in fields_of(message_of(summary)).get(1, []):
                        _add_value(points, fields_of(message_of(value)), step, int(wall_s * 1e9))
            except (ValueError, struct.error) as error:
                raise DataError(f"{path}: record {position}: {error}", file=str(path)) from error
    started_ns = int((started_s or 0.0) * 1e9)
    folder = files[0].resolve().parent
    record = RunRecord(
        run_id=derived_run_id(started_ns, "tensorboard", folder.name, files[0].name),
        project=folder.parent.name or "tensorboard",
        name=folder.name,
        created_ns=started_ns,
        status=RunStatus.FINISHED,
        metadata={"imported_from": "tensorboard", "files": [path.name for path in files]},
    )
    return RunBundle(record=record, points=points.columns(), skipped=points.skipped)


def _add_value(points: PointCollector, value: Fields, step: int, ts_ns: int) -> None:
    tag = message_of(value[_TAG][0]).decode() if _TAG in value else ""
    if _SIMPLE_VALUE in value:
        points.add(tag, step, ts_ns, float32(number_in(value, _SIMPLE_VALUE)))
        return
    scalar = _scalar(value)
    if scalar is not None:
        points.add(tag, step, ts_ns, scalar)
        return
    kinds = [kind for number, kind in _VALUE_KINDS.items() if number in value]
    points.skipped[kinds[0] if kinds else _plugin(value)] += 1


def _scalar(value: Fields) -> float | None:
    """Return the number in a tensor of one element that the scalars plugin wrote."""
    if _plugin(value) != "scalars" or _TENSOR not in value:
        return None
    tensor = fields_of(message_of(value[_TENSOR][0]))
    kind = _FORMATS.get(number_in(tensor, _DTYPE))
    if kind is None:
        return None
    layout, values = kind
    if _CONTENT in tensor:
        return struct.unpack(layout, message_of(tensor[_CONTENT][0]))[0]
    if values not in tensor:
        return 0.0  # a proto leaves out what is zero
    packed = tensor[values][0]
    if isinstance(packed, bytes):
        return struct.unpack(layout, packed)[0]
    return float32(packed) if layout == "<f" else double(packed)


def _plugin(value: Fields) -> str:
    if _METADATA not in value:
        return "tensor"
    metadata = fields_of(message_of(value[_METADATA][0]))
    if _PLUGIN not in metadata:
        return "tensor"
    return message_of(
        fields_of(message_of(metadata[_PLUGIN][0])).get(_PLUGIN_NAME, [b"tensor"])[0]
    ).decode()
