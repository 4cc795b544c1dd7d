"""The experiment recorder: where a run's numbers go.

Today a small interface, `Recorder`, with its sinks (a JSONL file, the console, W&B); `Trace` says
where time went, `TranscriptWriter` shows texts.
"""

from tinsmith.telemetry.console import ConsoleRecorder
from tinsmith.telemetry.recorder import (
    JsonlRecorder,
    NullRecorder,
    Recorder,
    drop_steps_after,
    read_metrics,
)
from tinsmith.telemetry.trace import NullTrace, Trace, TraceWriter
from tinsmith.telemetry.transcript import TranscriptWriter
from tinsmith.telemetry.wandb_recorder import WandbRecorder

__all__ = [
    "ConsoleRecorder",
    "JsonlRecorder",
    "NullRecorder",
    "NullTrace",
    "Recorder",
    "Trace",
    "TraceWriter",
    "TranscriptWriter",
    "WandbRecorder",
    "drop_steps_after",
    "read_metrics",
]
