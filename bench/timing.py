"""Timing two things in turns, so that a busy or throttled machine slows both alike.

Main names: `compare`, `Comparison`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.results import Bound, Row

__all__ = ["Comparison", "Work", "compare", "median_s"]

Work = Callable[[], Any]  # Any: what the work returns is not looked at


@dataclass(frozen=True)
class Comparison:
    """Seconds of each round."""

    ours_s: list[float]
    peer_s: list[float]

    def row(self, name: str, model: str, *, amount: float, unit: str, target: Bound | None) -> Row:
        """As rates of `amount` units of work a round; above 1, ours is faster."""
        pairs = zip(self.ours_s, self.peer_s, strict=True)
        ratios = [peer_s / ours_s for ours_s, peer_s in pairs]
        return Row(
            name=name,
            model=model,
            unit=unit,
            ours=amount / statistics.median(self.ours_s),
            peer=amount / statistics.median(self.peer_s),
            ratio=statistics.median(ratios),
            ratio_range=(min(ratios), max(ratios)),
            target=target,
        )


def compare(ours: Work, peer: Work, *, rounds: int, warm_up: int = 1) -> Comparison:
    """Time both `rounds` times, in turns, after `warm_up` rounds that do not count.

    Each starts every second round, so that what one leaves behind (caches, a clock that sped up)
    favours neither.
    """
    comparison = Comparison([], [])
    for index in range(-warm_up, rounds):
        both = [(ours, comparison.ours_s), (peer, comparison.peer_s)]
        for work, seconds in both if index % 2 else reversed(both):
            elapsed_s = seconds_of(work)
            if index >= 0:
                seconds.append(elapsed_s)
    return comparison


def seconds_of(work: Work) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_s(work: Work, *, rounds: int, warm_up: int = 1) -> float:
    """Median wall-clock time of one call."""
    seconds = [seconds_of(work) for _ in range(warm_up + rounds)]
    return statistics.median(seconds[warm_up:])
