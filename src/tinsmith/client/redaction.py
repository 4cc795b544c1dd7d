"""What of an error may be told to the service: no keys, no paths of the person's, no source.

Main names: `redacted`, `safe_data`, `safe_traceback`.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import cast

MAX_TEXT_CHARS = 2_000
MAX_FRAMES = 40
_MAX_DEPTH = 5
_MAX_ITEMS = 50
_SHORT_SECRET_CHARS = 6
"""A key shorter than this is not looked for: it would be found in ordinary words."""

_SECRETS = (
    (re.compile(r"\btml-[\w\-]+"), "tml-***"),
    (re.compile(r"\beyJ[\w\-]+(\.[\w\-]+)*"), "***"),
    (re.compile(r"\b(sk|hf|gh[pousr])[-_][\w\-]{8,}"), r"\1-***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s'\",;]+"), r"\1 ***"),
    (re.compile(r"://[^/\s@]+@"), "://***@"),
    (
        re.compile(
            r"(?i)([\w\-]*(?:api[-_]?key|token|secret|password|passwd|signature)['\"]?\s*[=:]\s*)"
            r"['\"]?[^\s&'\",;]+"
        ),
        r"\1***",
    ),
    (re.compile(r"(/home|/Users|\\Users)[/\\][^/\\\s'\":]+"), "~"),
)


def redacted(text: str, secrets: Sequence[str] = ()) -> str:
    """Text without what looks like a key, without given secrets and without the home directory."""
    for secret in secrets:
        if len(secret) >= _SHORT_SECRET_CHARS:
            text = text.replace(secret, "***")
    home = str(Path.home())
    if len(home) > 1:
        text = text.replace(home, "~")
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text if len(text) <= MAX_TEXT_CHARS else text[:MAX_TEXT_CHARS] + "..."


def safe_data(value: object, secrets: Sequence[str] = (), depth: int = 0) -> object:
    """A value as JSON can say it, its texts redacted; of anything else the name of its type."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return redacted(value, secrets)
    if depth < _MAX_DEPTH and isinstance(value, dict):
        items = list(cast("dict[object, object]", value).items())[:_MAX_ITEMS]
        return {
            redacted(str(name), secrets): _safe_item(str(name), item, secrets, depth)
            for name, item in items
        }
    if depth < _MAX_DEPTH and isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)[:_MAX_ITEMS]
        return [safe_data(item, secrets, depth + 1) for item in items]
    return f"<{type(value).__name__}>"


_SECRET_NAME = re.compile(r"(?i)key$|token$|secret|password|authorization|cookie|credential")


def _safe_item(name: str, value: object, secrets: Sequence[str], depth: int) -> object:
    if isinstance(value, str) and _SECRET_NAME.search(name):
        return "***"
    return safe_data(value, secrets, depth + 1)


def safe_traceback(error: BaseException) -> str | None:
    """Where an error came from: files, lines and functions; no source lines, no values."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    if not frames:
        return None
    return "\n".join(f"{_place(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames)


def _place(filename: str) -> str:
    """A file's path from its package on, or its bare name where it is the person's own."""
    parts = PurePath(filename).parts
    for root in ("site-packages", "dist-packages"):
        if root in parts:
            return "/".join(parts[parts.index(root) + 1 :])
    if "tinsmith" in parts:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("tinsmith") :])
    return parts[-1] if parts else filename
