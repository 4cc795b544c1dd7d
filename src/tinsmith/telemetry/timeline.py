"""The active and paused stretches of a run, measured on the monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from tinsmith.telemetry.model import Interval

__all__ = ["Timeline"]


class Timeline:
    """The stretches of one rank in one attempt; the first is active and begins now."""

    def __init__(
        self,
        attempt: int,
        rank: int,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._attempt = attempt
        self._rank = rank
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self.intervals: list[Interval] = []
        self._began_ns = 0
        self._begin("active")

    def switch(self, kind: Literal["active", "paused"]) -> None:
        """End the stretch that lasts and begin one of another kind."""
        if self.intervals[-1].kind != kind:
            self.end()
            self._begin(kind)

    def end(self) -> None:
        """End the stretch that lasts; idempotent."""
        if self.intervals[-1].ended_ns is None:
            self.intervals[-1] = replace(self.now(), ended_ns=self._wall_ns())

    def now(self) -> Interval:
        """Return the last stretch with its duration up to now."""
        last = self.intervals[-1]
        if last.ended_ns is not None:
            return last
        return replace(last, duration_ns=self._monotonic_ns() - self._began_ns)

    def so_far(self) -> list[Interval]:
        """Return all stretches, the last with its duration up to now."""
        return [*self.intervals[:-1], self.now()]

    def _begin(self, kind: Literal["active", "paused"]) -> None:
        self._began_ns = self._monotonic_ns()
        self.intervals.append(
            Interval(
                attempt=self._attempt,
                rank=self._rank,
                index=len(self.intervals),
                kind=kind,
                started_ns=self._wall_ns(),
                ended_ns=None,
                duration_ns=0,
            )
        )
