"""The run of a trainer: who begins it, who ends it, and what a training that stops leaves."""

from pathlib import Path

import pytest

from tinsmith import telemetry
from tinsmith.telemetry import RunStatus, TelemetryWarning, events
from tinsmith.telemetry.integrations.trainer_run import TrainerRun, size_of, trainer_metric_name
from tinsmith.telemetry.session import RunSettings


def begun(folder: Path, **place: object) -> TrainerRun:
    follow = TrainerRun("p", "n", RunSettings(store=folder))
    follow.begin(config={"lr": 0.1}, **place)  # type: ignore[arg-type]
    follow.enter(events.TRAIN_RUN, announce=True)
    return follow


def status(folder: Path) -> list[RunStatus]:
    return [run.status for run in telemetry.open_store(folder).list_runs()]


def test_a_run_stays_open_after_its_training_for_evaluations(tmp_path: Path) -> None:
    follow = begun(tmp_path)
    follow.leave(events.TRAIN_RUN)
    assert follow.run is not None
    assert not follow.is_training
    follow.close()
    assert follow.run is None
    assert status(tmp_path) == [RunStatus.FINISHED]


def test_a_training_that_stops_without_a_word_has_failed_when_the_next_begins(
    tmp_path: Path,
) -> None:
    begun(tmp_path)
    second = begun(tmp_path)
    assert set(status(tmp_path)) == {RunStatus.FAILED, RunStatus.RUNNING}
    second.leave(events.TRAIN_RUN)
    second.close()
    assert set(status(tmp_path)) == {RunStatus.FAILED, RunStatus.FINISHED}


def test_an_error_is_an_event_and_ends_every_span(tmp_path: Path) -> None:
    follow = begun(tmp_path)
    follow.enter(events.TRAIN_EPOCH, epoch=0)
    run = follow.run
    assert run is not None
    follow.fail(ValueError("no data"))
    found = {event.name: event for event in run.store.events(run.run_id)}
    assert found["train.exception"].metadata == {"error": "ValueError", "message": "no data"}
    assert {"train.run", "train.epoch", "train.run.exception", "train.epoch.exception"} <= set(
        found
    )
    assert telemetry.current_trace() is None
    assert run.status is RunStatus.FAILED


def test_leaving_a_span_leaves_what_is_open_within_it(tmp_path: Path) -> None:
    follow = begun(tmp_path)
    run = follow.run
    assert run is not None
    follow.enter(events.TRAIN_EPOCH)
    follow.enter(events.TRAIN_STEP)
    follow.leave(events.TRAIN_EPOCH)
    follow.leave(events.TRAIN_EPOCH)  # is not open any more: nothing happens
    assert follow.is_training
    follow.leave(events.TRAIN_RUN, num_steps=1)
    follow.close()
    found = {event.name: event for event in run.store.events(run.run_id, "train.*")}
    assert found["train.step"].parent_id == found["train.epoch"].span_id
    assert found["train.epoch"].parent_id == found["train.run"].span_id
    assert found["train.run"].measurements["num_steps"] == 1


def test_the_callers_run_is_recorded_into_and_left_open(tmp_path: Path) -> None:
    with telemetry.init("mine", store=tmp_path) as mine:
        follow = begun(tmp_path / "other")
        assert follow.run is mine
        assert mine.record.config["lr"] == 0.1
        follow.close()
        assert mine.is_open
    assert not (tmp_path / "other").exists()


def test_a_resumed_training_is_another_attempt_of_its_run(tmp_path: Path) -> None:
    first = begun(tmp_path)
    run = first.run
    assert run is not None
    for step in range(4):
        run.log({"train/loss": 1.0}, step)
    first.leave(events.TRAIN_RUN)
    first.close()
    second = begun(tmp_path, run_id=run.run_id, resumed_from_step=1)
    second.leave(events.TRAIN_RUN)
    second.close()
    assert [one.resumed_from_step for one in run.store.attempts(run.run_id)] == [None, 1]
    assert run.store.points(run.run_id).step.tolist() == [0, 1]


def test_a_store_that_cannot_be_written_costs_the_record_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(TelemetryWarning, match="this training is not recorded"):
        follow = begun(tmp_path / "file")
    assert follow.run is not None
    assert follow.run.is_off
    follow.leave(events.TRAIN_RUN)
    follow.close()


def test_names_of_the_trainers_log_keep_what_it_says_apart() -> None:
    keys = ["loss", "train_loss", "eval_loss", "eval_chats_loss", "test_loss", "learning_rate"]
    expected = ["loss", "train_loss", "eval/", "eval/chats_", "test/", "learning_rate"]
    named = [trainer_metric_name(key) for key in keys]
    assert named == [
        name + "loss" if name.endswith(("/", "_")) else f"train/{name}" for name in expected
    ]
    assert len(set(named)) == len(keys)


def test_the_size_of_a_folder_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b").write_bytes(b"345")
    assert size_of(tmp_path) == 5
    assert size_of(tmp_path / "a") == 2
    assert size_of(tmp_path / "gone") == 0
