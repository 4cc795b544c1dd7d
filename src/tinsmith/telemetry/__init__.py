"""The experiment recorder: where a run's numbers go.

Today a small interface, `Recorder`, with its sinks, and `Trace`, which says where time went.
"""

from tinsmith.telemetry.recorder import (
    JsonlRecorder,
    NullRecorder,
    Recorder,
    drop_steps_after,
    read_metrics,
)
from tinsmith.telemetry.trace import NullTrace, Trace, TraceWriter

__all__ = [
    "JsonlRecorder",
    "NullRecorder",
    "NullTrace",
    "Recorder",
    "Trace",
    "TraceWriter",
    "drop_steps_after",
    "read_metrics",
]
