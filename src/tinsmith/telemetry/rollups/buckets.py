"""Roll-ups: what a metric did in each bucket of 100, 1,000 and 10,000 steps.

Bucket b of level L covers the steps [b L, (b + 1) L). A roll-up is one structured row (`ROW`) and
one quantile sketch. Rows of level 100 come from points (`rollup_points`), those of a higher level
from the rows below (`merge_buckets`), always from all of a bucket's content in order of steps: the
same points give the same bits, however they came to be.

One formula serves both, since a point is the roll-up of itself. Mean and squared deviations use

    mean = m_0 + sum_i (n_i / n) (m_i - m_0)
    m2   = sum_i m2_i + sum_i n_i (m_i - mean)^2

(Chan, Golub, LeVeque 1979, the pairwise update over many groups at once; the shift by the first
mean makes a constant's variance exactly 0), on values scaled by a power of two so that nothing
overflows on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tinsmith.telemetry.model import RollupRow
from tinsmith.telemetry.rollups.sketch import RELATIVE_ERROR, QuantileSketch, bin_codes

__all__ = [
    "LEVELS",
    "ROW",
    "Rollups",
    "Rows",
    "Sketches",
    "merge_buckets",
    "rollup_points",
    "variance",
]

LEVELS = (100, 1_000, 10_000)
"""Steps a bucket, each level ten times the one below."""

_REALS = ("mean", "m2", "minimum", "maximum", "first", "last")
_TALLIES = ("num_nan", "num_pos_inf", "num_neg_inf")
_FLOATS = ("total", *_REALS)
_FIELDS = RollupRow._fields[3:-1]  # from the bucket on, all but the sketch

ROW = np.dtype([(name, np.float64 if name in _FLOATS else np.int64) for name in _FIELDS])
"""The numbers of a `RollupRow`, from `bucket` to `last_step`."""

Rows = NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Sketches:
    """Many quantile sketches end to end: sketch i is `codes[offsets[i]:offsets[i + 1]]`."""

    offsets: NDArray[np.int64]
    codes: NDArray[np.int32]
    counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> QuantileSketch:
        part = slice(self.offsets[index], self.offsets[index + 1])
        return QuantileSketch(self.codes[part], self.counts[part], RELATIVE_ERROR)

    @classmethod
    def of(cls, sketches: Sequence[QuantileSketch]) -> Self:
        sizes = [len(sketch.codes) for sketch in sketches]
        return cls(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.concatenate([np.empty(0, np.int32), *(sketch.codes for sketch in sketches)]),
            np.concatenate([np.empty(0, np.int64), *(sketch.counts for sketch in sketches)]),
        )


@dataclass(frozen=True, slots=True)
class Rollups:
    """Roll-ups of one series at one level, by ascending bucket.

    Attributes:
        level: steps a bucket.
        rows: structured array of `ROW`; `rows["maximum"]` is a column.
        sketches: one a row; None where the reader did not ask for them.
    """

    level: int
    rows: Rows
    sketches: Sketches | None

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def empty(cls, level: int) -> Self:
        return cls(level, np.empty(0, ROW), Sketches.of([]))

    def to_rows(self, key: str, rank: int) -> list[RollupRow]:
        """Return the rows that a store keeps."""
        if self.sketches is None:
            raise ValueError("roll-ups read without sketches cannot be written")
        numbers: list[tuple[Any, ...]] = self.rows.tolist()  # Any: ints and floats
        return [
            RollupRow._make((key, rank, self.level, *row, self.sketches[i].to_bytes()))
            for i, row in enumerate(numbers)
        ]

    @classmethod
    def from_rows(
        cls, level: int, rows: Sequence[RollupRow], *, with_sketches: bool = True
    ) -> Self:
        """Build from rows of one key and rank, by ascending bucket.

        Args:
            level: Steps a bucket.
            rows: What `to_rows` gave.
            with_sketches: False leaves the sketches out, most of the work.
        """
        numbers = np.array([row[3:-1] for row in rows], dtype=ROW)
        if not with_sketches:
            return cls(level, numbers, None)
        sketches = [QuantileSketch.from_bytes(row.sketch) for row in rows]
        return cls(level, numbers, Sketches.of(sketches))

    @classmethod
    def joined(cls, level: int, parts: Sequence[Rollups]) -> Self:
        """Join roll-ups of different buckets of one series, all with sketches, by bucket."""
        rows = np.concatenate([np.empty(0, ROW), *(part.rows for part in parts)])
        sketches: list[QuantileSketch] = [
            part.sketches[i]
            for part in parts
            if part.sketches is not None
            for i in range(len(part.sketches))
        ]
        order = np.argsort(rows["bucket"])
        return cls(level, rows[order], Sketches.of([sketches[int(i)] for i in order]))

    def in_steps(self, start: int, stop: int) -> Rollups:
        """Return those whose whole bucket lies in [start, stop)."""
        first = -(-start // self.level)
        lo, hi = np.searchsorted(self.rows["bucket"], [first, stop // self.level])
        hi = max(lo, hi)
        sketches = self.sketches
        if sketches is not None:
            offsets = sketches.offsets[lo : hi + 1]
            part = slice(offsets[0], offsets[-1])
            sketches = Sketches(offsets - offsets[0], sketches.codes[part], sketches.counts[part])
        return Rollups(self.level, self.rows[lo:hi], sketches)


def variance(rows: Rows) -> NDArray[np.float64]:
    """Return the sample variance (ddof=1) of each row; NaN below two finite values."""
    count = rows["n"]
    return np.where(count > 1, rows["m2"] / np.maximum(count - 1, 1), np.nan)


def rollup_points(
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    level: int = LEVELS[0],
    *,
    with_sketches: bool = True,
) -> Rollups:
    """Roll up points.

    Args:
        steps: strictly ascending.
        values: one a step; NaN and infinities are counted, and enter nothing else.
        level: steps a bucket; any positive number.
        with_sketches: false leaves the sketches out, which takes a third of the time.

    Raises:
        ValueError: the lengths differ or the steps do not ascend.
    """
    if len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps and {len(values)} values: one value a step")
    if (np.diff(steps) <= 0).any():
        raise ValueError("steps must ascend strictly: one value a step")
    is_finite = np.isfinite(values)
    rows = np.zeros(len(steps), ROW)
    rows["n"] = is_finite
    rows["num_nan"] = np.isnan(values)
    rows["num_pos_inf"] = values == np.inf
    rows["num_neg_inf"] = values == -np.inf
    rows["nonfinite_step"] = np.where(is_finite, 0, steps)
    rows["total"] = np.where(is_finite, values, 0.0)
    for field in ("mean", "minimum", "maximum", "first", "last"):
        rows[field] = values
    for field in ("minimum_step", "maximum_step", "first_step", "last_step"):
        rows[field] = steps
    sketches = None
    if with_sketches:  # a finite point holds one value in one bin, any other none
        offsets = np.concatenate([[0], np.cumsum(is_finite)])
        codes = bin_codes(values[is_finite])
        sketches = Sketches(offsets, codes, np.ones(len(codes), np.int64))
    return _combine(Rollups(1, rows, sketches), steps // level, level)


def merge_buckets(lower: Rollups, level: int) -> Rollups:
    """Roll up roll-ups of a lower level, which must be complete in the buckets they touch.

    Sketches are merged where the lower level has them.

    Raises:
        ValueError: `level` is not a multiple of the lower one.
    """
    if level % lower.level:
        raise ValueError(f"level={level}: must be a multiple of {lower.level}")
    return _combine(lower, lower.rows["bucket"] // (level // lower.level), level)


def _combine(lower: Rollups, buckets: NDArray[np.int64], level: int) -> Rollups:
    """Combine neighbouring rows of equal `buckets` (ascending) into one row each."""
    rows, sketches = lower.rows, lower.sketches
    if len(rows) == 0:
        return Rollups(level, rows, sketches)
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    out = np.zeros(len(starts), ROW)
    out["bucket"] = buckets[starts]
    for field in _TALLIES:
        out[field] = np.add.reduceat(rows[field], starts)
    for field in _REALS:
        out[field] = np.nan
    groups = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(rows)))
    _first_nonfinite(out, rows, groups)
    _finite_part(out, rows, groups)
    if sketches is not None:
        sketches = _merge_sketches(sketches, groups, len(starts))
    return Rollups(level, out, sketches)


def _first_nonfinite(out: Rows, rows: Rows, groups: NDArray[np.int64]) -> None:
    places = np.flatnonzero(rows["num_nan"] + rows["num_pos_inf"] + rows["num_neg_inf"])
    present, first = np.unique(groups[places], return_index=True)
    out["nonfinite_step"][present] = rows["nonfinite_step"][places[first]]


def _finite_part(out: Rows, rows: Rows, groups: NDArray[np.int64]) -> None:
    """Fill what depends on finite values only, in the groups that have any."""
    has_any = rows["n"] > 0
    rows, groups = rows[has_any], groups[has_any]
    if len(rows) == 0:
        return
    present, starts = np.unique(groups, return_index=True)
    sizes = np.diff(starts, append=len(rows))
    ends = starts + sizes - 1
    part = np.zeros(len(present), ROW)
    for field in ("bucket", "nonfinite_step", *_TALLIES):
        part[field] = out[field][present]
    part["n"] = np.add.reduceat(rows["n"], starts)
    part["first"], part["first_step"] = rows["first"][starts], rows["first_step"][starts]
    part["last"], part["last_step"] = rows["last"][ends], rows["last_step"][ends]
    for field, reduce in (("minimum", np.minimum), ("maximum", np.maximum)):
        extremes = np.repeat(reduce.reduceat(rows[field], starts), sizes)
        hits = np.flatnonzero(rows[field] == extremes)
        places = hits[np.searchsorted(hits, starts)]  # the first hit of each group
        part[field], part[f"{field}_step"] = rows[field][places], rows[f"{field}_step"][places]
    _moments(part, rows, starts, sizes)
    out[present] = part


def _moments(part: Rows, rows: Rows, starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
    largest = np.maximum(np.abs(part["minimum"]), np.abs(part["maximum"]))
    # Exact: a power of two. Values end up in (-1, 1), their differences in (-2, 2).
    exponents = np.frexp(largest)[1]
    spread = np.repeat(exponents, sizes)
    counts, means = rows["n"], np.ldexp(rows["mean"], -spread)
    shifts = means[starts]
    shares = counts / np.repeat(part["n"], sizes)
    scaled = shifts + np.add.reduceat(shares * (means - np.repeat(shifts, sizes)), starts)
    deviations = counts * (means - np.repeat(scaled, sizes)) ** 2
    with np.errstate(over="ignore"):  # squares beyond the largest double are infinite
        part["m2"] = np.ldexp(np.add.reduceat(deviations, starts), 2 * exponents)
        part["m2"] += np.add.reduceat(rows["m2"], starts)
        part["total"] = np.add.reduceat(rows["total"], starts)
    # A mean lies between the extremes; rounding must not say otherwise.
    part["mean"] = np.clip(np.ldexp(scaled, exponents), part["minimum"], part["maximum"])


def _merge_sketches(sketches: Sketches, groups: NDArray[np.int64], num_groups: int) -> Sketches:
    owners = np.repeat(groups, np.diff(sketches.offsets))
    # Owner and code in one sortable integer; codes are below 2^31 in magnitude.
    joint = owners * 2**32 + (sketches.codes.astype(np.int64) + 2**31)
    unique, places = np.unique(joint, return_inverse=True)
    counts = np.bincount(places, weights=sketches.counts, minlength=len(unique))
    offsets = np.searchsorted(unique, np.arange(num_groups + 1) * 2**32)
    codes = (unique % 2**32 - 2**31).astype(np.int32)
    return Sketches(offsets.astype(np.int64), codes, counts.astype(np.int64))
