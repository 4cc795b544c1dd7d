"""Which trace we are in: W3C ids that travel through threads, tasks, processes and HTTP headers.

Context variables follow `asyncio` tasks by themselves; `propagate` takes them into a thread,
`inject` and `extract` through HTTP headers, `child_environment` into another process.

Source: W3C Trace Context, level 1 (`traceparent: 00-<trace id>-<span id>-<flags>`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextvars import ContextVar, Token, copy_context
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from tinsmith.core import environment

__all__ = [
    "TRACEPARENT",
    "TraceContext",
    "current_trace",
    "enter_trace",
    "extract",
    "in_trace",
    "inject",
    "leave_trace",
    "new_span_id",
    "new_trace_id",
    "propagate",
]

P = ParamSpec("P")
T = TypeVar("T")

TRACEPARENT = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: the span that is being worked in."""

    trace_id: str
    span_id: str
    is_sampled: bool = True

    @staticmethod
    def begin() -> TraceContext:
        """Return a place in the current trace, or in a new one, for a span to come."""
        outer = current_trace()
        return TraceContext(outer.trace_id if outer else new_trace_id(), new_span_id())

    @property
    def traceparent(self) -> str:
        """The value of the HTTP header."""
        return f"00-{self.trace_id}-{self.span_id}-{1 if self.is_sampled else 0:02x}"

    @staticmethod
    def parse(traceparent: str) -> TraceContext | None:
        """Return the place that a header names; None where it is malformed.

        Version "ff", ids of zeros and a version 00 with more fields are malformed; of later
        versions the first four fields count.
        """
        match = _FORM.fullmatch(traceparent.strip())
        if match is None:
            return None
        version, trace_id, span_id, flags, more = match.groups()
        if version == "ff" or (version == "00" and more):
            return None
        if trace_id == "0" * 32 or span_id == "0" * 16:
            return None
        return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))


_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


def new_trace_id() -> str:
    """Return 32 random hexadecimal digits."""
    return os.urandom(16).hex()


def new_span_id() -> str:
    """Return 16 random hexadecimal digits."""
    return os.urandom(8).hex()


def current_trace() -> TraceContext | None:
    """Return where we are; in a process that was started within a trace, that place at first."""
    return _current.get() or _of_environment(environment.traceparent())


@functools.cache
def _of_environment(traceparent: str | None) -> TraceContext | None:
    return TraceContext.parse(traceparent) if traceparent else None


def enter_trace(place: TraceContext | None) -> Token[TraceContext | None]:
    """Make a place the current one until `leave_trace`."""
    return _current.set(place)


def leave_trace(token: Token[TraceContext | None]) -> None:
    """Go back to where `enter_trace` came from."""
    try:
        _current.reset(token)
    except ValueError:  # a generator that was begun in one context and ended in another
        _current.set(token.old_value if token.old_value is not Token.MISSING else None)


@contextlib.contextmanager
def in_trace(place: TraceContext | None) -> Generator[TraceContext | None]:
    """Work in a place of a trace, for instance the one that `extract` found in a request."""
    token = enter_trace(place)
    try:
        yield place
    finally:
        leave_trace(token)


def inject(headers: MutableMapping[str, str]) -> None:
    """Add `traceparent` to the headers of a request, where we are in a trace."""
    place = current_trace()
    if place is not None:
        headers[TRACEPARENT] = place.traceparent


def extract(headers: Mapping[str, str]) -> TraceContext | None:
    """Return the place that a request's headers name, whatever their case; None without one."""
    for name, value in headers.items():
        if name.lower() == TRACEPARENT:
            return TraceContext.parse(value)
    return None


def propagate(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that runs in today's context, run and trace, in whatever thread.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> with in_trace(TraceContext(new_trace_id(), new_span_id())) as place:
        ...     with ThreadPoolExecutor() as pool:
        ...         pool.submit(propagate(current_trace)).result() == place
        True
    """
    context = copy_context()

    @functools.wraps(function)
    def in_context(*args: P.args, **kwargs: P.kwargs) -> T:
        # A copy each time: one context cannot be entered by two threads at once.
        return context.copy().run(function, *args, **kwargs)

    return in_context
