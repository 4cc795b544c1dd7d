"""`tinsmith runs query` and `tinsmith runs seal` on a store with a resumed run and a live one."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.telemetry.records import event, run_record
from tinsmith.cli import main
from tinsmith.telemetry.exchange.bundle import RunBundle, store_bundle
from tinsmith.telemetry.exchange.csv_text import read_csv
from tinsmith.telemetry.model import Attempt, PointColumns, RunStatus
from tinsmith.telemetry.stores import SqliteStore


def an_attempt(number: int, resumed_from_step: int | None = None) -> Attempt:
    return Attempt(
        attempt=number,
        rank=0,
        pid=1,
        host="h",
        started_ns=number * 10**9,
        heartbeat_ns=number * 10**9,
        ended_ns=number * 10**9 + 1,
        status=RunStatus.FINISHED,
        resumed_from_step=resumed_from_step,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with a run whose second attempt went on from step 3, and another run."""
    rows = [("loss", step, 0, 1, step, 1 / 3 + step) for step in range(6)]
    rows += [("loss", step, 0, 2, step, 0.1) for step in range(4, 8)]
    rows += [("odd", 0, 0, 1, 0, math.nan), ("odd", 1, 0, 1, 0, -math.inf)]
    attempts = (an_attempt(1), an_attempt(2, resumed_from_step=3))
    with_store = SqliteStore(tmp_path / "store")
    store_bundle(
        with_store,
        RunBundle(
            record=run_record(name="resumed", status=RunStatus.FINISHED),
            points=PointColumns.from_rows(rows),
            attempts=attempts,
            events=(event("checkpoint.saved", measurements={"bytes": 7.0}),),
        ),
    )
    store_bundle(
        with_store,
        RunBundle(
            record=run_record(name="other", status=RunStatus.FINISHED),
            points=PointColumns.from_rows([("loss", 0, 0, 1, 0, 2.0)]),
            attempts=(an_attempt(1),),
        ),
    )
    with_store.close()
    return tmp_path / "store"


def ask(folder: Path, *words: str) -> int:
    return main(["runs", *words, "--store", str(folder)])


def rows_of(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> list[dict[str, Any]]:
    assert ask(folder, "query", *words, "--json") == 0
    return json.loads(capsys.readouterr().out)["rows"]


def test_sql_sees_the_line_that_counts_the_given_up_one_and_values_that_are_no_numbers(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT count(*) AS n, sum(step) AS total, max(value) AS top FROM {} WHERE key = 'loss'"
    (found,) = rows_of(capsys, folder, sql.format("points"), "--run", "resumed")
    assert found == {"n": 8, "total": 28, "top": 1 / 3 + 3}
    (found,) = rows_of(capsys, folder, sql.format("all_points"), "-r", "resumed")
    assert found["n"] == 10
    (found,) = rows_of(capsys, folder, sql.format("points"))
    assert found["n"] == 9, "without --run, every run is read"
    odd = rows_of(capsys, folder, "SELECT value FROM points WHERE key = 'odd' ORDER BY step")
    assert [row["value"] for row in odd] == ["NaN", "-Infinity"]


def test_every_kind_of_cell_becomes_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sql = (
        "SELECT measurements, 0.5 AS half, DATE '2026-01-02' AS day, [1, 2] AS list, NULL AS none, "
        "TRUE AS yes, 'ab'::BLOB AS bytes, {'a': 1.5} AS pair FROM events"
    )
    assert rows_of(capsys, folder, sql) == [
        {
            "measurements": {"bytes": 7.0},
            "half": 0.5,
            "day": "2026-01-02",
            "list": [1, 2],
            "none": None,
            "yes": True,
            "bytes": "6162",
            "pair": {"a": 1.5},
        }
    ]


def test_csv_keeps_exact_numbers_and_rows_of_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sql = "SELECT step, value, NULL AS none FROM points WHERE key = 'loss' AND step < 2 ORDER BY 1"
    assert ask(folder, "query", sql, "--run", "resumed", "--csv") == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "step,value,none"
    (tmp_path / "out.csv").write_text(text)
    assert list(read_csv(tmp_path / "out.csv")) == [
        {"step": 0, "value": 1 / 3},
        {"step": 1, "value": 4 / 3},
    ]
    assert ask(folder, "query", "SELECT NULL AS a, NULL AS b", "--csv") == 0
    assert capsys.readouterr().out == "a,b\n,\n"


def test_a_person_gets_a_table_that_says_when_it_is_cut(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = "SELECT step, value FROM points WHERE key = 'loss' ORDER BY step, value"
    assert ask(folder, "query", sql, "--run", "resumed", "--limit", "2") == 0
    shown = capsys.readouterr().out
    assert "8 rows (2 shown; --limit 0: all)" in shown
    assert "0.333333" in shown
    assert ask(folder, "query", "SELECT 1 AS one") == 0
    assert capsys.readouterr().out.startswith("1 row\n")


def test_sql_comes_from_standard_input_too(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT count(*) AS n FROM runs\n"))
    assert rows_of(capsys, folder, "-") == [{"n": 2}]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM pionts", "pionts"),
        ("SELECT valeu FROM points", "valeu"),
        ("", "sql: is empty; one SELECT is allowed"),
        ("DELETE FROM points", "sql: is DELETE; one SELECT is allowed"),
        ("CREATE TABLE mine (a INT)", "sql: is CREATE; one SELECT is allowed"),
        ("SELECT 1; SELECT 2", "sql: is SELECT and SELECT; one SELECT is allowed"),
        ("COPY points TO 'out.csv'", "sql: is COPY; one SELECT is allowed"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("SELECT 1 AS a, 2 AS a", "sql: columns named twice: a"),
    ],
)
def test_a_statement_that_cannot_be_answered_is_told_and_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], sql: str, told: str
) -> None:
    assert ask(folder, "query", sql) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert rows_of(capsys, folder, "SELECT count(*) AS n FROM all_points") == [{"n": 13}]


def test_json_and_csv_at_once_and_an_unknown_run_are_errors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(folder, "query", "SELECT 1 AS a", "--json", "--csv") == 1
    assert "one is allowed" in capsys.readouterr().err
    assert ask(folder, "query", "SELECT 1 AS a", "--run", "resume") == 1
    assert "did you mean 'resumed'?" in capsys.readouterr().err


def test_without_duckdb_the_error_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert ask(folder, "query", "SELECT 1 AS a") == 1
    assert 'pip install "tinsmith[telemetry]"' in capsys.readouterr().err


def test_seal_copies_what_has_ended_once_and_queries_answer_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_store = SqliteStore(folder)
    with_store.put_run(run_record(name="begun"))
    with_store.close()
    sql = "SELECT run_id, key, step, value FROM points ORDER BY ALL"
    before = rows_of(capsys, folder, sql)
    assert ask(folder, "seal", "--json") == 0
    told = json.loads(capsys.readouterr().out)["runs"]
    assert {one["name"] for one in told} == {"resumed", "other"}, "what has not ended is left"
    assert not any(one["was_sealed"] for one in told)
    assert all((Path(one["folder"]) / "all_points.parquet").exists() for one in told)
    assert rows_of(capsys, folder, sql) == before
    assert ask(folder, "seal", "resumed", "--json") == 0
    (again,) = json.loads(capsys.readouterr().out)["runs"]
    assert again["was_sealed"]
    assert again["num_rows"]["all_points"] == 12
    assert ask(folder, "seal") == 0
    assert "0 runs sealed" in capsys.readouterr().out
    assert ask(folder, "seal", "begun") == 1
    assert "only a run that has ended is sealed" in capsys.readouterr().err
