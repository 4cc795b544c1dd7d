"""Strict JSON: what is written can be read by any parser, so NaN and infinity are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["append_jsonl", "dumps", "loads"]


def dumps(value: Any, *, indent: int | None = None) -> str:  # JSON has no narrower type
    """JSON text of `value`.

    Raises:
        ValueError: `value` holds NaN or an infinity.
        TypeError: `value` holds something JSON cannot say.
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(
        value, allow_nan=False, ensure_ascii=False, indent=indent, separators=separators
    )


def loads(text: str | bytes) -> Any:
    """The value that `text` says; `NaN` and `Infinity`, which JSON does not have, are refused."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def append_jsonl(path: Path, value: Any, *, durable: bool = False) -> None:
    """Append one line to `path`; with `durable`, return only once it is on disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(dumps(value) + "\n")
        if durable:
            file.flush()
            os.fsync(file.fileno())
