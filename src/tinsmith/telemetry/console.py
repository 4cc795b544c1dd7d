"""Metrics as lines of a table on stderr, for a terminal or a log file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

_WIDTH = 13
_HEADER_EVERY = 20


class ConsoleRecorder:
    """Writes a line a call, and the names of its columns above them now and then.

    Args:
        columns: Metrics to show, as they are named; a row with none of them is not shown.
        stream: Where to write; none takes stderr.
    """

    def __init__(self, columns: Sequence[str], stream: TextIO | None = None) -> None:
        self.columns = tuple(columns)
        self._stream = stream
        self._num_lines = 0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if not any(name in metrics for name in self.columns):
            return
        if self._num_lines % _HEADER_EVERY == 0:
            self._write("step", _short_names(self.columns))
        self._num_lines += 1
        self._write(str(step), [_shown(metrics.get(name)) for name in self.columns])

    def close(self) -> None:
        pass

    def _write(self, first: str, cells: Sequence[str]) -> None:
        line = " ".join([f"{first:>7}", *(f"{cell[:_WIDTH]:>{_WIDTH}}" for cell in cells)])
        print(line, file=self._stream or sys.stderr, flush=True)


def _short_names(columns: Sequence[str]) -> list[str]:
    """The last parts of the names, or the whole of those whose last parts are the same."""
    ends = [name.rpartition("/")[2] for name in columns]
    return [name if ends.count(end) > 1 else end for name, end in zip(columns, ends, strict=True)]


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
