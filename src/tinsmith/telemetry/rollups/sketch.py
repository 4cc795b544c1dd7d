"""Quantile sketch with logarithmic bins: bounded relative error, exact merge.

A bin holds the values between two powers of γ = (1 + α) / (1 - α); whatever lies in it is told by
one number that is at most α (relatively) away. Bins have the integer codes of `bin_codes`, which
grow with the value through negatives, zero and positives, so that a quantile is one walk along
sorted codes. Merging adds counts: the sketch of a whole equals the merge of its parts' sketches, to
the bit.

Source: Masson, Rim, Lee, "DDSketch", VLDB 2019, section 2; the codes of both signs in one ordered
range are ours, and bins are never collapsed (a double has about 71,000 codes of each sign at α = 1
%, a bucket of a run's metric a few dozen).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["RELATIVE_ERROR", "QuantileSketch", "bin_codes", "bin_values"]

RELATIVE_ERROR = 0.01
"""α of every stored sketch: |estimate - quantile| <= 0.01 |quantile|."""

# Smaller magnitudes have lost digits themselves, and count as zero.
_TINY = float(np.finfo(np.float64).tiny)
_HUGE = float(np.finfo(np.float64).max)
_HEADER = struct.Struct("<dIB")
_COUNT_WIDTHS = (1, 2, 4, 8)


def bin_codes(values: NDArray[np.float64], alpha: float = RELATIVE_ERROR) -> NDArray[np.int32]:
    """Return the bin of each finite value, an integer that never falls as the value grows.

    Args:
        values: finite numbers. Magnitudes below 2.2e-308 (subnormal) fall in bin 0.
        alpha: relative error of a bin's representative, in (0, 1).
    """
    magnitudes = np.abs(values)
    is_zero = magnitudes < _TINY
    logs = np.log(np.where(is_zero, 1.0, magnitudes))
    codes = np.ceil(logs / _log_gamma(alpha)).astype(np.int32) + _offset(alpha)
    return np.where(is_zero, 0, np.sign(values).astype(np.int32) * codes).astype(np.int32)


def bin_values(codes: NDArray[np.int32], alpha: float = RELATIVE_ERROR) -> NDArray[np.float64]:
    """Return the representative of each bin: the number least far, relatively, from both ends."""
    log_gamma = _log_gamma(alpha)
    # 2 γ^i / (1 + γ) = (1 - α) γ^i, in logarithms since γ^i alone may exceed a double.
    logs = (np.abs(codes) - _offset(alpha)) * log_gamma + math.log1p(-alpha)
    with np.errstate(over="ignore"):
        magnitudes = np.minimum(np.exp(logs), _HUGE)
    return np.where(codes == 0, 0.0, np.sign(codes) * magnitudes)


def _count_width(largest: int) -> int:
    return next(width for width in _COUNT_WIDTHS if largest < 256**width)


def _log_gamma(alpha: float) -> float:
    return math.log1p(alpha) - math.log1p(-alpha)


def _offset(alpha: float) -> int:
    """What makes the code of the smallest normal double 1 or more."""
    return 1 - math.floor(math.log(_TINY) / _log_gamma(alpha))


@dataclass(frozen=True, slots=True, eq=False)
class QuantileSketch:
    """How many values fell in each bin.

    Attributes:
        codes: the bins that hold something, ascending (`bin_codes`).
        counts: their numbers of values, int64, all positive.
        alpha: relative error.

    Example:
        >>> whole = QuantileSketch.of([1.0, 2.0, 4.0]).merge(QuantileSketch.of([-3.0, 100.0]))
        >>> round(whole.quantile(0.5), 1), whole.num_values
        (2.0, 5)
    """

    codes: NDArray[np.int32]
    counts: NDArray[np.int64]
    alpha: float = RELATIVE_ERROR

    @classmethod
    def of(cls, values: Iterable[float], alpha: float = RELATIVE_ERROR) -> Self:
        """Build from numbers.

        Raises:
            ValueError: `alpha` is outside (0, 1), or a value is not finite.
        """
        if not 0.0 < alpha < 1.0:
            raise ValueError(f"alpha={alpha}: must be in (0, 1)")
        array = np.asarray(
            values if isinstance(values, np.ndarray) else list(values), dtype=np.float64
        )
        if not np.isfinite(array).all():
            where = int(np.flatnonzero(~np.isfinite(array))[0])
            raise ValueError(f"values[{where}]={array[where]}: a sketch holds finite numbers only")
        codes, counts = np.unique(bin_codes(array, alpha), return_counts=True)
        return cls(codes, counts.astype(np.int64), alpha)

    @property
    def num_values(self) -> int:
        return int(self.counts.sum())

    def merge(self, *others: QuantileSketch) -> QuantileSketch:
        """Return the sketch of all values of this one and the others.

        Raises:
            ValueError: the sketches have different relative errors.
        """
        for other in others:
            if other.alpha != self.alpha:
                raise ValueError(f"alpha={other.alpha}: cannot merge into alpha={self.alpha}")
        sketches = (self, *others)
        codes, places = np.unique(
            np.concatenate([sketch.codes for sketch in sketches]), return_inverse=True
        )
        counts = np.zeros(len(codes), dtype=np.int64)
        np.add.at(counts, places, np.concatenate([sketch.counts for sketch in sketches]))
        return QuantileSketch(codes, counts, self.alpha)

    def quantile(self, q: float) -> float:
        """Return the value of rank floor(q (n - 1)), counted from 0, within the relative error.

        This is `numpy.quantile(values, q, method="lower")` up to a factor in [1 - α, 1 + α]
        (and a rounding of 1e-12). NaN where the sketch is empty.

        Raises:
            ValueError: `q` is outside [0, 1].
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q={q}: must be in [0, 1]")
        if len(self.counts) == 0:
            return math.nan
        rank = math.floor(q * (self.num_values - 1))
        place = int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))
        return float(bin_values(self.codes[place : place + 1], self.alpha)[0])

    def to_bytes(self) -> bytes:
        """Encode: α, number of bins, bytes a count, codes, counts; little-endian."""
        width = _count_width(int(self.counts.max(initial=0)))
        header = _HEADER.pack(self.alpha, len(self.codes), width)
        counts = self.counts.astype(f"<u{width}")
        return header + self.codes.astype("<i4").tobytes() + counts.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Decode what `to_bytes` gave.

        Raises:
            ValueError: the bytes are cut off or not of a sketch.
        """
        if len(data) < _HEADER.size:
            raise ValueError(f"{len(data)} bytes: a sketch has at least {_HEADER.size}")
        alpha, num_bins, width = _HEADER.unpack_from(data)
        size = _HEADER.size + (4 + width) * num_bins
        if width not in _COUNT_WIDTHS or len(data) != size:
            raise ValueError(f"{len(data)} bytes: {num_bins} bins of {width}-byte counts: {size}")
        codes = np.frombuffer(data, "<i4", num_bins, _HEADER.size).astype(np.int32)
        counts = np.frombuffer(data, f"<u{width}", num_bins, _HEADER.size + 4 * num_bins)
        return cls(codes, counts.astype(np.int64), alpha)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QuantileSketch):
            return NotImplemented
        return (
            self.alpha == other.alpha
            and np.array_equal(self.codes, other.codes)
            and np.array_equal(self.counts, other.counts)
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # it holds arrays
