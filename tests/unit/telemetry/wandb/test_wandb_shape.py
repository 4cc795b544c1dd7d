"""The wandb-shaped module: a script does with it what it does with the real one, or is told why."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import tinsmith.telemetry.wandb as wandb
from tests.assets import REPOSITORY
from tests.unit.telemetry.exchange.test_importers import the_run, values
from tinsmith.core.errors import ConfigError, UnknownNameError, UserError
from tinsmith.telemetry import RunStatus, open_store
from tinsmith.telemetry.model import Event
from tinsmith.telemetry.wandb.values import flatten

PEER = REPOSITORY / "tests" / "golden" / "wandb_peer"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TINSMITH_RECORD", str(tmp_path / "runs"))
    yield
    wandb.finish()


def golden_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wandb_script", PEER / "wandb_script.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def logged(name: str) -> list[Event]:
    run = wandb.run
    assert run is not None
    run.recorded.flush()
    return run.recorded.store.events(run.id, name)


def points() -> list[tuple[str, int, float]]:
    run = wandb.run
    assert run is not None
    run.recorded.flush()
    return sorted(values(run.recorded.store.points(run.id)))


def test_one_script_records_what_the_real_wandb_records_and_the_step_that_it_drops() -> None:
    real = the_run(PEER / "script.wandb")
    golden_script().main(wandb)
    (run,) = open_store().list_runs()
    ours = values(open_store().points(run.run_id))
    assert set(ours) - set(values(real.points)) == {("loss", 3, 2.25)}
    assert set(values(real.points)) <= set(ours)
    for name in ("project", "name", "group", "job", "hypothesis", "tags", "config", "status"):
        assert getattr(run, name) == getattr(real.record, name), name


def test_a_table_and_a_histogram_are_events_with_their_data() -> None:
    wandb.init(project="p")
    table = wandb.Table(columns=["q"], data=[["one"]])
    table.add_data("two")
    table.add_column("n", [1, 2])
    assert table.get_column("n") == [1, 2]
    wandb.log({"t": table, "h": wandb.Histogram([1, 2, float("nan"), 2], num_bins=2)}, step=4)
    (kept,) = logged("table.logged")
    assert (kept.step, kept.measurements) == (4, {"n": 2})
    assert kept.metadata == {"key": "t", "columns": ["q", "n"], "rows": [["one", 1], ["two", 2]]}
    (histogram,) = logged("histogram.logged")
    assert histogram.metadata == {"key": "h", "counts": [1, 2], "edges": [1.0, 1.5, 2.0]}


def test_a_value_that_is_no_number_is_an_event() -> None:
    wandb.init(project="p")
    wandb.log({"note": "hello", "list": [1, 2], "loss": np.float32(0.5)})
    assert [event.metadata for event in logged("value.logged")] == [
        {"key": "note", "value": "hello"},
        {"key": "list", "value": [1, 2]},
    ]
    assert points() == [("loss", 0, 0.5)]


def test_a_step_that_goes_back_is_kept_and_does_not_move_the_open_one() -> None:
    wandb.init(project="p")
    wandb.log({"a": 1}, step=5)
    wandb.log({"a": 2}, step=3, commit=True)
    wandb.log({"a": 3})
    wandb.log({"a": 4})
    assert points() == [("a", 3, 2.0), ("a", 5, 3.0), ("a", 6, 4.0)]


def test_a_setting_changes_only_where_that_is_allowed() -> None:
    wandb.init(config={"lr": 0.1})
    wandb.config.lr = 0.1
    with pytest.raises(ConfigError, match=r"lr=0\.1 is set and would become 0\.2"):
        wandb.config.lr = 0.2
    wandb.config.update({"lr": 0.2}, allow_val_change=True)
    wandb.config.setdefaults({"lr": 9, "batch": 8})
    assert dict(wandb.config.items()) == {"lr": 0.2, "batch": 8}
    run = wandb.run
    assert run is not None
    run.finish()
    assert open_store().list_runs()[0].config == {"lr": 0.2, "batch": 8}


def test_the_summary_is_the_last_value_or_what_was_asked_for() -> None:
    wandb.init()
    wandb.define_metric("eval/*", summary="min")
    for value in (3.0, 1.0, 2.0):
        wandb.log({"loss": value, "eval": {"loss": value}, "score": value})
    wandb.summary["score"] = 10.0
    wandb.log({"score": 4.0})
    expected = {"loss": 2.0, "eval/loss": 1.0, "score": 10.0}
    assert wandb.summary.as_dict() == expected
    run = wandb.run
    assert run is not None
    wandb.finish()
    assert run.recorded.store.events(run.id, "summary.updated")[-1].metadata == expected


def test_an_exit_code_makes_a_run_failed() -> None:
    wandb.init()
    wandb.finish(exit_code=3)
    assert wandb.run is None
    assert open_store().list_runs()[0].status is RunStatus.FAILED
    with pytest.raises(ValueError, match="boom"), wandb.init():
        raise ValueError("boom")
    assert {run.status for run in open_store().list_runs()} == {RunStatus.FAILED}


def test_a_run_is_resumed_by_its_id_at_the_next_step() -> None:
    for resume, is_resumed in (("allow", False), ("must", True), (True, True)):
        run = wandb.init(id="one", resume=resume)
        assert run.resumed is is_resumed
        wandb.log({"loss": 1.0})
        wandb.finish()
    assert open_store().points("one").step.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="exists already, and resume='never'"):
        wandb.init(id="one", resume="never")
    with pytest.raises(UnknownNameError):
        wandb.init(id="another", resume="must")
    with pytest.raises(ConfigError, match="which run is not said"):
        wandb.init(resume=True)


def test_an_open_run_is_what_a_second_init_returns() -> None:
    assert wandb.init() is wandb.init()


def test_disabled_records_nothing(tmp_path: Path) -> None:
    assert wandb.init(mode="disabled").disabled
    wandb.log({"loss": 1.0})
    wandb.finish()
    assert not (tmp_path / "runs").exists()


def test_variables_of_wandb_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_NAME", "named")
    monkeypatch.setenv("WANDB_TAGS", "a,b")
    run = wandb.init(name="said")
    assert (run.project, run.name, run.tags) == ("theirs", "said", ("a", "b"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"projct": "p"}, "setting of wandb.init='projct': unknown"),
        ({"mode": "shared"}, "mode='shared': unknown; known: online, offline, disabled"),
        ({"resume": "maybe"}, "resume='maybe': unknown"),
        ({"config": 3}, "config=3: must be a map"),
        ({"settings": wandb.Settings(no_such=1)}, "setting='no_such': unknown"),
    ],
)
def test_what_init_does_not_know_is_an_error_that_names_it(
    given: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        wandb.init(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["watch", "save", "Image", "Api", "sweep", "plot", "Artifact"])
def test_what_is_not_here_names_the_way_to_go(name: str) -> None:
    assert not hasattr(wandb, name)
    with pytest.raises(ConfigError, match=f"wandb.{name}: is not supported") as caught:
        getattr(wandb, name)
    assert caught.value.hint


def test_calls_without_a_run_say_so() -> None:
    assert wandb.run is None
    for call in (lambda: wandb.log({"a": 1}), lambda: wandb.config, lambda: wandb.summary):
        with pytest.raises(ConfigError, match="no run is open"):
            call()


def test_an_alert_is_kept_with_its_level() -> None:
    wandb.init()
    wandb.alert("low", "accuracy is low", level=wandb.AlertLevel.WARN)
    run = wandb.run
    assert run is not None
    run.recorded.flush()
    (alert,) = run.recorded.store.alerts(run.id)
    assert (alert.rule, alert.message, alert.severity) == ("low", "accuracy is low", "warning")
    with pytest.raises(UnknownNameError, match="level"):
        wandb.alert("low", "x", level="loud")


def test_tables_and_histograms_say_what_is_wrong_with_their_data() -> None:
    with pytest.raises(UserError, match="row 0 has 1 cells for 2 columns"):
        wandb.Table(columns=["a", "b"], data=[["x"]])
    with pytest.raises(UserError, match=r"num_bins=0: must be 1\.\.512"):
        wandb.Histogram([1.0], num_bins=0)
    with pytest.raises(UserError, match="2 counts need 3 edges, not 2"):
        wandb.Histogram(np_histogram=([1, 2], [0, 1]))
    wandb.init()
    with pytest.raises(UserError, match="table 't' has more than 10,000 cells"):
        wandb.log({"t": wandb.Table(columns=["a"], data=[[1]] * 10_001)})


def test_nested_maps_are_flattened_and_others_stay() -> None:
    assert flatten({"a/b": 1, "c": {"d": {"e": 2}}}) == {"a/b": 1, "c/d/e": 2}
