"""From calls of `log` to columns of points: names are checked, refusals counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

from tinsmith.telemetry.health import Health
from tinsmith.telemetry.model import PointColumns
from tinsmith.telemetry.payload import Refused, key_trouble, shown, to_float

__all__ = ["Call", "Gatherer"]

Call: TypeAlias = tuple[int, int, Mapping[str, object]]
"""What one `log` puts down: time, step, values by key."""

MAX_ROWS = 4_096
MAX_KEYS = 100_000


class Gatherer:
    """Makes points of calls for one rank and attempt; used by the writer thread alone."""

    def __init__(self, rank: int, attempt: int, health: Health) -> None:
        self._rank = rank
        self._attempt = attempt
        self._health = health
        self._troubles: dict[object, str | None] = {}
        self._num_keys = 0

    def take(self, calls: deque[Call], num_calls: int) -> tuple[PointColumns, int]:
        """Take calls from the left, at most `num_calls` and about 4,096 values.

        Returns:
            The points, and how many calls were taken.
        """
        codes: dict[str, int] = {}
        names: list[str] = []
        keys: list[int] = []
        steps: list[int] = []
        times: list[int] = []
        numbers: list[float] = []
        num_taken = 0
        while num_taken < num_calls and len(numbers) < MAX_ROWS:
            ts_ns, step, values = calls.popleft()
            num_taken += 1
            for key, value in values.items():
                code = codes.get(key)
                if code is None:
                    code = codes[key] = -1 if self._trouble_of(key) else len(names)
                    if code >= 0:
                        names.append(key)
                number = value if type(value) is float else self._number(key, value)
                if number is None:
                    continue
                if code < 0:
                    self._refuse(key, self._trouble_of(key) or "")
                    continue
                keys.append(code)
                steps.append(step)
                times.append(ts_ns)
                numbers.append(number)
        if not numbers:
            return PointColumns.empty(), num_taken
        points = PointColumns.of(
            names, keys, steps, numbers, ts_ns=times, rank=self._rank, attempt=self._attempt
        )
        return points, num_taken

    def _trouble_of(self, key: str) -> str | None:
        if key in self._troubles:
            return self._troubles[key]
        trouble = key_trouble(key)
        if trouble is None and self._num_keys >= MAX_KEYS:
            return f"a run has at most {MAX_KEYS:,} different names"
        if len(self._troubles) < 2 * MAX_KEYS:
            self._troubles[key] = trouble
            self._num_keys += trouble is None
        return trouble

    def _number(self, key: str, value: object) -> float | None:
        try:
            return to_float(value)
        except Refused as error:
            self._refuse(key, str(error))
            return None

    def _refuse(self, key: object, reason: str) -> None:
        self._health.count("refused_values")
        self._health.warn_once(
            f"value of {shown(key)}", f"log: {shown(key)} is not recorded: {reason}"
        )
