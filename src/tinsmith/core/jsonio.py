"""Strict JSON: no NaN or infinity in either direction, one object a line in JSONL files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tinsmith.core.errors import DataError

__all__ = ["append_jsonl", "dumps", "loads"]


def dumps(value: object, *, indent: int | None = None) -> str:
    """Return compact JSON (or indented, for people to read).

    Raises:
        DataError: the value holds NaN, infinity or something that JSON cannot say.
    """
    separators = (",", ":") if indent is None else (",", ": ")

    def encode(*, ascii_only: bool) -> str:
        return json.dumps(
            value,
            allow_nan=False,
            ensure_ascii=ascii_only,
            indent=indent,
            separators=separators,
        )

    try:
        text = encode(ascii_only=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"not representable as JSON: {error}") from error
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: UTF-8 has no bytes for it, an escape has
        return encode(ascii_only=True)
    return text


def loads(text: str | bytes | bytearray) -> Any:  # Any: whatever the document holds
    """Parse one JSON document.

    Raises:
        json.JSONDecodeError: not JSON; a ValueError, as are the others.
        DataError: `NaN` or `Infinity` in it, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise DataError("JSON is nested too deeply") from error


def append_jsonl(path: str | Path, record: Mapping[str, object]) -> None:
    """Append one record as a line, in a single write; parents are created.

    A last line that a crash left without its end is closed first, so that it spoils no other.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = dumps(record).encode() + b"\n"
    with path.open("ab+", buffering=0) as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)


def _refuse_constant(name: str) -> NoReturn:
    raise DataError(f"{name} is not JSON")
