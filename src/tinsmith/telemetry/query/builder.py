"""Questions about points without SQL: choose, cut into windows, aggregate.

    Points(store).runs(run_id).keys("loss").steps(0, 9_999).window(1000).aggregate("mean", "p95")

Each call returns a new, narrower question; `aggregate` and `table` ask it, `sql` shows what is
asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tinsmith.core.errors import UserError, unknown_name
from tinsmith.telemetry.query.arrow import ArrowTable
from tinsmith.telemetry.query.sql import query
from tinsmith.telemetry.stores.base import Store

__all__ = ["Points"]

_FUNCTIONS = {
    "count": "count(*) FILTER (isfinite(value))",
    "num_nonfinite": "count(*) FILTER (NOT isfinite(value))",
    "mean": "avg(value) FILTER (isfinite(value))",
    "sum": "sum(value) FILTER (isfinite(value))",
    "std": "stddev_samp(value) FILTER (isfinite(value))",
    "min": "min(value) FILTER (isfinite(value))",
    "max": "max(value) FILTER (isfinite(value))",
    "median": "quantile_cont(value, 0.5) FILTER (isfinite(value))",
    "first": "arg_min(value, step)",
    "last": "arg_max(value, step)",
}
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Points:
    """A question about the points of the effective lines; statistics are of the finite values.

    Attributes:
        store: Whose runs.
        sealed_root: The folder of sealed runs, where the store has none itself.
    """

    store: Store
    sealed_root: Path | None = None
    _conditions: tuple[str, ...] = ()
    _values: tuple[object, ...] = ()
    _groups: tuple[str, ...] = ("run_id", "key", "rank")
    _window: str | None = None
    _runs: tuple[str, ...] | None = None

    def runs(self, *run_ids: str) -> Self:
        """Only these runs."""
        return replace(self, _runs=run_ids)

    def keys(self, *keys: str) -> Self:
        """Only these metrics."""
        return self._where("key IN", keys)

    def ranks(self, *ranks: int) -> Self:
        """Only these ranks."""
        return self._where("rank IN", ranks)

    def steps(self, first: int, last: int) -> Self:
        """Only the steps from `first` to `last`, both included."""
        return self._and("step BETWEEN ? AND ?", first, last)

    def times(self, since_ns: int, until_ns: int) -> Self:
        """Only points recorded from `since_ns` to `until_ns`, both included."""
        return self._and("ts_ns BETWEEN ? AND ?", since_ns, until_ns)

    def values(self, least: float, most: float) -> Self:
        """Only values from `least` to `most`, both included; NaN never is."""
        return self._and("NOT isnan(value) AND value BETWEEN ? AND ?", least, most)

    def window(self, num_steps: int) -> Self:
        """Aggregate each window of so many steps, from step 0 on."""
        if num_steps < 1:
            raise UserError(f"num_steps={num_steps}: must be 1 or more", field="num_steps")
        return replace(self, _window=f"CAST(floor(step / {num_steps:d}) AS BIGINT) * {num_steps:d}")

    def across_ranks(self) -> Self:
        """Aggregate all ranks together."""
        return replace(self, _groups=tuple(one for one in self._groups if one != "rank"))

    def aggregate(self, *functions: str) -> ArrowTable:
        """Return one row a run, metric, rank and window, with a column a function.

        Args:
            *functions: Of count, num_nonfinite, mean, sum, std, min, max, median, first, last, and
                percentiles p50, p95, p99.9 (linear interpolation).

        Raises:
            UnknownNameError: a function is none of these.
        """
        return self._ask(self.sql(*functions))

    def table(self) -> ArrowTable:
        """Return the points themselves."""
        return self._ask(f"SELECT * FROM points{self._clause} ORDER BY run_id, key, rank, step")

    def sql(self, *functions: str) -> str:
        """Return the statement that `aggregate` asks; its values stand for `?`, in order."""
        groups = [*self._groups]
        if self._window is not None:
            groups.append(f"{self._window} AS first_step")
        told = [f'{_expression(name)} AS "{name}"' for name in functions]
        order = ", ".join(str(i + 1) for i in range(len(groups)))
        return (
            f"SELECT {', '.join([*groups, *told])} FROM points{self._clause} "
            f"GROUP BY {order} ORDER BY {order}"
        )

    @property
    def _clause(self) -> str:
        return f" WHERE {' AND '.join(self._conditions)}" if self._conditions else ""

    def _ask(self, sql: str) -> ArrowTable:
        return query(
            sql,
            self.store,
            parameters=list(self._values),
            runs=self._runs,
            sealed_root=self.sealed_root,
        )

    def _where(self, what: str, values: tuple[object, ...]) -> Self:
        marks = ", ".join("?" * len(values))
        return self._and(f"{what} ({marks})" if values else "false", *values)

    def _and(self, condition: str, *values: object) -> Self:
        return replace(
            self,
            _conditions=(*self._conditions, f"({condition})"),
            _values=(*self._values, *values),
        )


def _expression(function: str) -> str:
    if function in _FUNCTIONS:
        return _FUNCTIONS[function]
    found = _PERCENTILE.fullmatch(function)
    if found is None:
        raise unknown_name("function", function, [*_FUNCTIONS, "p95"])
    return f"quantile_cont(value, {float(found[1]) / 100}) FILTER (isfinite(value))"
