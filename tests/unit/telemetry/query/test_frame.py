"""Frames: sparse, wide, exact, in three kinds."""

import math
import sys

import pandas
import polars
import pyarrow
import pytest

from tests.unit.telemetry.records import points, stored_run
from tinsmith.core.errors import MissingExtraError, UnknownNameError, UserError
from tinsmith.telemetry.query import frame
from tinsmith.telemetry.stores import MemoryStore


def two_cadences() -> tuple[MemoryStore, str]:
    store = MemoryStore()
    run_id = stored_run(store)
    store.append(
        run_id,
        points(
            ("loss", 1, 4.0, 0, 1, 10),
            ("loss", 2, math.nan, 0, 1, 20),
            ("loss", 3, math.inf, 0, 1, 30),
            ("loss", 4, 1.0, 0, 1, 40),
            ("val", 2, 0.5, 0, 1, 25),
            ("val", 4, 0.25, 0, 1, 45),
            ("tokens", 2, 200.0),
            ("tokens", 3, 350.0),
            ("loss", 1, 9.0, 1),
        ),
    )
    return store, run_id


def test_rows_are_steps_and_columns_metrics_empty_where_none_was_logged() -> None:
    store, run_id = two_cadences()
    table = frame(store, run_id, kind="arrow")
    assert isinstance(table, pyarrow.Table)
    assert table.column_names == ["step", "loss", "tokens", "val"]
    assert table["step"].to_pylist() == [1, 2, 3, 4]
    assert table["val"].to_pylist() == [None, 0.5, None, 0.25]
    loss = table["loss"].to_pylist()
    assert math.isnan(loss[1])
    assert [loss[0], *loss[2:]] == [4.0, math.inf, 1.0]
    assert table["loss"].null_count == 0


def test_polars_tells_nan_from_missing_and_pandas_reads_floats() -> None:
    store, run_id = two_cadences()
    in_polars = frame(store, run_id, ["val", "loss"], kind="polars")
    assert isinstance(in_polars, polars.DataFrame)
    assert in_polars.columns == ["step", "val", "loss"]
    assert in_polars["val"].null_count() == 2
    assert in_polars["loss"].is_nan().to_list() == [False, True, False, False]
    in_pandas = frame(store, run_id, ["val"])
    assert isinstance(in_pandas, pandas.DataFrame)
    assert in_pandas["step"].tolist() == [2, 4]
    assert str(in_pandas["val"].dtype) == "float64"


def test_another_metric_can_be_the_x_axis() -> None:
    store, run_id = two_cadences()
    table = frame(store, run_id, ["loss"], x="tokens", kind="arrow")
    assert table.column_names == ["tokens", "step", "loss"]
    assert table["tokens"].to_pylist() == [200.0, 350.0, 350.0]
    assert table["step"].to_pylist() == [2, 3, 4]


def test_time_can_be_the_x_axis() -> None:
    store, run_id = two_cadences()
    table = frame(store, run_id, ["loss", "val"], x="time", kind="arrow")
    assert table.column_names == ["time", "step", "loss", "val"]
    assert table["time"].cast(pyarrow.int64()).to_pylist() == [10, 25, 30, 45]


def test_all_ranks_are_rows_of_their_own() -> None:
    store, run_id = two_cadences()
    table = frame(store, run_id, ["loss"], rank=None, kind="arrow")
    assert table.column_names == ["step", "rank", "loss"]
    assert table.slice(0, 2).to_pylist() == [
        {"step": 1, "rank": 0, "loss": 4.0},
        {"step": 1, "rank": 1, "loss": 9.0},
    ]
    assert frame(store, run_id, ["loss"], rank=1, kind="arrow").num_rows == 1


def test_a_run_without_points_is_an_empty_frame() -> None:
    store = MemoryStore()
    table = frame(store, stored_run(store), kind="arrow")
    assert table.column_names == ["step"]
    assert table.num_rows == 0


def test_bad_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    store, run_id = two_cadences()
    with pytest.raises(UnknownNameError, match=r"key='los': unknown; .* did you mean 'loss'"):
        frame(store, run_id, ["los"])
    with pytest.raises(UnknownNameError, match=r"x='token': unknown; .* did you mean 'tokens'"):
        frame(store, run_id, ["loss"], x="token")
    with pytest.raises(UnknownNameError, match=r"kind='panda': unknown; .* did you mean 'pandas'"):
        frame(store, run_id, kind="panda")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"attempt='all': a frame shows one line"):
        frame(store, run_id, attempt="all")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r'polars.*pip install "tinsmith\[telemetry\]"'):
        frame(store, run_id, kind="polars")
