"""The error vocabulary that every room shares.

    TinsmithError(message, field, hint)
    ├─ UserError                 the request or the input is wrong; also a ValueError
    │  ├─ DataError              in the data: datum_index, or file and line
    │  ├─ ConfigError            in a setting
    │  ├─ UnknownNameError       a name outside a known set; also a LookupError
    │  ├─ AlreadyExistsError     nothing is overwritten unasked
    │  └─ MissingExtraError      an optional package is not installed; also an ImportError
    └─ ServerError               our own failure; also a RuntimeError
       └─ EngineDiedError        the engine's process ended

`category` decides what may be retried: "user" never, "server" and "transport" perhaps. A message
says what failed as `name=value` and what is allowed; the hint says what to do. All of them pickle
with their attributes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Literal

__all__ = [
    "AlreadyExistsError",
    "Category",
    "ConfigError",
    "DataError",
    "EngineDiedError",
    "MissingExtraError",
    "ServerError",
    "TinsmithError",
    "UnknownNameError",
    "UserError",
    "missing_extra",
    "unknown_name",
]

Category = Literal["user", "server", "transport"]

_MAX_NAMES_SHOWN = 12


class TinsmithError(Exception):
    """Base of every error that Tinsmith raises on purpose.

    Attributes:
        message: what failed and what is allowed, without the hint.
        field: the setting, argument or tensor at fault, dotted where nested.
        hint: what to do about it.
    """

    category: Category = "server"

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:  # Any: the protocol of pickle
        # The default calls the class with `args` alone and loses keyword-only arguments.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(cls: type[TinsmithError], args: tuple[object, ...]) -> TinsmithError:
    error = cls.__new__(cls, *args)
    error.args = args
    return error


class UserError(TinsmithError, ValueError):
    """The caller's request or input is wrong; the same request fails again."""

    category = "user"


class DataError(UserError):
    """Something in the data is wrong.

    Attributes:
        datum_index: position of the datum in its request, from 0.
        file: the file that the data came from.
        line: line in that file, from 1.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        hint: str | None = None,
        datum_index: int | None = None,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.datum_index = datum_index
        self.file = file
        self.line = line


class ConfigError(UserError):
    """A setting has a value that is not allowed."""


class UnknownNameError(UserError, LookupError):
    """A name is not among the known ones. Build it with `unknown_name`."""


class AlreadyExistsError(UserError):
    """Something of that name exists, and overwriting was not asked for."""


class MissingExtraError(UserError, ImportError):
    """An optional package is not installed. Build it with `missing_extra`."""


class ServerError(TinsmithError, RuntimeError):
    """The service or the engine failed through no fault of the caller."""

    category = "server"


class EngineDiedError(ServerError):
    """The engine's process ended, with whatever it held in memory."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], field: str | None = None
) -> UnknownNameError:
    """Return the error for a name outside a known set, with the nearest known one.

    Example:
        >>> print(unknown_name("renderer", "chatlm", ["chatml", "role_colon"]))
        renderer='chatlm': unknown; known: chatml, role_colon; did you mean 'chatml'?
    """
    names = [str(candidate) for candidate in known]
    shown = ", ".join(names[:_MAX_NAMES_SHOWN])
    if len(names) > _MAX_NAMES_SHOWN:
        shown += f", ... ({len(names)} in all)"
    lowered = {candidate.lower(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return UnknownNameError(
        f"{kind}={name!r}: unknown; known: {shown or 'none'}",
        field=field or kind,
        hint=f"did you mean {lowered[nearest[0]]!r}?" if nearest else None,
    )


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """Return the error for an optional package that is not installed.

    Example:
        >>> print(missing_extra("torch", "engine"))
        package 'torch' is not installed; pip install "tinsmith[engine]"
    """
    return MissingExtraError(
        f"package {package!r} is not installed", hint=f'pip install "tinsmith[{extra}]"'
    )
