"""A training loop records itself: metrics, steps, checkpoints, one line over kill and resume."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.conftest import MakeConfig
from tests.unit.training.fakes import FakeService, KilledError
from tests.unit.training.test_supervised import comparable
from tinsmith import telemetry
from tinsmith.telemetry import RunStatus, read_metrics
from tinsmith.telemetry.stores import SqliteStore
from tinsmith.training import run_supervised


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqliteStore:
    monkeypatch.setenv("TINSMITH_RECORD", str(tmp_path / "store"))
    return SqliteStore(tmp_path / "store")


def recorded_rows(store: SqliteStore, run_id: str, **choice: Any) -> list[dict[str, float]]:
    """The points of a run as rows of a metrics file, a row a step."""
    rows: dict[int, dict[str, float]] = {}
    for key, step, _, _, _, value in store.points(run_id, **choice).rows():
        rows.setdefault(step, {"step": step})[key] = value
    return [rows[step] for step in sorted(rows)]


def merged(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Rows of a metrics file, those of one step as one."""
    steps: dict[float, dict[str, float]] = {}
    for row in rows:
        steps.setdefault(row["step"], {}).update(row)
    return [steps[step] for step in sorted(steps)]


def test_what_the_metrics_file_has_is_recorded_with_units_and_events(
    make_config: MakeConfig, service: FakeService, store: SqliteStore
) -> None:
    with telemetry.strictly():
        result = run_supervised(make_config(project="mine"), service=service)
    (run,) = store.list_runs()
    assert (run.project, run.name, run.status) == ("mine", "run", RunStatus.FINISHED)
    assert (run.seed, run.config["learning_rate"]) == (1, 0.1)
    rows = read_metrics(result.run_dir / "metrics.jsonl")
    assert recorded_rows(store, run.run_id) == merged(rows)
    meanings = {info.key: (info.unit, info.goal) for info in store.keys(run.run_id)}
    assert meanings["eval/nll"] == ("nats", "min")
    assert meanings["time/step_s"] == ("s", None)
    assert meanings["throughput/tokens_per_s"] == ("tokens/s", None)
    steps = store.events(run.run_id, "train.step")
    assert [event.step for event in steps] == list(range(1, 10))
    assert len({event.trace_id for event in steps}) == 9
    assert {"loss", "lr", "tokens", "step_ms"} <= steps[0].measurements.keys()
    saved = store.events(run.run_id, "checkpoint.saved")
    assert [event.step for event in saved] == [2, 4, 6, 8, 9]
    assert saved[-1].metadata["kind"] == "final"
    assert [event.step for event in store.events(run.run_id, "eval.finished")] == [0, 3, 6, 9]


def test_a_run_killed_and_resumed_has_one_clean_line_and_both_attempts(
    make_config: MakeConfig, tmp_path: Path, store: SqliteStore
) -> None:
    whole = run_supervised(make_config(run_dir=tmp_path / "whole"), service=FakeService())
    service = FakeService(die_at="optim_step 8")
    with pytest.raises(KilledError):
        run_supervised(make_config(save_every=5), service=service)
    again = make_config(save_every=5, if_exists="resume")
    run_supervised(again, service=FakeService(saved=service.saved))
    run_id = (tmp_path / "run" / "recorded_run_id.txt").read_text().strip()
    expected = merged(read_metrics(whole.run_dir / "metrics.jsonl"))
    assert comparable(recorded_rows(store, run_id)) == comparable(expected)
    first, second = store.attempts(run_id)
    assert (first.status, second.status) == (RunStatus.FAILED, RunStatus.FINISHED)
    assert second.resumed_from_step == 5
    given_up = store.points(run_id, ["train/nll"], attempt=1)
    assert max(given_up.step.tolist()) > second.resumed_from_step
    assert len(store.list_runs()) == 2


def test_recording_can_be_turned_off_for_a_run_and_for_all(
    make_config: MakeConfig, tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_supervised(make_config(record=False), service=FakeService())
    monkeypatch.setenv("TINSMITH_RECORD", "off")
    run_supervised(make_config(run_dir=tmp_path / "other"), service=FakeService())
    assert store.list_runs() == []
    assert not (tmp_path / "run" / "recorded_run_id.txt").exists()


def test_a_loop_inside_a_run_of_the_callers_records_there(
    make_config: MakeConfig, store: SqliteStore
) -> None:
    with telemetry.init("study", "mine") as run:
        run_supervised(make_config(), service=FakeService())
        assert run.is_open
        run.log({"after": 1.0}, step=10)
    (found,) = store.list_runs()
    assert found.name == "mine"
    assert {"train/nll", "after"} <= {info.key for info in store.keys(found.run_id)}


def test_two_trainings_at_once_in_one_process_record_each_into_its_own_run(
    make_config: MakeConfig, tmp_path: Path, store: SqliteStore
) -> None:
    is_first_open, meeting = threading.Event(), threading.Barrier(2)

    async def meet(client: Any) -> Mapping[str, float]:
        is_first_open.set()
        meeting.wait(timeout=60)  # both runs are open at each evaluation
        return {}

    def train(name: str) -> None:
        config = make_config(run_dir=tmp_path / name)
        run_supervised(config, service=FakeService(), evaluators=[meet])

    threads = [threading.Thread(target=train, args=(name,)) for name in ("one", "other")]
    threads[0].start()
    assert is_first_open.wait(60)  # the other begins while one run is open
    threads[1].start()
    for thread in threads:
        thread.join(120)
    found = {run.name: run.run_id for run in store.list_runs()}
    assert set(found) == {"one", "other"}
    for name, run_id in found.items():
        rows = merged(read_metrics(tmp_path / name / "metrics.jsonl"))
        assert recorded_rows(store, run_id) == rows
        assert len(store.events(run_id, "train.step")) == 9


async def test_a_loop_started_in_a_running_event_loop_records_into_the_run_around_it(
    make_config: MakeConfig, store: SqliteStore
) -> None:
    with telemetry.init("study", "notebook"):
        run_supervised(make_config(), service=FakeService())
    (found,) = store.list_runs()
    assert found.name == "notebook"
    assert "train/nll" in {info.key for info in store.keys(found.run_id)}


def test_a_store_that_cannot_be_written_costs_the_record_and_not_the_run(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("TINSMITH_RECORD", str(tmp_path / "file" / "store"))
    with caplog.at_level(logging.WARNING):
        result = run_supervised(make_config(), service=FakeService())
    assert result.num_steps == 9
    assert caplog.text.count("this run is not recorded") == 1
