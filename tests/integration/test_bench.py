"""`python -m bench` runs, compares like with like, and writes what it measured."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.batches import datums, equal_examples, num_tokens, ragged_examples
from bench.peer import IGNORED, collate
from bench.recorder import PEERS, PEERS_VARIABLE
from bench.results import Bound, Report, Row
from bench.table import BEGIN, END, write_readme
from bench.timing import Comparison, compare
from tests.assets import REPOSITORY

pytestmark = pytest.mark.integration

MACHINE = {"cpu": "a CPU", "cores": 2, "threads": 2, "versions": {"torch": "2"}, "date": "today"}


def run_bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def make_report(*rows: Row) -> Report:
    return Report({**MACHINE, "revision": "abc"}, {"quick": True}, list(rows), 60.0)


@pytest.mark.slow
def test_a_quick_run_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    words = ("--quick", "--model", "tiny", "--only", "imports", "--only", "training")
    done = run_bench(*words, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "import tinsmith" in done.stdout
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {"cpu", "cores", "threads", "versions", "date", "revision"} <= set(content["machine"])
    names = [row["name"] for row in content["rows"]]
    assert len(names) == 5
    for row in content["rows"]:
        assert row["error"] is None, row
        assert row["ours"] > 0
        assert row["met"] in (True, False)
    compared = [row for row in content["rows"] if row["ratio"] is not None]
    assert len(compared) == 3, "training at equal and at ragged lengths, and a custom loss"
    assert all(
        low <= row["ratio"] <= high for row in compared for low, high in [row["ratio_range"]]
    )


@pytest.mark.slow
def test_recorders_are_compared_where_they_are_installed_and_the_others_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PEERS_VARIABLE, raising=False)
    path = tmp_path / "results.json"
    done = run_bench("--quick", "--only", "recorder", "--json", str(path))
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert all(row["error"] is None and row["ours"] > 0 for row in rows)
    cells = {(row["name"], row["model"]) for row in rows}
    assert len(cells) == len(rows)
    for mode in ("async", "commit"):
        assert ("recorder, durable calls", mode) in cells
    assert ("recorder, part of a training step's time", "tiny") in cells
    for peer in PEERS:
        is_installed = importlib.util.find_spec(peer.tool) is not None
        assert (("recorder, durable calls", f"against {peer.name}") in cells) == is_installed
        if not is_installed:
            assert peer.name in done.stderr.partition("not compared: ")[2].splitlines()[0]


@pytest.mark.parametrize("words", [("--write-readme", "--quick"), ("--only", "nothing")])
def test_a_wrong_command_line_ends_with_status_2(words: tuple[str, ...]) -> None:
    assert run_bench(*words).returncode == 2


def test_a_report_survives_json_and_a_failed_measurement_shows(tmp_path: Path) -> None:
    report = make_report(
        Row("a", "m", "tokens/s", 2.0, 1.0, 2.0, (1.5, 2.5), Bound("at least", 1.5)),
        Row("b", "m", "s", error="RuntimeError: no"),
    )
    report.write(tmp_path / "report.json")
    again = Report.read(tmp_path / "report.json")
    assert again == report
    assert again.has_failures
    assert [row.met for row in again.rows] == [True, None]


def test_the_readme_changes_between_its_markers_only(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    report = make_report(Row("a", "m", "s", 0.5, target=Bound("at most", 0.3)))
    for _ in range(2):
        write_readme(report, readme)
        text = readme.read_text(encoding="utf-8")
        assert text.startswith(f"before\n{BEGIN}\n")
        assert text.endswith(f"{END}\nafter\n")
        assert text.count("| a | m | 0.5 s |  |  | ≤ 0.3 | missed |") == 1
        assert "old" not in text
    readme.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="bench:begin"):
        write_readme(report, readme)


def test_both_sides_take_turns_and_the_ratio_is_the_median_of_the_rounds() -> None:
    calls: list[str] = []
    compare(lambda: calls.append("ours"), lambda: calls.append("peer"), rounds=3)
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours"]
    row = Comparison([1.0, 2.0, 1.0], [2.0, 2.0, 5.0]).row(
        "x", "m", amount=10, unit="tokens/s", target=Bound("at least", 1.5)
    )
    assert (row.ours, row.peer, row.ratio, row.ratio_range) == (10, 5, 2.0, (1.0, 5.0))
    assert row.met


@pytest.mark.parametrize("examples", [equal_examples(3, 8, 64), ragged_examples(1, 64)])
def test_the_peer_gets_the_same_tokens_and_labels(examples: list) -> None:
    input_ids, attention_mask, labels = collate(examples)
    assert int(attention_mask.sum()) == num_tokens(examples)
    for row, datum in enumerate(datums(examples)):
        length = datum.model_input.length
        weights = datum.loss_fn_inputs["weights"].to_numpy()
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        assert input_ids[row, :length].tolist() == datum.model_input.to_ints()
        assert attention_mask[row].tolist() == [1] * length + [0] * (input_ids.shape[1] - length)
        expected = [t if w else IGNORED for t, w in zip(targets, weights, strict=True)]
        assert labels[row, :length].tolist() == expected
        assert set(labels[row, length:].tolist()) <= {IGNORED}
