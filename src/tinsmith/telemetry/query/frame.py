"""A run's metrics as one wide table: a row a step, a column a metric, empty where none was logged.

Metrics come at different cadences (a loss each step, a validation score each hundred), so the table
is sparse: null (pandas: NaN) where a metric was not logged. A NaN that *was* logged stays NaN in
Arrow and polars, which tell the two apart; pandas' plain float columns cannot.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinsmith.core.errors import UserError, missing_extra, unknown_name
from tinsmith.telemetry.model import PointColumns
from tinsmith.telemetry.query.arrow import require_polars, require_pyarrow
from tinsmith.telemetry.stores.base import Store
from tinsmith.telemetry.stores.lines import AttemptChoice

__all__ = ["Frame", "FrameKind", "frame"]

FrameKind = Literal["pandas", "polars", "arrow"]
Frame: TypeAlias = Any  # pandas.DataFrame, polars.DataFrame or pyarrow.Table
Array: TypeAlias = Any  # an Arrow array


def frame(
    store: Store,
    run_id: str,
    keys: Sequence[str] | None = None,
    *,
    x: str = "step",
    kind: FrameKind = "pandas",
    rank: int | None = 0,
    attempt: AttemptChoice = "effective",
) -> Frame:
    """Return metrics side by side.

    Args:
        store: Where the run is.
        run_id: The run.
        keys: Which metrics, in the order of the columns; all by default, by name.
        x: The first column, by which the rows are sorted: "step"; "time" (of the latest point of
            the step, UTC); or a metric, such as "train/num_tokens": each row shows its latest value
            up to that step, and the steps before its first are left out.
        kind: The kind of table.
        rank: Whose points; None for all ranks, and a column `rank`.
        attempt: As in `Store.points`, "all" excepted.

    Raises:
        UnknownNameError: a key has no points, or `kind` is unknown.
        UserError: `attempt="all"`, which would give one step several rows.
        MissingExtraError: the package of `kind` is not installed.
    """
    if kind not in ("pandas", "polars", "arrow"):
        raise unknown_name("kind", kind, ["pandas", "polars", "arrow"])
    if attempt == "all":
        raise UserError(
            "attempt='all': a frame shows one line; give an attempt's number", field="attempt"
        )
    pa = require_pyarrow()
    is_metric = x not in ("step", "time")
    asked = None if keys is None else [*keys, *([x] if is_metric and x not in keys else [])]
    points = store.points(run_id, asked, ranks=None if rank is None else [rank], attempt=attempt)
    for key in asked or ([x] if is_metric else []):
        if key not in points.names:
            known = [info.key for info in store.keys(run_id)]
            raise unknown_name("x" if key == x else "key", key, known, field="keys")
    columns = _columns(pa, points, x, with_rank=rank is None)
    wanted = list(points.names) if keys is None else list(keys)
    head = [name for name in (x, "step", "rank") if name in columns]
    names = list(dict.fromkeys([*head, *wanted]))
    table = pa.table({name: columns[name] for name in names})
    if is_metric:
        table = table.filter(pa.compute.is_valid(table[x])).sort_by(x)
    elif x == "time":
        table = table.sort_by("time")
    return _converted(table, kind)


def _columns(pa: Any, points: PointColumns, x: str, *, with_rank: bool) -> dict[str, Array]:
    """Every column by name, the rows by step and rank."""
    order = np.lexsort((points.rank, points.step))
    steps, ranks = points.step[order], points.rank[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (np.diff(steps) != 0) | (np.diff(ranks) != 0)
    row_of = np.empty(len(order), np.int64)
    row_of[order] = np.cumsum(is_new) - 1
    num_rows = int(is_new.sum())
    columns: dict[str, Array] = {"step": pa.array(steps[is_new])}
    if with_rank:
        columns["rank"] = pa.array(ranks[is_new])
    if x == "time":
        latest = np.zeros(num_rows, np.int64)
        np.maximum.at(latest, row_of, points.ts_ns)
        columns["time"] = pa.array(latest).cast(pa.timestamp("ns", tz="UTC"))
    for code, name in enumerate(points.names):
        mine = points.key == code
        columns[name] = _sparse(pa, row_of[mine], points.value[mine], num_rows)
    if x in points.names:
        columns[x] = pa.compute.fill_null_forward(columns[x])
    return columns


def _sparse(pa: Any, rows: NDArray[np.int64], values: NDArray[np.float64], num_rows: int) -> Array:
    column = np.zeros(num_rows)
    is_missing = np.ones(num_rows, np.bool_)
    column[rows], is_missing[rows] = values, False
    return pa.array(column, mask=is_missing, from_pandas=False)


def _converted(table: Any, kind: FrameKind) -> Frame:  # Any: an Arrow table
    if kind == "arrow":
        return table
    if kind == "polars":
        return require_polars().from_arrow(table)
    if importlib.util.find_spec("pandas") is None:  # Arrow's error would not say what to do
        raise missing_extra("pandas", "telemetry")
    return table.to_pandas()
