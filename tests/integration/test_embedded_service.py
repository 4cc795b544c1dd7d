"""`ServiceClient()` and the embedded service: started, joined, replaced, gone when idle."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.service_process import make_data, wait_for_end
from tinsmith.client import APIConnectionError, ServiceClient, TrainingClient, launcher
from tinsmith.types import AdamParams

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]

TRAIN = """
import json, sys
from tests.integration.service_process import make_data
from tinsmith.client import ServiceClient
from tinsmith.types import AdamParams
with ServiceClient() as service:
    client = service.create_lora_training_client("tinsmith/tiny", rank=4, seed=1).result(120)
    loss = client.forward(make_data(), "cross_entropy").result(60).loss
print(json.dumps({"model_id": client.model_id, "loss": loss}))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state directory of its own; its service is ended with the test."""
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
    yield tmp_path
    service = ready(tmp_path)
    if service and psutil.pid_exists(service["pid"]):
        os.kill(service["pid"], signal.SIGTERM)
        assert wait_for_end(service["pid"])


def ready(home: Path) -> dict[str, Any]:
    path = home / "state" / "embedded.json"
    return json.loads(path.read_text()) if path.exists() else {}


def create(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith/tiny", rank=4).result(120)


def test_two_processes_that_start_at_the_same_moment_share_one_service(home: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    outcomes = [json.loads(process.communicate(timeout=180)[0]) for process in processes]
    assert outcomes[0]["model_id"] != outcomes[1]["model_id"]
    assert outcomes[0]["loss"] == pytest.approx(outcomes[1]["loss"], rel=1e-5)
    # The service outlives both; a third process joins it.
    pid = ready(home)["pid"]
    with ServiceClient() as service:
        assert service.get_server_capabilities().supported_models
    assert ready(home)["pid"] == pid
    assert psutil.Process(pid).is_running()


def test_a_killed_service_is_reported_and_the_next_client_gets_a_new_one(home: Path) -> None:
    service = ServiceClient()
    client = create(service)
    pid = ready(home)["pid"]
    os.kill(pid, signal.SIGKILL)
    start_s = time.monotonic()
    with pytest.raises(APIConnectionError, match=rf"pid={pid}\) has died; its log is .*\.log"):
        client.forward_backward(make_data(), "cross_entropy").result(60)
    assert time.monotonic() - start_s < 5.0
    with pytest.raises(APIConnectionError):
        service.close().result(30)
    with ServiceClient() as again:
        output = create(again).forward(make_data(), "cross_entropy").result(60)
    assert output.loss > 0
    assert ready(home)["pid"] != pid


def test_a_service_that_left_for_idleness_is_started_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "IDLE_EXIT_S", 1)
    with ServiceClient() as service:
        assert service.get_server_capabilities().supported_models
        pid = ready(home)["pid"]
        assert wait_for_end(pid)  # asking for capabilities opens no session
        monkeypatch.setattr(launcher, "IDLE_EXIT_S", 60)
        client = create(service)
        assert client.optim_step(AdamParams()).result(60).metrics
    assert ready(home)["pid"] != pid


def test_a_live_client_keeps_the_service(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "IDLE_EXIT_S", 1)
    with ServiceClient() as service:
        client = create(service)
        time.sleep(2.0)
        assert client.forward(make_data(1), "cross_entropy").result(60).loss > 0
        pid = ready(home)["pid"]
    assert wait_for_end(pid)
