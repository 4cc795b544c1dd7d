"""Reports to the service: what is sent, when, and that they never get into the way."""

import gc
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.recording_server import DROP, RecordingServer, Reply, recording_server
from tinsmith.client import (
    BadRequestError,
    InternalServerError,
    RestClient,
    ServiceClient,
    TrainingClient,
    reporter,
)
from tinsmith.client.retries import RetryPolicy
from tinsmith.client.spool import spool_dir
from tinsmith.types import AdamParams, TelemetrySendRequest


@pytest.fixture(autouse=True)
def on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TINSMITH_TELEMETRY", "1")
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "home"))
    fast = RetryPolicy(max_retries=3, delay_base_s=0.001)
    monkeypatch.setattr(reporter, "_POLICY", fast)
    monkeypatch.setattr(reporter, "_LAST_POLICY", RetryPolicy(max_retries=1, delay_base_s=0.001))


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter, "FLUSH_INTERVAL_S", 0.02)
    monkeypatch.setattr(reporter, "MAX_PAUSE_S", 0.05)


def open_session(server: RecordingServer) -> tuple[ServiceClient, TrainingClient]:
    service = ServiceClient(base_url=server.url, api_key="tml-SECRETkey")
    return service, service.create_lora_training_client("tinsmith/tiny").result(5)


def batches(server: RecordingServer) -> list[dict[str, Any]]:
    return [request.json for request in server.of("telemetry")]


def events(server: RecordingServer) -> list[dict[str, Any]]:
    return [event for batch in batches(server) for event in batch["events"]]


def kinds(server: RecordingServer) -> list[str]:
    return [event["event"] for event in events(server)]


def unsent() -> list[Path]:
    return sorted(spool_dir().glob("*.jsonl"))


def wait_until(condition: Any, what: str) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.005)


def test_a_session_reports_its_start_and_end_and_leaves_nothing_on_disk(
    server: RecordingServer,
) -> None:
    service, _ = open_session(server)
    wait_until(lambda: len(unsent()) == 1, "written down before it is sent")
    service.close().result(5)
    assert kinds(server) == ["SESSION_START", "SESSION_END"]
    (batch,) = batches(server)
    assert batch["session_id"] == "S"
    TelemetrySendRequest.model_validate(batch)
    assert [event["event_session_index"] for event in batch["events"]] == [0, 1]
    assert server.of("telemetry")[0].headers["x-api-key"] == "tml-SECRETkey"
    assert list(spool_dir().iterdir()) == []


