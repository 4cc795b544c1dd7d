"""Records as JSON and as rows of a table, the same in every SQL store.

JSON has no NaN and no infinities: in maps of numbers they are the strings that `float()` reads
back. In columns of floats a store without NaN writes NULL (SQLite does so by itself).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, Protocol, TypeVar

from tinsmith.core import jsonio
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Event,
    GitState,
    RollupRow,
    RunRecord,
    RunStatus,
    SampleText,
)

__all__ = [
    "columns_of",
    "decode_numbers",
    "decode_record",
    "decode_run",
    "encode_numbers",
    "encode_record",
    "encode_run",
]


class _Record(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]  # Any: what dataclasses declare


R = TypeVar("R", Event, SampleText, Artifact, Alert)


def encode_numbers(numbers: Mapping[str, float] | Sequence[float]) -> str:
    """Return JSON of a map or a sequence of floats, non-finite ones as strings."""
    if isinstance(numbers, Mapping):
        return jsonio.dumps({name: _speakable(value) for name, value in numbers.items()})
    return jsonio.dumps([_speakable(value) for value in numbers])


def _speakable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def decode_numbers(text: str) -> dict[str, float]:
    """Return the map of floats that `encode_numbers` wrote."""
    return {name: float(value) for name, value in jsonio.loads(text).items()}


def encode_run(record: RunRecord) -> str:
    """Return a run as JSON."""
    return jsonio.dumps(asdict(record))


def decode_run(text: str) -> RunRecord:
    """Return the run that `encode_run` wrote; fields of later versions are left out."""
    said: dict[str, Any] = jsonio.loads(text)  # Any: JSON
    known = {field.name for field in fields(RunRecord)}
    said = {name: value for name, value in said.items() if name in known}
    said["status"] = RunStatus(said["status"])
    said["tags"] = tuple(said.get("tags", ()))
    said["command"] = tuple(said.get("command", ()))
    if said.get("git"):
        said["git"] = GitState(**said["git"])
    return RunRecord(**said)


def columns_of(kind: type[_Record | RollupRow]) -> tuple[str, ...]:
    """Return the columns of a kind of record: its fields, in order."""
    if issubclass(kind, RollupRow):
        return kind._fields
    return tuple(field.name for field in fields(kind))


_NUMBERS = {"measurements", "rewards"}


def encode_record(record: Event | SampleText | Artifact | Alert) -> tuple[Any, ...]:
    """Return a record as a row of `columns_of` its type; maps become JSON text.

    Raises:
        DataError: something in `metadata` is not JSON.
    """
    return tuple(_encoded(field.name, getattr(record, field.name)) for field in fields(record))


def _encoded(name: str, value: Any) -> Any:  # Any: one field
    if name == "metadata":
        return jsonio.dumps(value)
    if name in _NUMBERS or (name == "token_logprobs" and value is not None):
        return encode_numbers(value)
    return value


def decode_record(kind: type[R], row: Sequence[Any]) -> R:
    """Return the record of a row that `encode_record` wrote."""
    said = dict(zip(columns_of(kind), row, strict=True))
    said["metadata"] = jsonio.loads(said["metadata"])
    for name in _NUMBERS & said.keys():
        said[name] = decode_numbers(said[name])
    if said.get("token_logprobs") is not None:
        said["token_logprobs"] = tuple(map(float, jsonio.loads(said["token_logprobs"])))
    return kind(**said)
