"""Spans: stretches of time in a trace, recorded as one event when they end."""

from __future__ import annotations

import time
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tinsmith.telemetry.catalogue import EventSpec
from tinsmith.telemetry.context import (
    TraceContext,
    current_trace,
    enter_trace,
    leave_trace,
    new_span_id,
    new_trace_id,
)

if TYPE_CHECKING:
    from tinsmith.telemetry.run import Run

__all__ = ["Span"]

_NS_PER_MS = 1e6


class Span:
    """A block of work; make one with `Run.span`.

    Inside the block it is the current place of the trace, so that events and spans there belong to
    it, in other threads, tasks and processes too where the context is taken along.
    """

    def __init__(
        self,
        run: Run,
        event: EventSpec | str,
        metadata: dict[str, object],
        step: int | None,
        *,
        is_announced: bool,
    ) -> None:
        self._run = run
        self._event = event
        self._metadata = metadata
        self._step = step
        self._is_announced = is_announced
        self._measurements: dict[str, object] = {}
        self._token: Token[TraceContext | None] | None = None
        parent = current_trace()
        trace_id = parent.trace_id if parent else new_trace_id()
        self.place = TraceContext(trace_id, new_span_id())
        """The ids of this span."""
        self._parent_id = parent.span_id if parent else None
        self._ts_ns = self._mono_ns = 0

    def measure(self, **measurements: object) -> None:
        """Add measurements, which are recorded with the span."""
        self._measurements.update(measurements)

    def describe(self, **metadata: object) -> None:
        """Add metadata."""
        self._metadata.update(metadata)

    def __enter__(self) -> Self:
        self._ts_ns, self._mono_ns = time.time_ns(), time.monotonic_ns()
        self._token = enter_trace(self.place)
        if self._is_announced:
            self._run.event(self._moment("started"), metadata=self._metadata, step=self._step)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        duration_ns = time.monotonic_ns() - self._mono_ns
        if error is not None:
            self.describe(error=type(error).__name__, message=str(error))
            self._run.event(
                self._moment("exception"),
                {"duration_ms": duration_ns / _NS_PER_MS},
                metadata=self._metadata,
                step=self._step,
            )
        if self._token is not None:
            leave_trace(self._token)
        self._measurements.setdefault("duration_ms", duration_ns / _NS_PER_MS)
        self._run.record_event(
            self._event,
            self._measurements,
            metadata=self._metadata,
            step=self._step,
            times=(self._ts_ns, self._mono_ns, duration_ns),
            ids=(self.place.trace_id, self.place.span_id, self._parent_id),
        )

    def _moment(self, phase: str) -> EventSpec | str:
        if isinstance(self._event, EventSpec):
            return self._event.started if phase == "started" else self._event.exception
        return f"{self._event}.{phase}"
