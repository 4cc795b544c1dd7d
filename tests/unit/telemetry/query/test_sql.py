"""SQL says the same of hot and sealed runs, and can neither write nor read anything else."""

import math
import sys
from pathlib import Path

import pytest

from tests.unit.telemetry.query.conftest import Recorded
from tests.unit.telemetry.records import points, run_record
from tinsmith.core.errors import MissingExtraError, UserError
from tinsmith.telemetry.model import RunFilter
from tinsmith.telemetry.query import Points, query
from tinsmith.telemetry.query.arrow import TABLES, schema_of
from tinsmith.telemetry.stores import MemoryStore


def rows(recorded: Recorded, sql: str, parameters: object = None) -> list[tuple[object, ...]]:
    table = query(
        sql,
        recorded.store,
        parameters=parameters,  # pyright: ignore[reportArgumentType]
        sealed_root=recorded.sealed_root,
    )
    return [tuple(row.values()) for row in table.to_pylist()]


def test_points_are_the_effective_line(recorded: Recorded) -> None:
    sql = "SELECT step, value, attempt FROM points WHERE key = 'loss' ORDER BY step"
    assert rows(recorded, sql) == [(s, 10.0 - s, 1) for s in range(6)] + [
        (s, 0.5, 2) for s in range(6, 9)
    ]
    everything = rows(recorded, "SELECT count(*), sum(is_effective::INT) FROM all_points")
    assert everything == [(18, 14)]


def test_values_of_every_kind_are_exact(recorded: Recorded) -> None:
    sql = "SELECT step, value FROM points WHERE key = $key ORDER BY step"
    found = dict(rows(recorded, sql, {"key": "odd/ü"}))
    assert math.isnan(found.pop(1))
    assert found == {2: math.inf, 3: -math.inf, 4: 2.0**53 + 2, 5: 5e-324}


def test_events_texts_and_the_rest_can_be_asked(recorded: Recorded) -> None:
    sql = "SELECT measurements['cost_usd'], metadata->>'model', ts_ns FROM events ORDER BY ts_ns"
    assert rows(recorded, sql) == [(0.5, "q", 10), (None, None, 2**60)]
    assert rows(recorded, "SELECT measurements['ttft_ms'] FROM events WHERE duration_ns = 7") == [
        (math.inf,)
    ]
    assert rows(recorded, "SELECT prompt, token_logprobs FROM samples") == [
        ("2+2=", [-1.5, -math.inf])
    ]
    assert rows(recorded, "SELECT isnan(rewards['total']) FROM samples") == [(True,)]
    assert rows(recorded, "SELECT num_bytes, step FROM artifacts") == [(2**40, None)]
    assert rows(recorded, "SELECT rule, message, score FROM alerts") == [
        ("nan", "loss is NaN", None)
    ]
    assert rows(recorded, "SELECT unit FROM keys WHERE key = 'loss'") == [("nats",)]
    assert rows(recorded, "SELECT attempt, resumed_from_step FROM attempts ORDER BY 1") == [
        (1, None),
        (2, 5),
    ]
    sql = "SELECT name, status, tags, config->>'lr', condition, run_group, seed FROM runs"
    assert rows(recorded, sql) == [
        ("first", "finished", ["a", "b"], "0.0001", "treatment", "seeds", 7)
    ]


def test_tables_join(recorded: Recorded) -> None:
    sql = "SELECT r.name, max(p.value) FROM points p JOIN runs r USING (run_id) GROUP BY 1"
    assert rows(recorded, sql)[0][0] == "first"


def test_hot_and_sealed_runs_are_one_table(recorded: Recorded) -> None:
    other = run_record(name="second", project="p", condition="control")
    recorded.store.put_run(other)
    recorded.store.append(other.run_id, points(("loss", 1, 3.0), ("new", 1, 4.0)))
    sql = "SELECT run_id, count(*) FROM points WHERE key IN ('loss', 'new') GROUP BY 1"
    assert set(rows(recorded, sql)) == {(recorded.run_id, 9), (other.run_id, 2)}
    for runs in (RunFilter(condition="control"), [other.run_id]):
        found = query(sql, recorded.store, runs=runs, sealed_root=recorded.sealed_root)
        assert found.to_pylist() == [{"run_id": other.run_id, "count_star()": 2}]


def test_what_was_written_after_sealing_is_seen(recorded: Recorded) -> None:
    recorded.store.append(recorded.run_id, points(("loss", 100, 1.0, 0, 2)))
    assert rows(recorded, "SELECT max(step) FROM points") == [(100,)]


