"""What each metric of a run came to: last value, extremes, and how many were no numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith.telemetry.model import Goal, KeyInfo, PointColumns

__all__ = ["KeySummary", "summarize_keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySummary:
    """One key over the steps of one line; extremes are of finite values, None without any."""

    key: str
    unit: str | None
    goal: Goal | None
    num_points: int
    num_nonfinite: int
    first_step: int
    last_step: int
    last: float
    """Value at the last step, of the highest rank there; it may be NaN."""
    mean: float | None
    minimum: float | None
    minimum_step: int | None
    maximum: float | None
    maximum_step: int | None

    @property
    def best(self) -> float | None:
        """The extreme that the key's goal asks for; None without a goal."""
        return {"min": self.minimum, "max": self.maximum, None: None}[self.goal]


def summarize_keys(points: PointColumns, infos: Iterable[KeyInfo] = ()) -> list[KeySummary]:
    """Summarize each key of one line (`Store.points`), in the order of its first point.

    Args:
        points: Sorted by key, step and rank, as stores return them.
        infos: What is known of the keys (`Store.keys`).
    """
    known = {info.key: info for info in infos}
    starts: list[int] = np.flatnonzero(np.diff(points.key, prepend=-1)).tolist()
    ends = [*starts[1:], len(points)]
    found: list[KeySummary] = []
    for start, end in zip(starts, ends, strict=True):
        name = points.names[int(points.key[start])]
        info = known.get(name, KeyInfo(key=name))
        found.append(_summarize(info, points.step[start:end], points.value[start:end]))
    return found


def _summarize(info: KeyInfo, step: NDArray[np.int64], value: NDArray[np.float64]) -> KeySummary:
    finite = np.isfinite(value)
    steps, values = step[finite], value[finite]
    low, high = (int(values.argmin()), int(values.argmax())) if len(values) else (None, None)
    return KeySummary(
        key=info.key,
        unit=info.unit,
        goal=info.goal,
        num_points=len(value),
        num_nonfinite=int(len(value) - finite.sum()),
        first_step=int(step[0]),
        last_step=int(step[-1]),
        last=float(value[-1]),
        mean=float(values.mean()) if len(values) else None,
        minimum=None if low is None else float(values[low]),
        minimum_step=None if low is None else int(steps[low]),
        maximum=None if high is None else float(values[high]),
        maximum_step=None if high is None else int(steps[high]),
    )
