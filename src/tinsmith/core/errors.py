"""The exception tree, split by whose fault a failure is.

    TinsmithError
    ├─ UserError (ValueError)              the caller can mend it
    │  ├─ DataError                        a datum, a file line, a tensor
    │  ├─ ConfigError                      an option or a setting
    │  ├─ UnknownNameError (LookupError)   a name that is not registered
    │  └─ MissingExtraError (ImportError)  an optional package is not installed
    └─ ServerError (RuntimeError)          the service's fault
       └─ EngineDiedError

`tinsmith.client.errors` adds what can go wrong between client and service. Every error pickles
with its attributes, and its text says what was wrong, what is allowed, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

__all__ = [
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


class TinsmithError(Exception):
    """Base of every error that Tinsmith raises on purpose.

    Attributes:
        message: What was wrong and where.
        field: The offending field or option, if there is one.
        hint: What to do about it, if known.
        category: Whose fault it is; decides whether a retry makes sense.
    """

    category: ClassVar[Category] = "server"

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[TinsmithError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """Unpickle an error without calling its constructor (subclasses have their own)."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UserError(TinsmithError, ValueError):
    """The request, the data or the configuration is wrong; repeating it will not help."""

    category: ClassVar[Category] = "user"


class DataError(UserError):
    """Something is wrong with the data; says which datum, or which line of which file."""

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

    def __str__(self) -> str:
        text = super().__str__()
        if self.file is not None:
            place = self.file if self.line is None else f"{self.file}:{self.line}"
            return text if text.startswith(place) else f"{place}: {text}"
        if self.datum_index is not None and f"datum {self.datum_index}" not in text:
            return f"datum {self.datum_index}: {text}"
        return text


class ConfigError(UserError):
    """A setting or an option is out of range, unknown, or contradicts another."""


class UnknownNameError(UserError, LookupError):
    """A name that nothing is registered under; offers the nearest match."""


class MissingExtraError(UserError, ImportError):
    """An optional package is needed and not installed."""


class ServerError(TinsmithError, RuntimeError):
    """The service failed; the request itself may be fine."""


class EngineDiedError(ServerError):
    """The engine process ended while work was in it."""


def unknown_name(
    kind: str, name: str, known: Iterable[str], field: str | None = None
) -> UnknownNameError:
    """The error for an unknown `name` of a `kind` ("loss", "renderer"), with the nearest match."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else None
    return UnknownNameError(
        f"unknown {kind} {name!r}: must be one of {', '.join(names) or '(none)'}",
        field=field,
        hint=hint,
    )


def missing_extra(package: str, extra: str) -> MissingExtraError:
    """The error for an optional `package` that `extra` would install."""
    return MissingExtraError(
        f"{package} is not installed", hint=f'run: pip install "tinsmith[{extra}]"'
    )