@pytest.mark.parametrize("table", [*TABLES, "points"])
def test_every_table_is_there_in_an_empty_store(table: str) -> None:
    found = query(f"SELECT * FROM {table}", MemoryStore())
    assert found.num_rows == 0
    assert found.column_names[0] == "run_id"
    described = query(f"DESCRIBE {table}", MemoryStore())
    assert described.num_rows == len(schema_of("all_points" if table == "points" else table)) - (
        table == "points"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM points",
        "INSERT INTO runs SELECT * FROM runs",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW points",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW points",
        "COPY (SELECT 1) TO '{file}'",
        "COPY points TO '{file}' (FORMAT parquet)",
        "EXPORT DATABASE '{file}'",
        "ATTACH '{file}'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "",
    ],
)
@pytest.mark.parametrize("recorded", ["sealed"], indirect=True)
def test_anything_but_one_select_is_refused(sql: str, recorded: Recorded, tmp_path: Path) -> None:
    file = tmp_path / "written"
    with pytest.raises(UserError, match=r"sql: is .*; one SELECT is allowed; what was recorded"):
        rows(recorded, sql.format(file=file))
    assert not file.exists()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_parquet('{sealed}')",
        "SELECT * FROM local_variable",
        "SELECT getenv('HOME')",
    ],
)
@pytest.mark.parametrize("recorded", ["sealed"], indirect=True)
def test_files_and_variables_are_out_of_reach(sql: str, recorded: Recorded, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    local_variable = query("SELECT 1", MemoryStore())
    assert local_variable.num_rows == 1
    sealed = next(tmp_path.rglob("all_points.parquet"), "none.parquet")
    with pytest.raises(UserError, match=r"^sql: "):
        rows(recorded, sql.format(secret=secret, folder=tmp_path, sealed=sealed))


def test_a_wrong_statement_says_what_is_wrong() -> None:
    with pytest.raises(UserError, match=r"sql: .*syntax error"):
        query("SELEC 1", MemoryStore())
    with pytest.raises(UserError, match=r'sql: .*"valu" not found'):
        query("SELECT valu FROM points", MemoryStore())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r'duckdb.*pip install "tinsmith\[telemetry\]"'):
        query("SELECT 1", MemoryStore())


# -------------------------------------------------------------------------------- the builder


def test_windows_are_aggregated(recorded: Recorded) -> None:
    points = Points(recorded.store, recorded.sealed_root).runs(recorded.run_id).keys("loss")
    found = points.window(5).aggregate("count", "mean", "p95", "last").to_pylist()
    place = {"run_id": recorded.run_id, "key": "loss", "rank": 0}
    assert found == [
        {**place, "first_step": 0, "count": 5, "mean": 8.0, "p95": pytest.approx(9.8), "last": 6.0},
        {
            **place,
            "first_step": 5,
            "count": 4,
            "mean": 1.625,
            "p95": pytest.approx(4.325),
            "last": 0.5,
        },
    ]


def test_statistics_leave_non_finite_values_out_and_count_them(recorded: Recorded) -> None:
    points = Points(recorded.store, recorded.sealed_root).keys("odd/ü").ranks(1)
    [found] = points.aggregate("count", "num_nonfinite", "max", "min").to_pylist()
    assert (found["count"], found["num_nonfinite"]) == (2, 3)
    assert (found["min"], found["max"]) == (5e-324, 2.0**53 + 2)


def test_conditions_narrow(recorded: Recorded) -> None:
    points = Points(recorded.store, recorded.sealed_root).keys("loss")
    assert points.steps(2, 4).table()["step"].to_pylist() == [2, 3, 4]
    assert points.values(0.0, 1.0).table()["step"].to_pylist() == [6, 7, 8]
    assert points.times(6, 100).table().num_rows == 0
    assert points.keys().table().num_rows == 0
    both = Points(recorded.store, recorded.sealed_root).across_ranks().aggregate("count")
    assert both.column_names == ["run_id", "key", "count"]


def test_negative_steps_have_windows_too() -> None:
    store = MemoryStore()
    record = run_record()
    store.put_run(record)
    store.append(record.run_id, points(("k", -1, 1.0), ("k", -10, 3.0), ("k", 0, 9.0)))
    found = Points(store).window(10).aggregate("mean").to_pylist()
    assert [(row["first_step"], row["mean"]) for row in found] == [(-10, 2.0), (0, 9.0)]


def test_names_cannot_smuggle_sql(recorded: Recorded) -> None:
    points = Points(recorded.store, recorded.sealed_root).keys("x') OR 1=1 --")
    assert points.table().num_rows == 0
    with pytest.raises(UserError, match=r"function=.p95\) FROM runs.: unknown"):
        points.aggregate("p95) FROM runs")
    with pytest.raises(UserError, match="num_steps=0: must be 1 or more"):
        points.window(0)


@pytest.mark.parametrize("recorded", ["memory sealed"], indirect=True)
def test_a_seal_is_used_for_what_it_holds(recorded: Recorded) -> None:
    """The store itself is not asked for points: a seal replaces it."""
    recorded.store.points = None  # type: ignore[method-assign]
    assert rows(recorded, "SELECT count(*) FROM points") == [(14,)]
