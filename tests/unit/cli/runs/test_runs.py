"""`tinsmith runs` on a store with two real runs: one resumed after a failure, one imported."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.telemetry.records import event, run_record
from tinsmith.cli import main
from tinsmith.cli.runs.plots import sparkline, terminal_chart
from tinsmith.telemetry.exchange.bundle import RunBundle, store_bundle
from tinsmith.telemetry.model import Attempt, KeyInfo, PointColumns, RunStatus
from tinsmith.telemetry.stores import SqliteStore

PEERS = Path(__file__).parents[3] / "golden" / "peers"
SHORT = 8


def an_attempt(number: int, status: RunStatus, resumed_from_step: int | None) -> Attempt:
    return Attempt(
        attempt=number,
        rank=0,
        pid=1,
        host="h",
        started_ns=number * 10**9,
        heartbeat_ns=number * 10**9 + 5,
        ended_ns=number * 10**9 + 6 * 10**9,
        status=status,
        resumed_from_step=resumed_from_step,
        health={"dropped_events": 3} if number == 1 else {},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store with one run, "resumed": attempt 1 went to step 5, attempt 2 went on from step 3."""
    rows = [("train/nll", step, 0, 1, step, 5.0 - step) for step in range(6)]
    rows += [("train/nll", step, 0, 2, step, 1.0 / step) for step in range(4, 8)]
    rows += [("eval/nll", 6, 0, 2, 6, math.nan)]
    bundle = RunBundle(
        record=run_record(name="resumed", config={"lr": 1e-3}, tags=("a",)),
        points=PointColumns.from_rows(rows),
        keys=(KeyInfo(key="train/nll", unit="nat", goal="min"),),
        attempts=(
            an_attempt(1, RunStatus.FAILED, None),
            an_attempt(2, RunStatus.FINISHED, 3),
        ),
        events=(event("checkpoint.saved", measurements={"bytes": 7.0}),),
    )
    with_store = SqliteStore(tmp_path / "store")
    store_bundle(with_store, bundle)
    with_store.close()
    return tmp_path / "store"


def ask(folder: Path, *words: str) -> int:
    return main(["runs", *words, "--store", str(folder)])