def test_the_off_switch_sends_and_writes_nothing(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TINSMITH_TELEMETRY")
    for said in ("0", "false", "off", "no"):
        monkeypatch.setenv("TINKER_TELEMETRY", said)
        service, training = open_session(server)
        assert service.get_telemetry() is training.get_telemetry() is None
        service.close().result(5)
    assert server.of("telemetry") == []
    assert not spool_dir().exists()


def test_a_failed_call_is_reported_once_and_without_secrets(server: RecordingServer) -> None:
    service, training = open_session(server)
    server.script("optim_step", Reply(200, {"request_id": "r9"}))
    said = {"error": f"broken near {Path.home()}/x, key tml-SECRETkey", "category": "server"}
    server.script("retrieve_future", Reply(200, said))
    with pytest.raises(Exception, match="broken near"):
        training.optim_step(AdamParams()).result(5)
    service.close().result(5)
    failed = [event for event in events(server) if event["event"] == "UNHANDLED_EXCEPTION"]
    assert [event["error_type"] for event in failed] == ["RequestFailedError"]
    assert failed[0]["error_message"] == "broken near ~/x, key ***"
    assert "tinsmith/client/polling.py" in failed[0]["traceback"]
    assert "SECRET" not in json.dumps(batches(server))


def test_an_error_of_the_users_is_reported_by_kind_only(server: RecordingServer) -> None:
    service, training = open_session(server)
    server.script("optim_step", Reply(400, {"message": "SECRET=1", "field": "adam_params"}))
    with pytest.raises(BadRequestError):
        training.optim_step(AdamParams()).result(5)
    service.close().result(5)
    (reported,) = [event for event in events(server) if event["event"] == "GENERIC_EVENT"]
    assert reported["event_name"] == "user_error"
    assert reported["event_data"] == {
        "error_type": "BadRequestError",
        "field": "adam_params",
        "status_code": 400,
    }


def test_an_exception_reaches_the_user_while_the_reports_hang(
    server: RecordingServer, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "DRAIN_TIMEOUT_S", 0.1)
    server.script("telemetry", *[Reply(delay_s=30.0)] * 20)
    service, training = open_session(server)
    server.wait_for("telemetry")
    server.script("optim_step", Reply(400, {"message": "wrong"}))
    started_s = time.monotonic()
    with pytest.raises(BadRequestError):
        training.optim_step(AdamParams()).result(5)
    assert time.monotonic() - started_s < 2.0
    service.close().result(5)
    assert len(unsent()) >= 2, "what was not taken waits on disk"


@pytest.mark.parametrize("failure", [Reply(500, {"detail": "x"}), DROP, Reply(429, {})])
def test_what_a_failing_service_did_not_take_is_sent_by_the_next_client_with_the_same_ids(
    server: RecordingServer, failure: Reply
) -> None:
    server.script("telemetry", failure, failure)
    first, _ = open_session(server)
    first.close().result(10)
    tried = events(server)[:2]
    assert len(unsent()) >= 1
    second, _ = open_session(server)
    second.close().result(5)
    assert unsent() == []
    taken = [event for batch in batches(server)[2:] for event in batch["events"]]
    assert [event["event"] for event in taken].count("SESSION_START") == 2
    assert {event["event_id"] for event in tried} <= {event["event_id"] for event in taken}


def test_a_service_that_dies_and_comes_back_gets_everything_once(
    server: RecordingServer, often: None
) -> None:
    service, _ = open_session(server)
    telemetry = service.get_telemetry()
    assert telemetry is not None
    server.script("telemetry", *[DROP] * 11)
    for number in range(5):
        assert telemetry.log("step", {"number": number})
    wait_until(lambda: len(server.of("telemetry")) >= 12, "it goes on trying")
    wait_until(lambda: unsent() == [], "and gets through")
    # An answer that comes too late is asked for again: ids tell such an event from a second one.
    taken = {e["event_id"]: e for batch in batches(server)[11:] for e in batch["events"]}
    numbers = [e["event_data"]["number"] for e in taken.values() if e["event"] == "GENERIC_EVENT"]
    assert sorted(numbers) == [0, 1, 2, 3, 4]
    service.close().result(5)


def test_a_service_without_the_route_is_left_alone(server: RecordingServer, often: None) -> None:
    server.script("telemetry", Reply(404, {"detail": "Not Found"}))
    service, _ = open_session(server)
    server.wait_for("telemetry")
    wait_until(lambda: unsent() == [], "dropped")
    telemetry = service.get_telemetry()
    assert telemetry is not None
    wait_until(lambda: not telemetry.log("more"), "it takes nothing more")
    service.close().result(5)
    assert len(server.of("telemetry")) == 1


def test_batches_hold_a_hundred_and_the_queue_is_bounded(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporter, "MAX_QUEUED_EVENTS", 250)
    service, _ = open_session(server)
    telemetry = service.get_telemetry()
    assert telemetry is not None
    server.script("telemetry", *[Reply(503, {})] * 100)  # nothing drains meanwhile
    taken = sum(telemetry.log("many") for _ in range(400))
    assert 200 <= taken <= 250
    server._scripts["telemetry"].clear()
    service.close().result(10)
    sizes = [len(batch["events"]) for batch in batches(server)]
    # How the events fell into parcels is a matter of timing; two neighbours that fit are one batch.
    assert 50 < max(sizes) <= 100
    delivered = {event["event_id"] for event in events(server)}
    assert len(delivered) >= taken


def test_a_client_without_a_session_reports_failures_only(server: RecordingServer) -> None:
    with RestClient(base_url=server.url) as rest:
        rest.get_server_capabilities().result(5)
    assert server.of("telemetry") == []
    with RestClient(base_url=server.url) as rest:
        server.script(
            "get_server_capabilities", *[Reply(501, {}, headers={"x-should-retry": "false"})]
        )
        with pytest.raises(InternalServerError):
            rest.get_server_capabilities().result(5)
    assert kinds(server) == ["UNHANDLED_EXCEPTION"]
    assert batches(server)[0]["session_id"].startswith("sessionless-")


def test_a_client_that_nobody_answers_leaves_its_report_for_later() -> None:
    with recording_server() as server:
        url = server.url
    with ServiceClient(base_url=url, max_retries=0) as service, pytest.raises(ConnectionError):
        service.get_server_capabilities().result(5)
    (left,) = unsent()
    assert b"APIConnectionError" in left.read_bytes()


def test_dropping_a_client_ends_its_reporter(server: RecordingServer) -> None:
    service, training = open_session(server)
    telemetry = service.get_telemetry()
    assert telemetry is not None
    worker = telemetry._worker
    assert worker is not None
    del service, training
    gc.collect()
    wait_until(worker.done, "the worker ends with its connection")
    assert len(unsent()) == 1, "what it had is there for the next client"


KILLED = """
import os, sys
from tinsmith.client import ServiceClient
service = ServiceClient(base_url=sys.argv[1])
service.create_lora_training_client("tinsmith/tiny").result(10)
service.get_telemetry().log("last words", {"pid": os.getpid()})
print("logged", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_no_report_and_two_heirs_do_not_double_it(
    server: RecordingServer,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"logged\n"
    wait_until(lambda: any(b"last words" in p.read_bytes() for p in unsent()), "written down")
    process.kill()
    process.communicate()
    heirs = [open_session(server)[0] for _ in range(3)]
    closing = [threading.Thread(target=lambda heir=heir: heir.close().result(5)) for heir in heirs]
    for thread in closing:
        thread.start()
    for thread in closing:
        thread.join()
    said = [event["event_id"] for event in events(server) if event.get("event_name")]
    assert len(said) == 1
    ids = [event["event_id"] for event in events(server)]
    assert len(ids) == len(set(ids)) == 1 + 1 + 2 * 3


async def test_logged_data_is_cleaned(server: RecordingServer) -> None:
    service, _ = open_session(server)
    telemetry = service.get_telemetry()
    assert telemetry is not None
    telemetry.log("with data", {"x-api-key": "SECRET", "why": "tml-SECRETkey", "odd": object()})
    assert await telemetry.log_exception(ValueError("SECRET of somebody else's"))
    await service.close()
    assert "SECRET" not in json.dumps(events(server))
