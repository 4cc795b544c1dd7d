"""What `Run` records, refuses and counts; a run's life."""

import hashlib
import json
import math
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.unit.telemetry.records import triples
from tinsmith import telemetry
from tinsmith.core.errors import UserError
from tinsmith.telemetry import EventSpec, Run, RunStatus, TelemetryWarning, events, strictly
from tinsmith.telemetry.model import Batch, Event, KeyInfo


def logged(run: Run) -> list[tuple[str, int, float]]:
    assert run.flush()
    return triples(run.store.points(run.run_id))


def recorded(run: Run, pattern: str = "*") -> list[Event]:
    assert run.flush()
    found = run.store.events(run.run_id, pattern)
    return [one for one in found if not one.name.startswith("run.")]


def log_each(run: Run, *calls: dict[Any, Any]) -> None:
    for step, metrics in enumerate(calls):
        run.log(metrics, step=step)
    run.flush()


def emit_each(run: Run, *emitted: EventSpec | str) -> None:
    for event in emitted:
        run.event(event)
        run.flush()


# ---------------------------------------------------------------------------------------- values


def test_logged_numbers_are_read_back_by_step(run: Run) -> None:
    run.log({"a": 1.5, "b": 2}, step=3)
    run.log({"a": 2.5})
    run.log({"a": True})
    assert logged(run) == [("a", 3, 1.5), ("a", 4, 2.5), ("a", 5, 1.0), ("b", 3, 2.0)]
    assert run.step == 5


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.array(3.0), 3.0),
        (np.array([[4]]), 4.0),
        (np.bool_(True), 1.0),
        (Decimal("1.25"), 1.25),
        (Fraction(1, 4), 0.25),
        (2**60, float(2**60)),
        (math.inf, math.inf),
    ],
)
def test_everything_that_is_one_number_is_kept(run: Run, value: Any, kept: float) -> None:
    run.log({"v": value}, step=0)
    assert logged(run) == [("v", 0, kept)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0.5", "is text"),
        (b"1", "is text"),
        (None, "is a NoneType, not a number"),
        (1 + 2j, "is complex"),
        (np.complex64(1), "is complex"),
        (np.zeros(3), "has 3 elements: log a statistic of it"),
        (np.zeros(0), "has 0 elements"),
        ([1.0], "is a list, not a number"),
        ({"x": 1}, "is a dict, not a number"),
        (10**400, "beyond the range of floats"),
        (np.array("x"), "cannot become a number"),
    ],
)
def test_what_is_no_number_is_refused_alone_counted_and_told_once(
    run: Run, value: Any, reason: str
) -> None:
    with pytest.warns(TelemetryWarning, match=reason) as told:
        log_each(run, *({"good": 1.0, "bad": value} for _ in range(3)))
    assert len(told) == 1
    assert [key for key, _, _ in logged(run)] == ["good"] * 3
    assert run.health == {"refused_values": 3}


def test_where_mistakes_are_errors_a_refused_value_raises(run: Run) -> None:
    with strictly(), pytest.raises(UserError, match="log: 'bad' is not recorded: is text"):
        run.log({"bad": "x"})


def test_an_object_that_raises_when_it_is_read_is_refused(run: Run) -> None:
    class Mean:
        shape = ()

        @property
        def device(self) -> str:
            raise RuntimeError("gone")

    with pytest.warns(TelemetryWarning, match="cannot be read: RuntimeError: gone"):
        run.log({"a": Mean(), "b": 1.0}, step=0)
    assert logged(run) == [("b", 0, 1.0)]


def test_later_changes_of_what_was_logged_do_not_reach_the_record(run: Run) -> None:
    metrics, array = {"a": 1.0}, np.zeros(())
    metrics["b"] = array  # type: ignore[assignment]
    run.log(metrics, step=0)
    metrics["a"] = 9.0
    array += 5
    assert logged(run) == [("a", 0, 1.0), ("b", 0, 0.0)]


def test_a_tensor_is_read_where_it_lies() -> None:
    torch = pytest.importorskip("torch")
    from tinsmith.telemetry.payload import Refused, settle, to_float

    tensor = torch.tensor([2.5], requires_grad=True)
    assert settle(tensor) == 2.5
    meta = torch.zeros((), device="meta")  # on a device, as far as types go
    held = settle(meta)
    assert held is not meta
    assert not isinstance(held, float)
    with pytest.raises(Refused, match="cannot become a number"):
        to_float(held)
    with pytest.raises(Refused, match="has 2 elements"):
        settle(torch.zeros(2, device="meta"))
    with pytest.raises(Refused, match="is complex"):
        settle(torch.zeros((), dtype=torch.complex64))


