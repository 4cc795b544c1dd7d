"""Recorders: a training loop calls `log(step, metrics)`; what happens then is the recorder's.

`JsonlRecorder` writes one JSON object a line, `{"step": 12, "train/nll": 2.31, ...}`. JSON has no
NaN and no infinities, so these become the strings `"NaN"`, `"Infinity"` and `"-Infinity"`, which
`float()` reads back; `read_metrics` does so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from tinsmith.core.paths import atomic_write_bytes

STEP = "step"


@runtime_checkable
class Recorder(Protocol):
    """Where a run's numbers go."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record metrics of `step`; more than one call a step is allowed."""
        ...

    def close(self) -> None:
        """Finish writing; idempotent."""
        ...


class NullRecorder:
    """Records nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


class JsonlRecorder:
    """Appends one line a call to a file, complete on disk as seen by readers when `log` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        row: dict[str, float | str] = {STEP: step}
        row.update((name, _encodable(value)) for name, value in metrics.items())
        self._file.write(json.dumps(row, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _encodable(value: float) -> float | str:
    if type(value) is int:
        return value
    value = float(value)  # a NumPy scalar is a number too, but not for json
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics file, in order; a last line cut off by a crash is left out."""
    return [row for _, row in _whole_rows(path)]


def drop_steps_after(path: Path, step: int) -> int:
    """Cut a metrics file back to the rows of steps up to `step`, atomically.

    Returns:
        Number of lines dropped, a half-written last line included.
    """
    if not path.exists():
        return 0
    kept = [line for line, row in _whole_rows(path) if row[STEP] <= step]
    num_lines = len(path.read_bytes().splitlines())
    atomic_write_bytes(path, b"".join(kept))
    return num_lines - len(kept)


def _whole_rows(path: Path) -> Iterator[tuple[bytes, dict[str, float]]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            row: dict[str, float | str] = json.loads(line)
            step = int(row.pop(STEP))
            yield line, {STEP: step, **{name: float(value) for name, value in row.items()}}
