"""Continuous aggregates: each metric rolled up by buckets of 100, 1,000 and 10,000 steps.

`sketch` is the mergeable quantile sketch, `buckets` the mathematics of a bucket, `refresh` keeps
what a store holds right.
"""

from tinsmith.telemetry.rollups.buckets import (
    LEVELS,
    ROW,
    Rollups,
    merge_buckets,
    rollup_points,
    variance,
)
from tinsmith.telemetry.rollups.refresh import refresh_rollups
from tinsmith.telemetry.rollups.sketch import RELATIVE_ERROR, QuantileSketch

__all__ = [
    "LEVELS",
    "RELATIVE_ERROR",
    "ROW",
    "QuantileSketch",
    "Rollups",
    "merge_buckets",
    "refresh_rollups",
    "rollup_points",
    "variance",
]