# ----------------------------------------------------------------------------------- steps, names


def test_steps_may_come_backwards_and_again_and_the_last_value_wins(run: Run) -> None:
    for step, value in ((5, 1.0), (3, 2.0), (5, 3.0), (-2, 4.0)):
        run.log({"a": value}, step=step)
    run.log({"a": 5.0})
    assert logged(run) == [("a", -2, 4.0), ("a", -1, 5.0), ("a", 3, 2.0), ("a", 5, 3.0)]


def test_any_whole_number_is_a_step(run: Run) -> None:
    for step in (np.int64(2), 3.0, np.float32(4), True):
        run.log({"a": 1.0}, step=step)  # type: ignore[arg-type]
    run.log({"a": 1.0}, step=np.int64(2**53 + 1))  # type: ignore[arg-type]
    assert [step for _, step, _ in logged(run)] == [1, 2, 3, 4, 2**53 + 1]


@pytest.mark.parametrize("step", [1.5, "7", math.nan, math.inf, [1], 2**63, -(2**63) - 1])
def test_a_step_that_is_no_whole_number_of_64_bits_is_refused(run: Run, step: Any) -> None:
    with pytest.warns(TelemetryWarning, match="step="):
        run.log({"a": 1.0}, step=step)
    assert logged(run) == []
    assert sum(run.health.values()) == 1


def test_metrics_that_are_no_map_are_refused(run: Run) -> None:
    with pytest.warns(TelemetryWarning, match="must be a map of numbers"):
        run.log([1.0])  # type: ignore[arg-type]
    assert logged(run) == []


def test_names_with_slashes_blanks_and_unicode_are_kept(run: Run) -> None:
    names = ["a/b/c", "ünï 😀", "x" * 1024, "50%", "nbsp\u00a0", "-", "a.b[0]"]
    run.log(dict.fromkeys(names, 1.0), step=0)
    assert {key for key, _, _ in logged(run)} == set(names)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "must not be empty"),
        ("  ", "must not be empty"),
        ("x" * 1025, "at most 1,024 characters, this one 1,025"),
        ("a\nb", "control characters"),
        ("a\0", "control characters"),
        ("\ud800", "surrogate"),
        (7, "must be text, not int"),
    ],
)
def test_a_name_that_cannot_be_kept_is_refused_alone(run: Run, name: Any, reason: str) -> None:
    with pytest.warns(TelemetryWarning, match=reason):
        log_each(run, {name: 1.0, "good": 2.0})
    assert logged(run) == [("good", 0, 2.0)]
    assert run.health == {"refused_values": 1}


def test_ten_thousand_names_in_one_call_are_no_trouble(run: Run) -> None:
    run.log({f"layer/{i}": i for i in range(10_000)}, step=0)
    assert len(logged(run)) == 10_000
    assert run.health == {}


