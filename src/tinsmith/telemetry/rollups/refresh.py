"""Keeping roll-ups right: what changed since the watermark, recomputed bucket by bucket.

The watermark is the place in the store's order of writing up to which the roll-ups are right
(`RollupState`). Whatever was written after it, new steps, rewritten ones or those of a resumed
attempt, makes its bucket of 100 steps dirty; an attempt that resumed from an earlier step makes
every bucket after that step dirty, since its start hides points without writing any. A dirty bucket
is computed again as a whole from its points; sums are never added to, so nothing is counted twice.

A refresh may run anywhere at any time. Of two at once one wins, and the other starts again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.model import Cursor, PointColumns, RollupRow, RollupState
from tinsmith.telemetry.rollups.buckets import LEVELS, Rollups, merge_buckets, rollup_points
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.lines import cuts_of

__all__ = ["refresh_rollups"]

_CHANGES_A_ROUND = 500_000
"""Changes taken up by one transaction, so that a long run's first refresh stays in memory."""
_MAX_TRIES = 20

Series: TypeAlias = tuple[str, int]
"""Key and rank."""
Dirty: TypeAlias = "dict[Series, NDArray[np.int64]]"
"""Buckets of the lowest level, ascending, by series."""
Emptied: TypeAlias = tuple[str, int, int, int]
"""(key, rank, level, bucket)."""

_END = 2**62
_ALL_BUT_POINTS = Cursor(events=_END, samples=_END, artifacts=_END, alerts=_END)


class _Level(NamedTuple):
    """One level of one series: its dirty buckets, and what they hold now."""

    buckets: NDArray[np.int64]
    content: Rollups


def refresh_rollups(store: Store, run_id: str) -> int:
    """Bring the roll-ups of a run up to date with its points.

    Returns:
        Number of buckets of 100 steps that were computed again.

    Raises:
        StoreError: other refreshes overtook this one again and again.
    """
    num_buckets, tries = 0, 0
    while tries < _MAX_TRIES:
        before = store.rollup_state(run_id)
        dirty, after = _changes(store, run_id, before)
        if after == before:
            return num_buckets
        rows, emptied = _recompute(store, run_id, dirty)
        if store.replace_rollups(run_id, rows, emptied, after, before):
            num_buckets += sum(map(len, dirty.values()))
            tries = 0
        else:
            tries += 1
    raise StoreError(
        f"run_id={run_id!r}: {_MAX_TRIES} refreshes of its roll-ups were overtaken by others",
        field="run_id",
        hint="refresh from one process",
    )


def _changes(store: Store, run_id: str, state: RollupState) -> tuple[Dirty, RollupState]:
    """The dirty buckets after a state, and the state that holds once they are clean."""
    # Read first: an attempt that begins from here on is news to the next refresh.
    cuts = cuts_of(store.attempts(run_id))
    hidden_after = _lowest_changed(state.cuts, cuts)
    batch, cursor = store.tail(
        run_id, _ALL_BUT_POINTS._replace(points=state.cursor), limit=_CHANGES_A_ROUND
    )
    changed = [batch.points]
    if hidden_after is not None:
        changed.append(store.points(run_id, first_step=hidden_after + 1, attempt="all"))
    return _buckets_of(changed), RollupState(cursor=cursor.points, cuts=cuts)


def _lowest_changed(old: Mapping[int, int], new: Mapping[int, int]) -> int | None:
    steps = [
        step
        for attempt in old.keys() | new.keys()
        if old.get(attempt) != new.get(attempt)
        for step in (old.get(attempt), new.get(attempt))
        if step is not None
    ]
    return min(steps, default=None)


def _buckets_of(changed: Iterable[PointColumns]) -> Dirty:
    found: dict[Series, list[NDArray[np.int64]]] = {}
    for points in changed:
        for series, part in _by_series(points):
            found.setdefault(series, []).append(points.step[part] // LEVELS[0])
    return {series: np.unique(np.concatenate(parts)) for series, parts in found.items()}


def _by_series(points: PointColumns) -> Iterator[tuple[Series, NDArray[np.intp]]]:
    """Positions of the points of each key and rank, in their order."""
    if len(points) == 0:
        return
    order = np.lexsort((points.rank, points.key))
    keys, ranks = points.key[order], points.rank[order]
    cuts = np.flatnonzero((keys[1:] != keys[:-1]) | (ranks[1:] != ranks[:-1])) + 1
    for part in np.split(order, cuts):
        yield (points.names[points.key[part[0]]], int(points.rank[part[0]])), part


def _recompute(store: Store, run_id: str, dirty: Dirty) -> tuple[list[RollupRow], list[Emptied]]:
    rows: list[RollupRow] = []
    emptied: list[Emptied] = []
    parts = _from_points(store, run_id, dirty)
    for level in LEVELS:
        if level != LEVELS[0]:
            parts = {
                series: _from_level(store, run_id, series, lower, level)
                for series, lower in parts.items()
            }
        for (key, rank), part in parts.items():
            rows += part.content.to_rows(key, rank)
            gone = np.setdiff1d(part.buckets, part.content.rows["bucket"])
            emptied += [(key, rank, level, bucket) for bucket in gone.tolist()]
    return rows, emptied


def _from_points(store: Store, run_id: str, dirty: Dirty) -> dict[Series, _Level]:
    """The lowest level of every series, read in as few questions as there are ranges of steps."""
    level = LEVELS[0]
    ranges: dict[tuple[int, int], list[Series]] = {}
    for series, buckets in dirty.items():
        for first, last in _stretches(buckets):
            ranges.setdefault((first, last), []).append(series)
    parts: dict[Series, list[Rollups]] = {series: [] for series in dirty}
    for (first, last), wanted in sorted(ranges.items()):
        keys = sorted({key for key, _ in wanted})
        asked = set(wanted)
        points = store.points(
            run_id, keys, first_step=first * level, last_step=last * level + level - 1
        )
        for series, part in _by_series(points):
            if series in asked:
                parts[series].append(rollup_points(points.step[part], points.value[part], level))
    return {series: _Level(dirty[series], Rollups.joined(level, parts[series])) for series in dirty}


def _stretches(buckets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and last of each stretch of neighbouring buckets."""
    cuts = np.flatnonzero(np.diff(buckets) > 1) + 1
    return [(int(part[0]), int(part[-1])) for part in np.split(buckets, cuts) if len(part)]


def _from_level(store: Store, run_id: str, series: Series, lower: _Level, level: int) -> _Level:
    """The next level: clean buckets below as they are stored, dirty ones as they are now."""
    key, rank = series
    ratio = level // lower.content.level
    buckets = np.unique(lower.buckets // ratio)
    stored: list[RollupRow] = []
    for first, last in _stretches(buckets):
        stored += store.rollups(
            run_id,
            [key],
            lower.content.level,
            first_bucket=first * ratio,
            last_bucket=last * ratio + ratio - 1,
            ranks=[rank],
        )
    is_dirty = set(lower.buckets.tolist())
    clean = [row for row in stored if row.bucket not in is_dirty]
    whole = Rollups.joined(
        lower.content.level, [Rollups.from_rows(lower.content.level, clean), lower.content]
    )
    return _Level(buckets, merge_buckets(whole, level))
