"""The registry of events: its rules, its names, and that nobody writes a name anywhere else."""

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.assets import REPOSITORY
from tests.conftest import GOLDEN
from tinsmith.core.errors import AlreadyExistsError, ConfigError, UserError
from tinsmith.telemetry import EventSpec, Measurement, catalogue, events, register, registered
from tinsmith.telemetry.catalogue import UNITS, Registry, check_emission, unit_of_name

SPEC_NAMES = """
run.started run.heartbeat run.paused run.resumed run.finished run.failed run.reattached
train.step train.epoch train.exception checkpoint.saved checkpoint.loaded checkpoint.deleted
eval.started eval.sample eval.finished rollout.finished group.finished advantage.computed
policy.updated dpo.step distill.step regularizer.computed llm.request tool.call ensemble.predict
ensemble.vote hedge.request hedge.fired inference.request health_check.completed model.loaded
model.unloaded rollout.promoted rollout.rolled_back pipeline.run stage.run explanation.generated
attack.executed dataset.loaded batch.built sample.dropped gpu.sample cpu.sample system.oom
alert.raised alert.resolved
""".split()  # noqa: SIM905 - a list to read

CRUCIBLE_NAMES = """
req_llm.request.start req_llm.request.stop req_llm.request.exception ensemble.prediction.start
ensemble.prediction.stop ensemble.vote.completed hedging.request.start hedging.request.duplicated
hedging.request.stop crucible_train.training.start crucible_train.training.stop
crucible_train.training.exception crucible_train.epoch.start crucible_train.epoch.stop
crucible_train.batch.stop crucible_train.checkpoint.saved crucible_deployment.inference.start
crucible_deployment.inference.stop crucible_deployment.inference.exception
crucible_deployment.health_check.completed crucible_framework.pipeline.start
crucible_framework.pipeline.stop crucible_framework.stage.start crucible_framework.stage.stop
causal_trace.event.created altar.tool.start altar.tool.stop crucible_xai.explanation.generated
crucible_adversary.attack.executed
""".split()  # noqa: SIM905 - a list to read


def own_events() -> list[EventSpec]:
    """The constants of `events`; other tests may have registered more."""
    return [value for value in vars(events).values() if isinstance(value, EventSpec)]


def test_every_event_of_the_catalogue_is_registered() -> None:
    assert set(SPEC_NAMES) <= {spec.name for spec in own_events()}


def test_every_event_of_crucible_telemetry_has_one_here() -> None:
    known = [name for spec in own_events() for name in spec.also_known_as]
    assert set(CRUCIBLE_NAMES) <= set(known)
    assert len(known) == len(set(known))


def test_every_constant_is_named_as_its_event() -> None:
    for name, value in vars(events).items():
        if isinstance(value, EventSpec):
            assert name == value.name.replace(".", "_").upper()


def test_every_event_says_what_it_is_and_every_measurement_has_a_unit() -> None:
    for spec in own_events():
        assert spec.description.endswith(".")
        assert all(measurement.unit in UNITS for measurement in spec.measurements)


def test_a_span_has_two_moments() -> None:
    for spec in own_events():
        if spec.is_span:
            assert catalogue.find(spec.name + ".started") == spec.started
            assert catalogue.find(spec.name + ".exception") == spec.exception


def literals(path: Path) -> set[str]:
    """Texts of a source file, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    }


def test_names_of_events_stand_in_the_catalogue_and_nowhere_else() -> None:
    names = {spec.name for spec in own_events()}
    home = REPOSITORY / "src/tinsmith/telemetry/events.py"
    assert names <= literals(home)
    elsewhere = {
        f"{path.relative_to(REPOSITORY)}: {name}"
        for path in (REPOSITORY / "src").rglob("*.py")
        if path != home and not path.name.endswith("_pb2.py")
        for name in literals(path) & names
    }
    assert elsewhere == set()


def test_fields_of_an_event_change_only_with_its_version(
    golden: Callable[[str, Any], None],
) -> None:
    told = {
        spec.name: {
            "version": spec.version,
            "measurements": {one.name: one.unit for one in spec.measurements},
            "metadata": list(spec.metadata),
            "is_span": spec.is_span,
        }
        for spec in own_events()
    }
    path = GOLDEN / "events.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, fields in told.items():
        before = known.get(name, fields)
        assert fields == before or fields["version"] > before["version"], (
            f"{name}: its fields changed: raise its version"
        )
    golden("events.json", told)


# --------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    "name", ["step", "Train.step", "train.", "a.b.c.d.e", "a b.c", "a-b.c", ""]
)
def test_a_name_outside_the_convention_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"must be <domain>\.<object>"):
        EventSpec(name=name, category="x", description="x")


def test_a_dimension_without_its_unit_in_the_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="call it duration_ms"):
        Measurement("duration", "ms")
    with pytest.raises(ConfigError, match="is in ms, so its name must end in it"):
        Measurement("duration_us", "ms")
    with pytest.raises(UserError, match="unit='milli': unknown"):
        Measurement("duration_ms", "milli")
    with pytest.raises(ConfigError, match="must be lower-case"):
        Measurement("Loss", "1")


def test_a_measurement_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="names a measurement twice"):
        EventSpec(
            name="a.b",
            category="x",
            description="x",
            measurements=(Measurement("n", "count"), Measurement("n", "1")),
        )


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("a_ms", "ms"),
        ("ms", "ms"),
        ("bytes", "bytes"),
        ("programs", None),
        ("loss", None),
        ("n_step", None),
    ],
)
def test_the_unit_of_a_name_is_its_last_word(name: str, unit: str | None) -> None:
    assert unit_of_name(name) == unit


def test_registering_the_same_again_is_nothing_and_something_else_an_error() -> None:
    registry = Registry()
    spec = EventSpec(name="a.b", category="x", description="x", is_span=True)
    assert registry.add(spec) is registry.add(spec)
    assert sorted(registry.specs) == ["a.b", "a.b.exception", "a.b.started"]
    with pytest.raises(AlreadyExistsError, match=r"event='a\.b': is registered already"):
        registry.add(EventSpec(name="a.b", category="x", description="y"))
    with pytest.raises(AlreadyExistsError, match=r"event='a\.b\.started'"):
        registry.add(EventSpec(name="a.b.started", category="x", description="mine"))


def test_users_register_their_own_and_find_them_by_pattern() -> None:
    spec = EventSpec(
        name="mylab_test.cleaned",
        category="data",
        description="x",
        measurements=(Measurement("num_rows", "count", is_required=True),),
    )
    register(spec)
    try:
        assert registered("mylab_test.*") == [spec]
        assert check_emission(spec.name, ["num_rows", "more_ms"]) is None
        error = check_emission(spec.name, [])
        assert "must measure num_rows" in str(error)
    finally:
        del catalogue._registry.specs[spec.name]
