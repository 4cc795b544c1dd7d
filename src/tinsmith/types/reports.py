"""What a client reports to its service: that sessions begin and end, and what failed.

Main names: `TelemetryEvent` and its four kinds, `TelemetryBatch`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from tinsmith.types._model import RequestModel, ResponseModel

__all__ = [
    "EventType",
    "GenericEvent",
    "SessionEndEvent",
    "SessionStartEvent",
    "Severity",
    "TelemetryBatch",
    "TelemetryEvent",
    "TelemetryResponse",
    "TelemetrySendRequest",
    "UnhandledExceptionEvent",
]

EventType = Literal["SESSION_START", "SESSION_END", "UNHANDLED_EXCEPTION", "GENERIC_EVENT"]
Severity = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


class _Event(ResponseModel):
    event: EventType
    event_id: str
    """The same in every attempt to send it, so that a service can tell it came before."""
    event_session_index: int
    """Counts the events of one client."""
    severity: Severity
    timestamp: datetime


class SessionStartEvent(_Event):
    """A session begins."""


class SessionEndEvent(_Event):
    """A session ends."""

    duration: str
    """ISO 8601."""


class UnhandledExceptionEvent(_Event):
    """A call failed through no fault of its caller."""

    error_message: str
    error_type: str
    traceback: str | None = None


class GenericEvent(_Event):
    """Anything else, by name."""

    event_name: str
    """One of few."""
    event_data: dict[str, object] = {}


TelemetryEvent = SessionStartEvent | SessionEndEvent | UnhandledExceptionEvent | GenericEvent


class TelemetryBatch(ResponseModel):
    """Events of one client."""

    events: list[TelemetryEvent]
    platform: str
    sdk_version: str
    session_id: str
    process_uuid: str


class TelemetrySendRequest(RequestModel):
    """telemetry."""

    events: list[TelemetryEvent]
    platform: str
    sdk_version: str
    session_id: str
    """`sessionless-<id>` of a client that has none."""
    process_uuid: str


class TelemetryResponse(ResponseModel):
    """The events were taken."""

    status: Literal["accepted"]
