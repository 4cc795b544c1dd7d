"""The service records its work by default, in the traces of the requests that caused it."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.integration.service_process import make_data, wait_for_end
from tests.integration.test_embedded_service import create, ready
from tinsmith import telemetry
from tinsmith.client import ServiceClient
from tinsmith.telemetry import RunStatus, events, open_store
from tinsmith.types import AdamParams, ModelInput, SamplingParams

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]


def stop(home: Path) -> None:
    pid = ready(home)["pid"]
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGTERM)
        assert wait_for_end(pid)


def train(steps: int) -> list[str]:
    """Do training steps, each in a span, and return their trace ids."""
    traces = []
    with ServiceClient() as service:
        client = create(service)
        for step in range(steps):
            with telemetry.span(events.TRAIN_STEP, step=step) as span:
                client.forward_backward(make_data(), "cross_entropy").result(60)
                client.optim_step(AdamParams(learning_rate=1e-3)).result(60)
                sampler = client.save_weights_and_get_sampling_client()
                prompt = ModelInput.from_ints([1, 2, 3])
                sampler.sample(prompt, 2, SamplingParams(max_tokens=4)).result(60)
                client.save_state(f"step-{step}").result(60)
            traces.append(span.place.trace_id)
    return traces


def test_the_work_of_one_training_step_shares_its_trace_across_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "records"
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TINSMITH_RECORD", str(records))
    try:
        with telemetry.init("loop") as mine:
            first, second = train(2)
    finally:
        stop(tmp_path / "home")
    store = open_store(records)
    (run,) = [one for one in store.list_runs() if one.project == "service"]
    assert run.status is RunStatus.FINISHED
    (step,) = store.events(mine.run_id, "train.step", trace_id=first)
    found = {event.name: event for event in store.events(run.run_id, trace_id=first)}
    assert set(found) == {
        "train.forward_backward", "train.optim", "llm.request", "checkpoint.saved",
    }  # fmt: skip
    spans = [event for event in found.values() if event.duration_ns is not None]
    assert [event.parent_id for event in spans] == [step.span_id] * 3
    assert all(step.duration_ns > event.duration_ns > 0 for event in spans)
    sample = found["llm.request"].measurements
    assert sample["input_tokens"] == 3
    assert 2 <= sample["output_tokens"] <= 8
    assert found["train.forward_backward"].measurements["tokens"] > 0
    assert Path(str(found["checkpoint.saved"].metadata["path"])).is_dir()
    assert len(store.events(run.run_id, trace_id=second)) == 4


def test_off_turns_it_off_and_a_store_that_cannot_be_written_costs_the_record_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    for name, place in (("off", "off"), ("broken", str(tmp_path / "file"))):
        home = tmp_path / name
        monkeypatch.setenv("TINSMITH_HOME", str(home))
        monkeypatch.setenv("TINSMITH_RECORD", place)
        try:
            with ServiceClient() as service:
                create(service).forward_backward(make_data(), "cross_entropy").result(60)
        finally:
            stop(home)
        assert not (home / "telemetry").exists()
        log = "".join(path.read_text() for path in home.rglob("*.log"))
        assert ("is not recorded" in log) is (name == "broken")