def test_a_run_has_a_bound_of_different_names(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinsmith.telemetry.gathering.MAX_KEYS", 3)
    with pytest.warns(TelemetryWarning, match="at most 3 different names"):
        log_each(run, *({f"k{i}": 1.0 for i in range(5)} for _ in range(2)))
    assert {key for key, _, _ in logged(run)} == {"k0", "k1", "k2"}
    assert run.health == {"refused_values": 4}


# ------------------------------------------------------------------------------------------ events


def test_an_event_keeps_measurements_and_metadata(run: Run) -> None:
    run.event(
        events.CHECKPOINT_SAVED,
        {"bytes": np.int64(10), "duration_ms": math.inf},
        metadata={"path": Path("a/b"), "kind": {"x": (1, {2})}, "nan": math.nan},
        step=4,
    )
    (event,) = recorded(run)
    assert event.name == "checkpoint.saved"
    assert event.measurements == {"bytes": 10.0, "duration_ms": math.inf}
    assert event.metadata == {"path": "a/b", "kind": {"x": [1, [2]]}, "nan": "nan"}
    assert (event.step, event.rank, event.attempt) == (4, 0, 1)


def test_an_unregistered_event_raises_in_tests_and_is_kept_with_one_warning_else(run: Run) -> None:
    message = "event='train.stepp': unknown.*did you mean 'train.step'.*or register it"
    with strictly(), pytest.raises(UserError, match=message):
        run.event("train.stepp")
    with pytest.warns(TelemetryWarning, match=message) as told:
        emit_each(run, "train.stepp", "train.stepp")
    assert len(told) == 1
    assert len(recorded(run)) == 2
    assert run.health == {"mistakes": 2}


def test_a_measurement_without_a_known_unit_raises_in_tests(run: Run) -> None:
    with strictly(), pytest.raises(UserError, match="nobody knows the unit of measurement 'durat"):
        run.event(events.TRAIN_EXCEPTION, {"duration": 3})
    with strictly():
        run.event(events.TRAIN_EXCEPTION, {"lost_ms": 3})
    assert [event.measurements for event in recorded(run)] == [{"lost_ms": 3.0}]


def test_metadata_is_cut_and_counted_and_secrets_go(run: Run) -> None:
    long = "x" * 10_000_000
    with pytest.warns(TelemetryWarning, match="was cut"):
        run.event(
            events.TRAIN_EXCEPTION,
            metadata={"message": long, "api_key": "tml-1", "max_tokens": 3, "deep": {"token": "t"}},
        )
    (event,) = recorded(run)
    text = str(event.metadata["message"])
    assert len(text) < 66_000
    assert text.endswith("... [9,934,464 more characters were cut]")
    assert event.metadata["api_key"] == "<redacted>"
    assert event.metadata["max_tokens"] == 3
    assert event.metadata["deep"] == {"token": "<redacted>"}
    assert run.health == {"cut_texts": 1}


def test_a_text_of_ten_megabytes_is_a_sample_as_it_is(run: Run) -> None:
    run.log({"a": 1.0}, step=7)
    run.sample("p", "0123456789" * 1_000_000, rewards={"r": math.nan}, token_logprobs=[-1, -0.5])
    assert run.flush()
    (sample,) = run.store.samples(run.run_id)
    assert sample.completion == "0123456789" * 1_000_000
    assert (sample.step, sample.token_logprobs) == (7, (-1.0, -0.5))
    assert math.isnan(sample.rewards["r"])


def test_texts_that_stores_cannot_keep_become_such_that_they_can(run: Run) -> None:
    run.sample("a\0b", "half \ud83d of a pair")
    assert run.flush()
    (sample,) = run.store.samples(run.run_id)
    assert (sample.prompt, sample.completion) == ("a\ufffdb", "half ? of a pair")


def test_metadata_of_any_shape_becomes_json(run: Run) -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    with pytest.warns(TelemetryWarning, match="was cut"):
        run.event(
            events.TRAIN_EXCEPTION,
            metadata={
                "loop": loop,
                "array": np.arange(3),
                "object": object(),
                "big": 2**70,
                3: "number",
                "long": range(5),
                "list": list(range(20_000)),
            },
        )
    (event,) = recorded(run)
    assert json.dumps(event.metadata)
    assert event.metadata["array"] == [0, 1, 2]
    assert event.metadata["big"] == str(2**70)
    assert event.metadata["3"] == "number"
    assert len(event.metadata["list"]) == 10_000  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ other records


def test_a_file_is_an_artifact_by_its_content(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"abc")
    run.artifact(file, kind="checkpoint", step=2)
    run.artifact("s3://bucket/x.bin", digest="0" * 64)
    assert run.flush()
    by_name = {one.name: one for one in run.store.artifacts(run.run_id)}
    assert by_name["w.bin"].digest == hashlib.sha256(b"abc").hexdigest()
    assert (by_name["w.bin"].num_bytes, by_name["w.bin"].uri) == (3, file.as_uri())
    assert by_name["x.bin"].uri == "s3://bucket/x.bin"


def test_a_folder_changes_its_digest_with_any_file_and_name(run: Run, tmp_path: Path) -> None:
    from tinsmith.telemetry.artifacts import digest_of

    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    first = digest_of(folder)
    (folder / "a").rename(folder / "b")
    second = digest_of(folder)
    (folder / "b").write_bytes(b"2")
    assert len({first.digest, second.digest, digest_of(folder).digest}) == 3
    assert first.num_bytes == 1


def test_an_artifact_that_is_not_there_is_told_and_not_recorded(run: Run, tmp_path: Path) -> None:
    with pytest.warns(TelemetryWarning, match="No such file"):
        run.artifact(tmp_path / "none")
    assert run.flush()
    assert run.store.artifacts(run.run_id) == []


def test_an_alert_is_raised_and_resolved(run: Run) -> None:
    alert = run.alert("nan", "loss is not finite", key="loss", step=3, score=math.inf)
    run.resolve(alert)
    assert run.flush()
    (stored,) = run.store.alerts(run.run_id)
    assert (stored.rule, stored.step) == ("nan", 3)
    assert stored.closed_ns is not None
    assert [event.name for event in recorded(run)] == ["alert.raised", "alert.resolved"]


def test_keys_are_described_and_the_configuration_grows(run: Run) -> None:
    run.define("loss", unit="nats", goal="min")
    run.update_config({"lr": 0.1, "password": "x"})
    run.update_config({"lr": 0.2})
    assert run.flush()
    assert run.store.keys(run.run_id) == [KeyInfo(key="loss", unit="nats", goal="min")]
    assert run.store.get_run(run.run_id).config == {"lr": 0.2, "password": "<redacted>"}


def test_subscribers_hear_matching_events_and_one_that_raises_stays(run: Run) -> None:
    heard: list[str] = []

    def hear(event: Event) -> None:
        heard.append(event.name)
        raise RuntimeError("broken handler")

    end = run.subscribe("checkpoint.*", hear)
    batches: list[Batch] = []
    run.watch(batches.append)
    with pytest.warns(TelemetryWarning, match="a subscriber raised RuntimeError: broken handler"):
        emit_each(run, events.CHECKPOINT_SAVED, events.TRAIN_EXCEPTION, events.CHECKPOINT_LOADED)
    end()
    run.event(events.CHECKPOINT_DELETED)
    run.log({"a": 1.0}, step=0)
    run.flush()
    assert heard == ["checkpoint.saved", "checkpoint.loaded"]
    assert sum(len(batch.points) for batch in batches) == 1
    assert run.health == {"failed_watchers": 2}


# ---------------------------------------------------------------------------------------- its life


def test_a_paused_run_records_nothing_counts_it_and_knows_its_times(run: Run) -> None:
    run.log({"a": 1.0}, step=0)
    run.pause()
    run.pause()
    assert run.status is RunStatus.PAUSED
    run.log({"a": 2.0, "b": 1.0}, step=1)
    run.event(events.TRAIN_EXCEPTION)
    assert run.flush()
    assert run.store.get_run(run.run_id).status is RunStatus.PAUSED
    run.resume()
    run.log({"a": 3.0}, step=2)
    run.finish()
    assert triples(run.store.points(run.run_id)) == [("a", 0, 1.0), ("a", 2, 3.0)]
    assert run.health == {"skipped_while_paused": 3}
    kinds = [(one.kind, one.ended_ns is not None) for one in run.store.intervals(run.run_id)]
    assert kinds == [("active", True), ("paused", True), ("active", True)]
    assert run.times.wall_s == pytest.approx(run.times.active_s + run.times.paused_s)
    names = [event.name for event in run.store.events(run.run_id)]
    assert names == ["run.started", "run.paused", "run.resumed", "run.finished"]


def test_a_finished_run_says_so_and_refuses_more(run: Run) -> None:
    run.log({"a": 1.0}, step=0)
    run.finish(exit_code=0)
    run.finish("failed")
    assert run.store.get_run(run.run_id).status is RunStatus.FINISHED
    (attempt,) = run.store.attempts(run.run_id)
    assert attempt.exit_code == 0
    assert attempt.ended_ns is not None
    with pytest.warns(TelemetryWarning, match="is finished; what comes now is not recorded"):
        run.log({"a": 2.0}, step=1)
    assert len(run.store.points(run.run_id)) == 1
    assert run.health == {"after_finish": 1}


def test_a_block_that_raises_ends_the_run_as_failed(tmp_path: Path) -> None:
    run = telemetry.init(store=tmp_path)
    run.log({"a": 1.0}, step=0)
    with pytest.raises(KeyError), run:
        raise KeyError("x")
    assert run.store.get_run(run.run_id).status is RunStatus.FAILED
    assert run.store.events(run.run_id)[-1].name == "run.failed"
    assert len(run.store.points(run.run_id)) == 1


def test_health_is_kept_with_the_attempt(tmp_path: Path) -> None:
    with strictly(False), warnings.catch_warnings():
        warnings.simplefilter("ignore", TelemetryWarning)
        with telemetry.init(store=tmp_path) as run:
            run.log({"a": "x"}, step=0)
    (attempt,) = run.store.attempts(run.run_id)
    assert attempt.health == {"refused_values": 1}


def test_a_clock_that_jumps_moves_times_and_loses_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = run.record.created_ns
    hour = 3600 * 10**9
    jumps = iter([now, now + hour, now - hour, now + 1])
    with monkeypatch.context() as patch:
        patch.setattr("tinsmith.telemetry.run.time_ns", lambda: next(jumps))
        for step in range(4):
            run.log({"a": float(step)}, step=step)
    assert run.flush()
    found = run.store.points(run.run_id)
    assert found.step.tolist() == [0, 1, 2, 3]
    assert found.ts_ns.tolist() == [now, now + hour, now - hour, now + 1]
    assert run.health == {}


def test_subscribing_as_a_function_of_the_module_hears_the_current_run(run: Run) -> None:
    heard: list[Event] = []
    end = telemetry.subscribe("batch.*", heard.append)
    telemetry.event(events.BATCH_BUILT)
    run.flush()
    end()
    assert [event.name for event in heard] == ["batch.built"]


class Hostile:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__

    def __float__(self) -> float:
        raise ValueError("no")


@pytest.mark.parametrize(
    "record",
    [
        lambda run: run.event(Hostile()),
        lambda run: run.event(events.CPU_SAMPLE, [1]),
        lambda run: run.event(events.CPU_SAMPLE, metadata=[1]),
        lambda run: run.event(events.CPU_SAMPLE, step="x"),
        lambda run: run.sample("p", "c", token_logprobs=["x"]),
        lambda run: run.sample(Hostile(), "c"),
        lambda run: run.artifact(Hostile()),
        lambda run: run.define("", unit="s"),
        lambda run: run.define("k", goal="maximum"),
        lambda run: run.update_config(3),
        lambda run: run.log({"a": Hostile()}),
        lambda run: run.log(Hostile()),
    ],
)
def test_nothing_that_is_handed_over_raises_into_the_loop(run: Run, record: Any) -> None:
    with pytest.warns(TelemetryWarning):
        record(run)
    assert run.flush()
    assert sum(run.health.values()) == 1
    assert run.trouble is None
    run.log({"a": 1.0}, step=0)
    assert ("a", 0, 1.0) in logged(run)


def test_metadata_that_cannot_be_read_says_so(run: Run) -> None:
    run.event(events.CPU_SAMPLE, metadata={"object": Hostile(), "deep": {"x": Hostile()}})
    (event,) = recorded(run)
    assert event.metadata == {
        "object": "<unreadable Hostile: RuntimeError>",
        "deep": {"x": "<unreadable Hostile: RuntimeError>"},
    }


def complain(run: telemetry.Run, how: str) -> None:
    """Hand a run something that it cannot keep."""
    hostile: Any = Hostile()
    match how:
        case "name of a value":
            run.log({hostile: 1.0}, step=1)
        case "value":
            run.log({"bad": hostile}, step=1)
        case "step":
            run.log({"bad": 1.0}, step=hostile)
        case "step after the last":
            run.log({"bad": 1.0}, step=2**63 - 1)
            run.log({"bad": 1.0})
        case "unit":
            run.define("loss", unit=hostile)
        case "metadata":
            run.event(events.BATCH_BUILT, {"rows": 1}, metadata={"token": np.ones(2), hostile: 1})
        case "score":
            run.alert("rule", "message", score=cast("Any", 1j), key=hostile)
        case _:
            run.alert("rule", "message", severity=cast("Any", how))


@pytest.mark.filterwarnings("ignore::tinsmith.telemetry.TelemetryWarning")
@pytest.mark.parametrize(
    "how",
    "name of a value|value|step|step after the last|unit|metadata|score|severity".split("|"),  # noqa: SIM905
)
def test_what_cannot_be_kept_takes_nothing_else_along(run: Run, how: str) -> None:
    run.log({"before": 1.0}, step=0)
    complain(run, how)
    run.log({"after": 1.0}, step=2)
    run.finish()
    assert {"before", "after"} <= set(run.store.points(run.run_id).names)
    assert run.store.get_run(run.run_id).status is RunStatus.FINISHED
    assert not {"failed_writes", "lost_points", "lost_records"} & run.health.keys()
