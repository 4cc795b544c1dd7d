"""The experiment recorder: where a run's numbers go.

Today a small interface, `Recorder`, and its first sink, a JSONL file.
"""

from tinsmith.telemetry.recorder import (
    JsonlRecorder,
    NullRecorder,
    Recorder,
    drop_steps_after,
    read_metrics,
)

__all__ = ["JsonlRecorder", "NullRecorder", "Recorder", "drop_steps_after", "read_metrics"]
