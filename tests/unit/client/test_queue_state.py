"""Pauses of the service are told to people: training ones late, sampling ones at once."""

import logging
from typing import Any

import pytest

from tests.unit.client.recording_server import RecordingServer, Reply
from tinsmith.client import ServiceClient, TrainingClient
from tinsmith.client.queue_state import TRAINING_GRACE_S, PauseLogger
from tinsmith.types import AdamParams, ModelInput, SamplingParams


def paused(state: str = "paused_capacity", **more: Any) -> Reply:
    return Reply(408, {"type": "try_again", "request_id": "r", "queue_state": state, **more})


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr("tinsmith.client.queue_state.time.monotonic", lambda: self.now_s)


def test_a_pause_is_told_after_its_grace_and_then_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    told = PauseLogger("training of m", grace_s=TRAINING_GRACE_S)
    counts = []
    for minute in range(20):
        clock.now_s = 60.0 * minute
        for _ in range(3):
            told("paused_capacity", None)
        counts.append(len(caplog.records))
    assert counts == [0] * 15 + [1, 2, 3, 4, 5]
    assert caplog.messages[0] == "training of m is paused: the service is short of capacity"


def test_work_in_between_begins_the_grace_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    told = PauseLogger("x", grace_s=100.0)
    for now_s, state in ((0, "paused_capacity"), (99, "active"), (150, "paused_capacity")):
        clock.now_s = now_s
        told(state, None)
    clock.now_s = 240
    told("paused_capacity", None)
    assert caplog.records == []
    clock.now_s = 260
    told("paused_capacity", "maintenance until noon")
    assert caplog.messages == ["x is paused: maintenance until noon"]


def test_a_paused_sample_is_told_at_once_and_to_the_observer(
    server: RecordingServer, service: ServiceClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = service.create_sampling_client(base_model="tinsmith/tiny").result(5)
    server.script("retrieve_future", paused(), paused(queue_state_reason="full"))
    prompt = ModelInput.from_ints([1, 2])
    with caplog.at_level(logging.WARNING):
        client.sample(prompt, 1, SamplingParams(max_tokens=1)).result(5)
    assert caplog.messages == [
        "sampling from S:sample:0 is paused: the service is short of capacity"
    ]
    heard: list[tuple[str, str | None]] = []
    client.on_queue_state_change = lambda state, reason: heard.append((state, reason))
    server.script("retrieve_future", paused("paused_rate_limit", queue_state_reason="yours"))
    client.sample(prompt, 1, SamplingParams(max_tokens=1)).result(5)
    assert heard == [("paused_rate_limit", "yours"), ("active", None)]


@pytest.mark.parametrize(
    "odd",
    [
        Reply(408, b"gateway timeout", "text/html"),
        Reply(408, []),
        Reply(200, {"type": "try_again"}),
    ],
)
def test_an_answer_without_a_state_counts_as_active(
    server: RecordingServer,
    training: TrainingClient,
    caplog: pytest.LogCaptureFixture,
    odd: Reply,
) -> None:
    training._lane._observe = PauseLogger("training", grace_s=0.0)
    server.script("retrieve_future", odd, paused())
    training.optim_step(AdamParams()).result(5)
    assert caplog.messages == ["training is paused: the service is short of capacity"]
