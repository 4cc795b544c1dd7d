"""Questions to what was recorded, whether it is sealed or still being written.

`query` is SQL, `Points` the same without SQL, `frame` a wide table of metrics, `windows` cut and
summarize series, `summary` says what events amount to, `seal_run` turns a finished run into
Parquet.
"""

from tinsmith.telemetry.query.builder import Points
from tinsmith.telemetry.query.frame import frame
from tinsmith.telemetry.query.seal import Sealed, current_seal, seal_run
from tinsmith.telemetry.query.sql import query
from tinsmith.telemetry.query.summary import RunSummary, compare, filter_events, summarize
from tinsmith.telemetry.query.windows import (
    WindowStats,
    in_steps,
    in_time,
    last_n,
    last_time,
    sliding,
)

__all__ = [
    "Points",
    "RunSummary",
    "Sealed",
    "WindowStats",
    "compare",
    "current_seal",
    "filter_events",
    "frame",
    "in_steps",
    "in_time",
    "last_n",
    "last_time",
    "query",
    "seal_run",
    "sliding",
    "summarize",
]
