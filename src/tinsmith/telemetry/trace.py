"""Where time goes: spans written as Chrome trace events, to be opened in Perfetto.

`TraceWriter` appends one event a line to a JSON array that is never closed, so that the file can be
read at any moment, also after a kill: the format allows for it.

Source: "Trace Event Format", Google; complete events (`"ph": "X"`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol


class Trace(Protocol):
    """Where spans go."""

    def complete(
        self, name: str, start_ns: int, end_ns: int, *, lane: int = 0, **details: object
    ) -> None:
        """Record a span by its wall-clock times; spans that overlap belong in different lanes."""
        ...

    def span(self, name: str, *, lane: int = 0, **details: object) -> AbstractContextManager[None]:
        """Record the time that a block takes."""
        ...

    def close(self) -> None:
        """Finish writing; idempotent."""
        ...


class NullTrace:
    """Records nothing."""

    def complete(
        self, name: str, start_ns: int, end_ns: int, *, lane: int = 0, **details: object
    ) -> None:
        pass

    @contextmanager
    def span(self, name: str, *, lane: int = 0, **details: object) -> Generator[None]:
        yield

    def close(self) -> None:
        pass


class TraceWriter:
    """Appends spans to a file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_half_line(path)
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self._file.write("[\n")

    def complete(
        self, name: str, start_ns: int, end_ns: int, *, lane: int = 0, **details: object
    ) -> None:
        """Record a span by its wall-clock times."""
        event = {
            "name": name,
            "ph": "X",
            "ts": start_ns / 1000,
            "dur": max(end_ns - start_ns, 0) / 1000,
            "pid": os.getpid(),
            "tid": lane,
            "args": details,
        }
        self._file.write(json.dumps(event) + ",\n")
        self._file.flush()

    @contextmanager
    def span(self, name: str, *, lane: int = 0, **details: object) -> Generator[None]:
        """Record the time that a block takes, also where it raises."""
        started = time.time_ns()
        try:
            yield
        finally:
            self.complete(name, started, time.time_ns(), lane=lane, **details)

    def close(self) -> None:
        """Finish writing; idempotent."""
        self._file.close()


def _drop_half_line(path: Path) -> None:
    """Cut off what a kill left of a last line: no event after it could be read."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
