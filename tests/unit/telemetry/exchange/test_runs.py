"""A run that is written to a folder and read again is the same run."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.telemetry.records import event, run_record, sample
from tinsmith.core.errors import AlreadyExistsError, ConfigError, DataError
from tinsmith.telemetry.exchange.anonymise import Anonymiser
from tinsmith.telemetry.exchange.bundle import RunBundle, load_bundle, store_bundle
from tinsmith.telemetry.exchange.formats import read_table, write_table
from tinsmith.telemetry.exchange.runs import long_rows, read_run, wide_rows, write_run
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    GitState,
    Interval,
    KeyInfo,
    PointColumns,
    RunStatus,
)
from tinsmith.telemetry.stores import MemoryStore

FORMATS = ("csv", "jsonl", "parquet")


def whole_bundle() -> RunBundle:
    """A run with something in every field of every record."""
    rows = [
        ("train/nll", 0, 0, 1, 11, 2.5),
        ("train/nll", 1, 0, 1, 12, math.nan),
        ("train/nll", 1, 0, 2, 13, math.inf),
        ('eval, "acc"', 1, 1, 2, 14, 0.1),
        ("ü", 7, 0, 2, 15, -math.inf),
    ]
    return RunBundle(
        record=run_record(
            config={"lr": 3e-4, "layers": [1, 2], "name": "NaN", "limit": math.inf, "none": None},
            git=GitState(revision="abc", branch="main", is_dirty=True, diff="- a\n+ b\n"),
            tags=("a", "b"),
            command=("train", "--lr", "1"),
            hypothesis="it learns",
            group="seeds",
            seed=3,
            status=RunStatus.FINISHED,
            metadata={"nested": {"deep": [True, None, "x"]}},
        ),
        points=PointColumns.from_rows(rows),
        keys=(
            KeyInfo(key='eval, "acc"', unit="1", goal="max", description="share"),
            KeyInfo(key="train/nll", unit="nat", goal="min"),
            KeyInfo(key="ü"),
        ),
        attempts=(
            Attempt(
                attempt=1,
                rank=0,
                pid=5,
                host="h",
                started_ns=1,
                heartbeat_ns=2,
                ended_ns=3,
                status=RunStatus.FAILED,
                exit_code=1,
                health={"dropped_events": 2},
            ),
            Attempt(
                attempt=2,
                rank=0,
                pid=6,
                host="h",
                process_start="9",
                started_ns=4,
                heartbeat_ns=5,
                ended_ns=6,
                status=RunStatus.FINISHED,
                resumed_from_step=0,
            ),
        ),
        intervals=(
            Interval(
                attempt=1,
                rank=0,
                index=0,
                kind="active",
                started_ns=1,
                ended_ns=None,
                duration_ns=7,
            ),
        ),
        events=(
            event(measurements={"loss": math.nan, "tokens": 7.0}, metadata={"model": "m"}),
            event("llm.request", step=1, duration_ns=9, trace_id="ab" * 16, span_id="cd" * 8),
        ),
        samples=(
            sample(token_logprobs=(-0.5, -math.inf), rewards={"format": 1.0}),
            sample(step=2, prompt='line\r\n"quoted", text', completion=""),
        ),
        artifacts=(Artifact(digest="d", name="n", kind="k", uri="u", num_bytes=5, ts_ns=6),),
        alerts=(Alert(alert_id="1", rule="spike", message="m", opened_ns=1, score=4.5),),
    )


def as_rows(bundle: RunBundle) -> dict[str, Any]:
    """A bundle as values that compare, NaN and all."""
    named = {field.name: getattr(bundle, field.name) for field in dataclasses.fields(bundle)}
    named["points"] = sorted(bundle.points.rows())
    return {name: repr(value) for name, value in named.items()}


@pytest.mark.parametrize("table_format", FORMATS)
def test_a_run_comes_back_equal(table_format: Any, tmp_path: Path) -> None:
    bundle = whole_bundle()
    write_run(bundle, tmp_path / "run", table_format)
    assert as_rows(read_run(tmp_path / "run")) == as_rows(bundle)


@pytest.mark.parametrize("table_format", FORMATS)
def test_a_run_of_a_store_comes_back_into_another_store_equal(
    table_format: Any, tmp_path: Path
) -> None:
    one, other = MemoryStore(), MemoryStore()
    store_bundle(one, whole_bundle())
    (run,) = one.list_runs()
    write_run(load_bundle(one, run.run_id), tmp_path / "run", table_format)
    for _ in range(2):  # the second time changes nothing
        store_bundle(other, read_run(tmp_path / "run"))
    assert as_rows(load_bundle(other, run.run_id)) == as_rows(load_bundle(one, run.run_id))


values = st.floats(width=64)
points = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b/c", "ü, x"]), st.integers(-(2**40), 2**40)),
    values,
    min_size=1,
    max_size=12,
)


@settings(max_examples=50)
@given(points=points, table_format=st.sampled_from(FORMATS))
def test_points_come_back_to_the_bit_long_and_wide(
    points: dict[tuple[str, int], float],
    table_format: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    columns = PointColumns.from_rows(
        [(key, step, 0, 1, 5, value) for (key, step), value in points.items()]
    )
    bundle = RunBundle(record=run_record(), points=columns)
    path = tmp_path_factory.mktemp("points") / "table"
    write_table(long_rows(bundle), path, table_format)
    long = {(row["key"], row["step"]): row["value"] for row in read_table(path)}
    write_table(wide_rows(columns), path, table_format)
    wide = {
        (key, row["step"]): value
        for row in read_table(path)
        for key, value in row.items()
        if key != "step"
    }
    for found in (long, wide):
        assert found.keys() == points.keys()
        got = np.array([found[k] for k in points]), np.array(list(points.values()))
        np.testing.assert_array_equal(np.isnan(got[0]), np.isnan(got[1]))
        finite = ~np.isnan(got[1])
        assert got[0][finite].tobytes() == got[1][finite].tobytes()


def test_a_wide_table_has_a_row_for_each_rank_where_there_are_several() -> None:
    columns = PointColumns.from_rows([("a", 1, 1, 1, 0, 2.0), ("a", 1, 0, 1, 0, 1.0)])
    assert list(wide_rows(columns)) == [
        {"step": 1, "rank": 0, "a": 1.0},
        {"step": 1, "rank": 1, "a": 2.0},
    ]


def test_a_wide_table_of_several_attempts_or_of_a_key_named_step_is_refused() -> None:
    twice = PointColumns.from_rows([("a", 1, 0, 1, 0, 2.0), ("a", 1, 0, 2, 0, 1.0)])
    with pytest.raises(DataError, match=r"two points of 'a' at step 1, rank 0: choose an attempt"):
        list(wide_rows(twice))
    with pytest.raises(DataError, match="named like columns of the wide table; export it long"):
        list(wide_rows(PointColumns.from_rows([("step", 1, 0, 1, 0, 2.0)])))


def test_nothing_is_overwritten_and_damage_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    write_run(whole_bundle(), folder, "jsonl")
    with pytest.raises(AlreadyExistsError):
        write_run(whole_bundle(), folder)
    with pytest.raises(DataError, match="not an exported run"):
        read_run(tmp_path)
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "schema_version": 9}))
    with pytest.raises(DataError, match="schema_version=9; this Tinsmith reads 1"):
        read_run(folder)
    about["run"]["colour"] = "red"
    (folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"RunRecord has no \['colour'\]"):
        read_run(folder)


def test_an_anonymised_run_keeps_its_numbers_and_names_nobody() -> None:
    bundle = whole_bundle()
    secret = Anonymiser("correct horse battery")(bundle)
    assert repr(secret.points.rows()) == repr(bundle.points.rows())
    assert secret.record.seed == 3
    assert secret.record.config["lr"] == 3e-4
    assert secret.skipped == {"samples": 2}
    text = repr(secret)
    for told in ("it learns", "'abc'", "--lr", "'h'", "2+2=", bundle.record.run_id, "'seeds'"):
        assert told in repr(bundle)
        assert told not in text
    assert Anonymiser("correct horse battery")(bundle).record == secret.record
    assert Anonymiser("another key of mine").hashed("a") != Anonymiser("x" * 8).hashed("a")
    with pytest.raises(ConfigError, match="must be at least 8"):
        Anonymiser("short")
