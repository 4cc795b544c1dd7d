"""The JSONL recorder: what it writes can be read back, and cut back."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.telemetry import (
    JsonlRecorder,
    NullRecorder,
    Recorder,
    drop_steps_after,
    read_metrics,
)

METRICS = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "step"), st.floats(), max_size=4
)


def test_a_row_is_on_disk_as_soon_as_log_returns(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path / "deep" / "metrics.jsonl")
    recorder.log(3, {"train/nll": 1.5, "train/num_tokens": 7})
    text = (tmp_path / "deep" / "metrics.jsonl").read_text()
    recorder.close()
    assert text == '{"step": 3, "train/nll": 1.5, "train/num_tokens": 7}\n'


@given(rows=st.lists(st.tuples(st.integers(0, 10**9), METRICS), max_size=5))
def test_everything_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, dict[str, float]]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    with JsonlRecorder(path) as recorder:
        for step, metrics in rows:
            recorder.log(step, metrics)
    back = read_metrics(path)
    assert [row.pop("step") for row in back] == [step for step, _ in rows]
    for (_, metrics), row in zip(rows, back, strict=True):
        np.testing.assert_equal(row, metrics)


def test_every_line_is_strict_json_even_without_finite_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlRecorder(path) as recorder:
        recorder.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32(0.5)})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads(path.read_text(), parse_constant=refuse)
    assert row == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 0.5}


def test_a_recorder_appends_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        with JsonlRecorder(path) as recorder:
            recorder.log(step, {})
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_cutting_back_keeps_whole_rows_up_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "x": 1.0}\n{"step": 2, "x": 2.0}\n{"step": 2, "y": 0.1}\n'
    path.write_bytes(whole + b'{"step": 3, "x": 3.0}\n{"step": 4, "x"')
    assert drop_steps_after(path, 2) == 2
    assert path.read_bytes() == whole


def test_cutting_back_a_file_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    assert drop_steps_after(tmp_path / "none.jsonl", 5) == 0
    assert not (tmp_path / "none.jsonl").exists()


def test_both_recorders_keep_the_interface(tmp_path: Path) -> None:
    recorder = JsonlRecorder(tmp_path / "metrics.jsonl")
    assert isinstance(recorder, Recorder)
    recorder.close()
    recorder.close()
    null = NullRecorder()
    assert isinstance(null, Recorder)
    null.log(1, {"x": 1.0})
    null.close()
