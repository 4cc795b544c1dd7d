"""What users hand over, made into what stores keep: floats, clean text, plain JSON.

Nothing here fails: a value that cannot be kept is refused with a reason, a text that is too long is
cut with a mark, and the caller counts both.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from enum import Enum
from typing import Any, SupportsFloat, cast

from tinsmith.telemetry.model import Json

__all__ = [
    "MAX_KEY_CHARS",
    "MAX_METADATA_CHARS",
    "MAX_TEXT_CHARS",
    "Refused",
    "Tidier",
    "key_trouble",
    "settle",
    "shown",
    "to_float",
]

MAX_KEY_CHARS = 1_024
MAX_METADATA_CHARS = 65_536
"""Of one string in metadata or a configuration; longer ones are cut."""
MAX_TEXT_CHARS = 16 * 1024 * 1024
"""Of the prompt or completion of a text sample."""
_MAX_DEPTH = 16
_MAX_ITEMS = 10_000

_SECRET = re.compile(
    r"(?:^|[_.\-])(?:api[_-]?key|access[_-]?key|token|secret|password|passwd|credentials?)$", re.I
)
REDACTED = "<redacted>"
_PASSWORD_OF_URL = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]+(?=@)")


class Refused(Exception):
    """A value that is not recorded, and why."""


def shown(value: object) -> str:
    """Return a value for a message: its first 100 characters, or its type where it cannot say."""
    try:
        return f"{value!r:.100}"
    except Exception:  # noqa: BLE001 - other people's objects may raise anything
        return f"a {type(value).__name__}"


def to_float(value: object) -> float:
    """Return a number, NumPy scalar, or array or tensor of one element as a float.

    Raises:
        Refused: it is none of these.
    """
    if isinstance(value, float | int):
        return _of_integer(value) if isinstance(value, int) else value
    if isinstance(value, str | bytes):
        raise Refused(
            f"is text ({type(value).__name__}): texts belong in config, events or samples"
        )
    if isinstance(value, complex) or _kind_of_dtype(value) == "c":
        raise Refused("is complex: log the real and the imaginary part under two names")
    size = _num_elements(value)
    if size != 1:
        raise Refused(
            f"has {size} elements: log a statistic of it, such as its mean"
            if size is not None
            else f"is a {type(value).__name__}, not a number"
        )
    try:
        item = getattr(value, "item", None)
        return float(cast("SupportsFloat", item() if callable(item) else value))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise Refused(f"cannot become a number: {error}") from error


def _of_integer(value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise Refused("is an integer beyond the range of floats") from error


def _kind_of_dtype(value: object) -> str:
    dtype = getattr(value, "dtype", None)
    if getattr(dtype, "is_complex", False):  # torch
        return "c"
    return str(getattr(dtype, "kind", ""))


def _num_elements(value: object) -> int | None:
    """Number of elements of a number, array or tensor; None for anything else."""
    if isinstance(value, numbers.Number):
        return 1
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "item"):
        return math.prod(shape)
    if hasattr(value, "__float__"):  # decimal.Decimal and its like
        return 1
    return None


def settle(value: object) -> object:
    """Return a value that later changes of the original do not reach, without waiting for a device.

    Plain numbers and what lies in ordinary memory become floats at once. A tensor on a device is
    copied there, behind the work that computes it; `to_float` waits for the copy.

    Raises:
        Refused: it is not a number.
    """
    device = getattr(value, "device", None)
    kind = getattr(device, "type", "cpu")
    if device is None or kind == "cpu" or not hasattr(value, "detach"):
        return to_float(value)
    if _kind_of_dtype(value) == "c" or _num_elements(value) != 1:
        return to_float(value)  # refuses it, with the reason, before anything is read
    tensor = cast("Any", value)  # a torch tensor; torch is not imported here
    copy = tensor.detach().clone()
    torch = sys.modules.get("torch")
    if kind != "cuda" or torch is None:
        return copy
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(device))
    return _OnDevice(copy, done)


class _OnDevice:
    """A tensor of one element on a device, and the event behind which it is computed."""

    __slots__ = ("_copy", "_done")
    shape = ()

    def __init__(self, copy: Any, done: Any) -> None:  # Any: torch's
        self._copy = copy
        self._done = done

    def item(self) -> float:
        # The writer thread's stream knows nothing of the one that computes the value.
        self._done.synchronize()
        return self._copy.item()


def key_trouble(key: object) -> str | None:
    """Say why something cannot be the name of a metric; None where it can."""
    if not isinstance(key, str):
        return f"a name must be text, not {type(key).__name__}"
    if not key.strip():
        return "a name must not be empty"
    if len(key) > MAX_KEY_CHARS:
        return f"a name has at most {MAX_KEY_CHARS:,} characters, this one {len(key):,}"
    # Control characters, and halves of surrogate pairs, which have no UTF-8.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in key):
        return "a name must not hold control characters or halves of surrogate pairs"
    return None


class Tidier:
    """Makes metadata, configurations and texts plain; `num_cut` counts the strings it cut."""

    def __init__(self) -> None:
        self.num_cut = 0

    def text(self, text: object, limit: int = MAX_METADATA_CHARS) -> str:
        """Return text that every store can keep, at most so long: a mark says what was cut."""
        clean = text if type(text) is str else str(text)
        if len(clean) > limit:
            self.num_cut += 1
            clean = f"{clean[:limit]}... [{len(clean) - limit:,} more characters were cut]"
        if "\0" in clean:  # PostgreSQL keeps none
            clean = clean.replace("\0", "\ufffd")
        if not clean.isascii():
            # Halves of surrogate pairs have no UTF-8.
            clean = clean.encode("utf-8", "replace").decode("utf-8")
        return clean

    def label(self, name: object, limit: int = 1_000) -> str:
        """Return anything as a text, also what cannot say what it is."""
        try:
            return self.text(name, limit)
        except Exception:  # noqa: BLE001 - other people's objects may raise anything
            return shown(name)

    def mapping(self, value: Mapping[Any, object] | None) -> dict[str, Json]:
        """Return a map as plain JSON.

        Raises:
            TypeError: it is not a map.
        """
        if not value:
            return {}
        if not isinstance(value, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - users'
            raise TypeError(f"must be a map, not {type(value).__name__}")
        told = self.json(value)
        # A map that raises when it is read has become a text.
        return told if isinstance(told, dict) else {"metadata": told}

    def json(self, value: object, depth: int = 0, name: str = "") -> Json:
        """Return anything as JSON: what JSON cannot say becomes text; secrets by name go.

        Sizes are bounded: strings by `MAX_METADATA_CHARS`, collections by 10,000 items, nesting by
        16 levels.
        """
        try:
            return self._json(value, depth, name)
        except Exception as error:  # noqa: BLE001 - other people's objects may raise anything
            return f"<unreadable {type(value).__name__}: {type(error).__name__}>"

    def _json(self, value: object, depth: int, name: str) -> Json:
        is_empty = value is None or (isinstance(value, str) and not value)
        if name and not is_empty and _SECRET.search(name):
            return REDACTED
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value.value if isinstance(value, Enum) else value)
        if isinstance(value, int) and not isinstance(value, Enum):
            return int(value) if -(2**63) <= value < 2**63 else str(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if depth >= _MAX_DEPTH:
            self.num_cut += 1
            return f"<{type(value).__name__}, nested deeper than {_MAX_DEPTH} levels>"
        return self._json_of_object(value, depth)

    def _json_of_object(self, value: object, depth: int) -> Json:
        if isinstance(value, Mapping):
            return self._map(cast("Mapping[object, object]", value), depth)
        if isinstance(value, list | tuple | AbstractSet):
            return self._list(
                cast("Sequence[object]", list(cast("Sequence[object]", value))), depth
            )
        if isinstance(value, Enum):
            return self.json(value.value, depth + 1)
        if isinstance(value, os.PathLike | date):
            return self.text(str(cast("object", value)))
        dump = getattr(value, "model_dump", None)  # a pydantic model
        if callable(dump):
            return self.json(dump(mode="python"), depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            named: dict[object, object] = {one.name: getattr(value, one.name) for one in fields}
            return self._map(named, depth)
        to_list = getattr(value, "tolist", None)  # an array or tensor
        if callable(to_list) and (_num_elements(value) or 0) <= _MAX_ITEMS:
            return self.json(to_list(), depth + 1)
        return self.text(repr(value), 1_000)

    def _map(self, value: Mapping[object, object], depth: int) -> Json:
        if len(value) > _MAX_ITEMS:
            self.num_cut += 1
        kept = list(value.items())[:_MAX_ITEMS]
        named = ((self.label(key), item) for key, item in kept)
        return {name: self.json(item, depth + 1, name) for name, item in named}

    def _list(self, value: Sequence[object], depth: int) -> Json:
        if len(value) > _MAX_ITEMS:
            self.num_cut += 1
        return [self.json(item, depth + 1) for item in value[:_MAX_ITEMS]]


def redacted_command(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return a command line without the values of flags that name secrets, and URLs' passwords.

    Example:
        >>> redacted_command(["train", "--api-key=abc", "--hf-token", "abc", "--max-tokens", "9"])
        ('train', '--api-key=<redacted>', '--hf-token', '<redacted>', '--max-tokens', '9')
        >>> redacted_command(["--database-url", "postgresql://me:abc@host/name"])
        ('--database-url', 'postgresql://me:<redacted>@host/name')
    """
    told: list[str] = []
    is_secret = False
    for argument in arguments:
        argument = _PASSWORD_OF_URL.sub(rf"\1:{REDACTED}", argument)
        flag, equals, _ = argument.partition("=")
        names_secret = flag.startswith("-") and _SECRET.search(flag) is not None
        if is_secret and not argument.startswith("-"):
            told.append(REDACTED)
        else:
            told.append(f"{flag}={REDACTED}" if names_secret and equals else argument)
        is_secret = names_secret and not equals
    return tuple(told)
