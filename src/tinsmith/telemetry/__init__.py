"""The experiment recorder: runs, their numbers, events, texts and files, kept and never lost.

    run = telemetry.init("my-project", config={"lr": 1e-4})
    run.log({"train/loss": 2.31}, step=0)
    with run.span(telemetry.events.TRAIN_STEP, step=1) as span:
        ...
    run.finish()

It stands alone: no torch, no server, no account. `log` costs a microsecond; a thread commits to a
SQLite file a run (or another store, `open_store`) at least every 50 ms, and what is committed
survives any kill. The sinks `JsonlRecorder`, `ConsoleRecorder`, `WandbRecorder`, `Trace` and
`TranscriptWriter` are what our training loops write their run folders with.
"""

from tinsmith.telemetry import events
from tinsmith.telemetry.catalogue import (
    EventSpec,
    Measurement,
    register,
    registered,
    strictly,
)
from tinsmith.telemetry.console import ConsoleRecorder
from tinsmith.telemetry.context import (
    TraceContext,
    current_trace,
    extract,
    in_trace,
    inject,
    propagate,
)
from tinsmith.telemetry.current import (
    alert,
    artifact,
    event,
    log,
    pause,
    resume,
    sample,
    span,
    subscribe,
)
from tinsmith.telemetry.errors import StoreError, TelemetryWarning, WriterBusyError
from tinsmith.telemetry.model import RunFilter, RunRecord, RunStatus
from tinsmith.telemetry.recorder import (
    JsonlRecorder,
    NullRecorder,
    Recorder,
    drop_steps_after,
    read_metrics,
)
from tinsmith.telemetry.run import Run
from tinsmith.telemetry.session import (
    ambient_run,
    attach,
    child_environment,
    current_run,
    entered_run,
    finish,
    init,
    open_runs,
)
from tinsmith.telemetry.spans import Span
from tinsmith.telemetry.stores.opening import open_store
from tinsmith.telemetry.trace import NullTrace, Trace, TraceWriter
from tinsmith.telemetry.transcript import TranscriptWriter
from tinsmith.telemetry.wandb_recorder import WandbRecorder
from tinsmith.telemetry.writer import WriterOptions

__all__ = [
    "ConsoleRecorder",
    "EventSpec",
    "JsonlRecorder",
    "Measurement",
    "NullRecorder",
    "NullTrace",
    "Recorder",
    "Run",
    "RunFilter",
    "RunRecord",
    "RunStatus",
    "Span",
    "StoreError",
    "TelemetryWarning",
    "Trace",
    "TraceContext",
    "TraceWriter",
    "TranscriptWriter",
    "WandbRecorder",
    "WriterBusyError",
    "WriterOptions",
    "alert",
    "ambient_run",
    "artifact",
    "attach",
    "child_environment",
    "current_run",
    "current_trace",
    "drop_steps_after",
    "entered_run",
    "event",
    "events",
    "extract",
    "finish",
    "in_trace",
    "init",
    "inject",
    "log",
    "open_runs",
    "open_store",
    "pause",
    "propagate",
    "read_metrics",
    "register",
    "registered",
    "resume",
    "sample",
    "span",
    "strictly",
    "subscribe",
]