def answer(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> Any:
    assert ask(folder, *words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_list_finds_runs_by_what_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = answer(capsys, folder, "list")["runs"]
    assert (run["name"], run["status"], run["config"]) == ("resumed", "finished", {"lr": 1e-3})
    for words in (["--project", "p"], ["--status", "finished"], ["--tag", "a"]):
        assert len(answer(capsys, folder, "list", *words)["runs"]) == 1
    for words in (["--project", "q"], ["--status", "failed"], ["--tag", "b"], ["--group", "g"]):
        assert answer(capsys, folder, "list", *words)["runs"] == []
    assert ask(folder, "list") == 0
    shown = capsys.readouterr().out
    assert run["run_id"][-SHORT:] in shown
    assert "finished, active 0.0 s, 2 attempts" in shown


def test_list_says_when_it_is_cut(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, "import", str(PEERS)) == 0
    capsys.readouterr()
    found = answer(capsys, folder, "list", "--limit", "2")
    assert len(found["runs"]) == 2
    assert found["is_cut"]
    assert ask(folder, "list", "--limit", "2") == 0
    assert "2 runs (more not shown; --limit 0: all)" in capsys.readouterr().out


def test_show_has_one_clean_line_and_both_attempts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = answer(capsys, folder, "show", "latest")
    metrics = {one["key"]: one for one in shown["metrics"]}
    assert metrics["train/nll"]["num_points"] == 8
    assert metrics["train/nll"]["last"] == 1 / 7
    assert metrics["train/nll"]["maximum"] == 5.0
    assert metrics["eval/nll"]["last"] == "NaN"
    assert [one["resumed_from_step"] for one in shown["attempts"]] == [None, 3]
    assert shown["events"] == {"checkpoint.saved": 1}
    assert ask(folder, "show", "resumed") == 0
    text = capsys.readouterr().out
    for told in ("0 to 5", "4 to 7", "3 dropped_events", "1 checkpoint.saved", "nat", "⣀"):
        assert told in text
    old = answer(capsys, folder, "show", "resumed", "--attempt", "1")
    assert [one["last"] for one in old["metrics"]] == [0.0]


def test_a_run_is_found_by_name_part_and_latest_and_told_when_it_is_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = answer(capsys, folder, "show", "resumed")["run"]["run_id"]
    for text in (run_id, run_id[-SHORT:], run_id[:9], "latest"):
        assert answer(capsys, folder, "show", text)["run"]["run_id"] == run_id
    assert ask(folder, "show", "resume") == 1
    assert "run='resume': unknown" in (said := capsys.readouterr().err)
    assert "did you mean 'resumed'?" in said
    assert ask(folder, "show", "resumed", "-k", "train/nl") == 1
    assert "did you mean 'train/nll'?" in capsys.readouterr().err
    assert ask(folder / "empty", "show", "latest") == 1
    assert "nothing is recorded in" in capsys.readouterr().err


def test_a_part_that_several_runs_have_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = SqliteStore(folder)
    for last in ("1", "2"):
        store.put_run(run_record(run_id=f"abcdef-{last}", name=f"twin{last}"))
    assert ask(folder, "show", "abcdef") == 1
    assert "2 runs have this in their id" in capsys.readouterr().err


def test_tail_prints_the_last_steps_and_ends_with_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(folder, "tail", "resumed", "-n", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["step 6  eval/nll=nan  train/nll=0.1667", "step 7  train/nll=0.1429"]
    assert ask(folder, "tail", "resumed", "-n", "1", "--json", "-k", "train/nll") == 0
    point, happened = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (point["kind"], point["key"], point["step"]) == ("point", "train/nll", 7)
    assert (happened["kind"], happened["name"]) == ("event", "checkpoint.saved")


def test_diff_names_what_differs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, "import", str(PEERS / "trackio.db")) == 0
    capsys.readouterr()
    found = answer(capsys, folder, "diff", "resumed", "small run")
    assert found["settings"]["config.lr"] == [1e-3, None]
    assert found["settings"]["config.learning_rate"] == [None, 3e-4]
    metrics = {row["key"]: row for row in found["metrics"]}
    assert metrics["train/nll"]["last"] == [1 / 7, None]
    assert metrics["train/nll"]["change"] is None
    assert answer(capsys, folder, "diff", "resumed", "resumed")["settings"] == {}
    assert ask(folder, "diff", "resumed", "resumed") == 0
    assert "No setting differs." in capsys.readouterr().out


@pytest.mark.parametrize("table_format", ["csv", "jsonl", "parquet"])
def test_an_exported_run_comes_back_through_import(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table_format: str
) -> None:
    out = tmp_path / "out"
    assert ask(folder, "export", "resumed", str(out), "--format", table_format) == 0
    assert ask(tmp_path / "other", "import", str(out)) == 0
    capsys.readouterr()
    here, there = (
        answer(capsys, place, "show", "latest") for place in (folder, tmp_path / "other")
    )
    assert here == there


def test_export_writes_tables_and_overwrites_only_when_asked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = tmp_path / "wide.csv"
    words = ("export", "resumed", str(wide), "--layout", "wide")
    assert ask(folder, *words) == 0
    assert wide.read_text().splitlines()[0] == "step,train/nll,eval/nll"
    assert len(wide.read_text().splitlines()) == 1 + 8
    assert ask(folder, *words) == 1
    assert "add --overwrite" in capsys.readouterr().err
    assert ask(folder, *words, "--overwrite", "-k", "train/nll", "--attempt", "1") == 0
    assert len(wide.read_text().splitlines()) == 1 + 6
    assert ask(folder, "export", "resumed", str(tmp_path / "x"), "-k", "train/nll") == 2
    assert "add --layout long" in capsys.readouterr().err


def test_export_can_leave_names_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("correct horse battery\n")
    out = tmp_path / "out"
    words = ("export", "resumed", str(out), "--anonymise", str(tmp_path / "key"))
    assert ask(folder, *words) == 0
    told = json.loads((out / "run.json").read_text())
    assert '"resumed"' not in (out / "run.json").read_text()
    assert told["run"]["config"] == {"lr": 1e-3}


def test_convert_tells_the_source_by_its_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text('{"step": 1, "nll": 0.5}\n')
    target = tmp_path / "b.csv"
    assert main(["runs", "convert", str(tmp_path / "a.txt"), str(target)]) == 0
    assert target.read_text().splitlines() == ["step,nll", "1,0.5"]
    assert main(["runs", "convert", str(tmp_path / "a.txt"), str(target)]) == 1
    assert "add --overwrite" in capsys.readouterr().err


def test_import_says_what_it_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(folder, "import", str(PEERS), "--project", "mine") == 0
    assert "Left out: 1 histogram, 1 table-file, 1 text" in capsys.readouterr().out
    assert len(answer(capsys, folder, "list", "--project", "mine")["runs"]) == 5


def test_no_spike_and_no_nan_is_lost_in_the_terminal() -> None:
    """One spike in 20,000 points stands out in the line and in the chart; a NaN is a cross."""
    values = np.full(20_000, 1.0)
    values[7_000], values[15_000] = 9.0, math.nan
    line = sparkline(values, width=20)
    assert line[7] == "█"
    assert line[15] == "×"
    assert set(line) == {"█", "×", "▁"}
    chart = terminal_chart(np.arange(20_000), values, width=40, height=6)
    top = chart[0].split("┤")[1]
    assert top[14] not in " ⠀"
    assert top[29] == "×"
    assert chart[0].startswith("9 ┤")
    assert chart[-1].split() == ["step", "0", "19999"]


def test_a_chart_of_nothing_finite_says_so() -> None:
    steps, values = np.arange(3), np.full(3, math.nan)
    assert terminal_chart(steps, values) == ["3 values, none of them finite"]
    assert sparkline(values) == "×××"
    assert sparkline(np.array([])) == ""
