"""The record of a run's checkpoints: `checkpoints.jsonl`, one line a checkpoint.

A line is written after the service has stored the checkpoint and after the metrics of its step are
on disk, so whatever it promises is there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinsmith.core.errors import DataError
from tinsmith.core.paths import atomic_write_text

FINAL = "final"
CheckpointKind = Literal["periodic", "rolling", "best", "final"]


class CheckpointRecord(BaseModel):
    """One checkpoint; keys that other programs add survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """Six digits of the step, perhaps with the kind before them, or `final`."""
    step: int
    """Optimizer steps that the checkpoint contains."""
    epoch: int
    """Epoch of the next batch, from 0."""
    batch: int
    """Place of the next batch in that epoch, from 0."""
    kind: CheckpointKind = "periodic"
    """Why it was saved: by steps, by the clock, as the best so far, or at the end."""
    num_tokens: int = 0
    """Tokens that the run had trained on."""
    expires_at: float | None = None
    """When the service may delete it, in seconds since 1970."""
    state: dict[str, Any] = Field(default_factory=dict)
    """State of what is not the model, by name."""
    state_path: str | None = None
    """Address of the training state: adapter, optimizer moments, step."""
    sampler_path: str | None = None
    """Address of the sampler weights, a PEFT adapter."""

    @property
    def is_final(self) -> bool:
        return self.name == FINAL


def checkpoint_name(step: int, kind: CheckpointKind = "periodic") -> str:
    """Name of the checkpoint that contains `step` optimizer steps."""
    return f"{step:06d}" if kind == "periodic" else f"{kind}-{step:06d}"


def append_record(path: Path, record: CheckpointRecord) -> None:
    """Add a line, on disk when this returns; a half-written line before it is removed."""
    line = _line(record)
    with path.open("a+b") as file:
        _drop_half_line(path, file.tell())
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path) -> list[CheckpointRecord]:
    """Records in order; none if there is no file; a half-written last line is left out.

    Raises:
        DataError: A whole line is no record.
    """
    if not path.exists():
        return []
    records: list[CheckpointRecord] = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            records.append(CheckpointRecord.model_validate(json.loads(line)))
        except (json.JSONDecodeError, ValidationError) as error:
            raise DataError(
                f"{path}:{number}: not a checkpoint record",
                file=str(path),
                line=number,
                hint="remove the line, or start the run again with if_exists=delete",
            ) from error
    return records


def replace_records(path: Path, records: Sequence[CheckpointRecord]) -> None:
    """Write the file anew, at once."""
    atomic_write_text(path, "".join(map(_line, records)))


def last_resumable(
    records: Sequence[CheckpointRecord], now: float | None = None
) -> CheckpointRecord | None:
    """The newest record with a training state that has not expired."""
    now = time.time() if now is None else now
    return next(
        (
            record
            for record in reversed(records)
            if record.state_path and (record.expires_at is None or record.expires_at > now)
        ),
        None,
    )


def _line(record: CheckpointRecord) -> str:
    left_out = {"state"} if not record.state else set[str]()
    return record.model_dump_json(exclude_none=True, exclude=left_out) + "\n"


def _drop_half_line(path: Path, size: int) -> None:
    if not size:
        return
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
