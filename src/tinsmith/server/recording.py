"""What the service tells the recorder: an event for each piece of work, in its request's trace.

A client's `traceparent` header leads from one training step to the forward, the update and the
samples that it caused. An event is put on the recorder's bounded queue on the event loop, which
takes some microseconds; no request waits for a disk, and a store that fails costs the record alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from tinsmith import telemetry
from tinsmith.core.errors import TinsmithError
from tinsmith.server.config import ServerConfig
from tinsmith.telemetry import EventSpec, TraceContext
from tinsmith.telemetry.context import TRACEPARENT, current_trace, in_trace, new_span_id

logger = logging.getLogger(__name__)

PROJECT = "service"
_HEADER = TRACEPARENT.encode()
_NS_PER_MS = 1e6


class Origin(NamedTuple):
    """When a request came, and from which place of a trace."""

    place: TraceContext | None
    ts_ns: int
    mono_ns: int


class Done(NamedTuple):
    """A piece of work that was done for a request."""

    event: EventSpec
    measurements: Mapping[str, float]
    metadata: Mapping[str, object]


def origin() -> Origin:
    """The origin of the request at hand."""
    return Origin(current_trace(), time.time_ns(), time.monotonic_ns())


class ServiceRecorder:
    """Puts the service's work into a run of its own; used on one event loop."""

    def __init__(self, run: telemetry.Run) -> None:
        self._run = run

    @classmethod
    def start(cls, config: ServerConfig, boot_id: str) -> ServiceRecorder | None:
        """Begins a run; None where recording is off, or impossible, which is logged."""
        told = {"models": list(config.models), "device": config.device, "boot_id": boot_id}
        try:
            run = telemetry.init(PROJECT, f"{PROJECT}-{boot_id}", config=told)
        except TinsmithError as error:
            logger.warning("the service's work is not recorded: %s", error)
            return None
        if run.is_off:
            run.finish()  # or it would stay the process's only open run
            return None
        return cls(run)

    def record(self, done: Done, origin: Origin) -> None:
        """Records work that is done now."""
        now_ns = time.monotonic_ns()
        duration_ns = now_ns - origin.mono_ns
        place = origin.place
        if done.event.is_span:
            times = (origin.ts_ns, origin.mono_ns, duration_ns)
            ids = (place.trace_id, new_span_id(), place.span_id) if place else (None, None, None)
        else:
            times = (time.time_ns(), now_ns, None)
            ids = (place.trace_id, place.span_id, None) if place else (None, None, None)
        self._run.record_event(
            done.event,
            {**done.measurements, "duration_ms": duration_ns / _NS_PER_MS},
            metadata=done.metadata,
            step=None,
            times=times,
            ids=ids,
        )

    def close(self) -> None:
        """Writes what waits; returns within seconds whatever the store does."""
        self._run.finish()


class TraceMiddleware:
    """Handles a request in the place of the trace that its `traceparent` header names."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes everything on; a malformed header is none."""
        given = None
        if scope["type"] == "http":
            given = next((v for k, v in scope["headers"] if k == _HEADER), None)
        if given is None:
            await self._app(scope, receive, send)
            return
        with in_trace(TraceContext.parse(given.decode("latin-1"))):
            await self._app(scope, receive, send)
