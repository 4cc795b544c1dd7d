"""Which points of a run count: the effective line of a run that was resumed, and the old lines.

For each (key, step, rank) the highest attempt wins. An attempt that resumed from step s also hides
the later steps of all earlier attempts, even before it has written them again, so that a chart
never shows numbers of a life that was given up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

import numpy as np

from tinsmith.telemetry.model import Attempt, PointColumns

__all__ = ["AttemptChoice", "cuts_of", "effective_line", "pick_line", "sorted_points"]

AttemptChoice: TypeAlias = int | Literal["effective", "all"]


def cuts_of(attempts: Iterable[Attempt]) -> dict[int, int]:
    """Return, by attempt, the step that it resumed from; the lowest where ranks differ."""
    cuts: dict[int, int] = {}
    for attempt in attempts:
        step = attempt.resumed_from_step
        if step is not None:
            cuts[attempt.attempt] = min(step, cuts.get(attempt.attempt, step))
    return cuts


def pick_line(points: PointColumns, cuts: Mapping[int, int], choice: AttemptChoice) -> PointColumns:
    """Return the points of one attempt, of all, or the effective ones, in order."""
    if choice == "effective":
        return effective_line(points, cuts)
    if choice != "all":
        points = points.take(points.attempt == choice)
    return sorted_points(points)


def effective_line(points: PointColumns, cuts: Mapping[int, int]) -> PointColumns:
    """Return the points that count, sorted by key, step and rank.

    Args:
        points: Points of any attempts in any order, one for each (key, step, rank, attempt).
        cuts: As `cuts_of` gives them.
    """
    kept = sorted_points(points)
    for resumed, last_step in cuts.items():
        kept = kept.take((kept.attempt >= resumed) | (kept.step <= last_step))
    if len(kept) < 2 or kept.attempt.min() == kept.attempt.max():
        return kept
    is_last = np.ones(len(kept), dtype=np.bool_)
    is_last[:-1] = (
        (kept.key[1:] != kept.key[:-1])
        | (kept.step[1:] != kept.step[:-1])
        | (kept.rank[1:] != kept.rank[:-1])
    )
    return kept.take(is_last)


def sorted_points(points: PointColumns) -> PointColumns:
    """Return points sorted by key (in the order of `names`), step, rank and attempt."""
    order = np.lexsort((points.attempt, points.rank, points.step, points.key))
    if len(order) and np.array_equal(order, np.arange(len(order))):
        return points
    return points.take(order)
