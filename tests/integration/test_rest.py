"""What the service keeps, over HTTP, after real training and real saves."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess, WireClient, make_data

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("rest"), "--model", BASE_MODEL) as running:
        yield running


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[WireClient]:
    client = WireClient(service.ready)
    yield client
    client.post(f"sessions/{client.session_id}/finish", reason={"type": "success"})
    client.http.close()


def test_saves_appear_in_the_lists_with_what_was_asked_for(client: WireClient) -> None:
    model = client.create_model()
    before = time.time()
    model.train_step(make_data())
    first = model.save("save_weights", "a", user_metadata={"step": 1}, ttl_seconds=4000)
    second = model.save("save_weights_for_sampler", "b", user_metadata={"step": 2})
    run = client.http.get(f"training_runs/{model.model_id}").json()
    assert (run["training_run_id"], run["base_model"]) == (model.model_id, BASE_MODEL)
    assert (run["lora_rank"], run["corrupted"]) == (8, False)
    assert before - 2 < datetime.fromisoformat(run["last_request_time"]).timestamp() < time.time()
    last, last_sampler = run["last_checkpoint"], run["last_sampler_checkpoint"]
    assert (last["tinker_path"], last_sampler["tinker_path"]) == (first, second)
    assert (last["user_metadata"], last_sampler["user_metadata"]) == ({"step": 1}, {"step": 2})
    assert last_sampler["expires_at"] is None
    expires_at = datetime.fromisoformat(last["expires_at"]).timestamp()
    assert before + 4000 <= expires_at <= time.time() + 4000
    assert last["size_bytes"] > 1000
    shown = client.http.get(f"sessions/{client.session_id}").json()
    assert shown["training_run_ids"] == [model.model_id]
    refused = model.submit("save_weights", path="c", ttl_seconds=0, expect=400)
    assert refused["field"] == "ttl_seconds"
    assert client.http.get("training_runs").json()["training_runs"][0] == run


def test_a_name_is_taken_until_the_save_overwrites_it(client: WireClient) -> None:
    model = client.create_model()
    data = make_data()
    path = model.save("save_weights", "same", user_metadata={"n": 1})
    initial = model.loss(data)
    model.train_step(data)
    trained = model.loss(data)
    promise = model.submit("save_weights", path="same")
    assert "exists" in client.failure(promise["request_id"])["error"]
    assert client.load_model(path, 1).loss(data) == pytest.approx(initial)
    model.save("save_weights", "same", overwrite=True, user_metadata={"n": 2})
    assert client.load_model(path, 2).loss(data) == pytest.approx(trained)
    place = f"training_runs/{model.model_id}/checkpoints"
    (listed,) = client.http.get(place).json()["checkpoints"]
    assert listed["user_metadata"] == {"n": 2}


def test_an_expired_checkpoint_cannot_be_loaded(client: WireClient) -> None:
    model = client.create_model()
    path = model.save("save_weights", "brief", ttl_seconds=1)
    body = {"session_id": client.session_id, "model_seq_id": 1, "path": path}
    deadline = time.monotonic() + 10
    while client.http.post("weights_info", json={"tinker_path": path}).status_code == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.post("load_weights", expect=404, **body)["field"] == "path"


def test_a_downloaded_archive_is_the_adapter(client: WireClient) -> None:
    model = client.create_model()
    model.save("save_weights_for_sampler", "adapter")
    place = f"training_runs/{model.model_id}/checkpoints/sampler_weights/adapter/archive"
    link = client.http.get(place)
    assert link.status_code == 302
    archive = client.http.get(link.headers["location"])
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        names = set(tar.getnames())
    assert {"adapter_config.json", "adapter_model.safetensors", "checkpoint.json"} <= names


def test_a_copy_trains_on_and_its_source_may_go(client: WireClient) -> None:
    model = client.create_model()
    data = make_data()
    model.train_step(data)
    path = model.save("save_weights", "source")
    expected = model.loss(data)
    copied = client.post("copy_weights", source_path=path, destination_project_id="p")
    place = f"training_runs/{model.model_id}/checkpoints/weights/source"
    assert client.http.delete(place).status_code == 204
    assert client.load_model(copied["tinker_path"], 1).loss(data) == pytest.approx(expected)
    body = {"session_id": client.session_id, "model_seq_id": 2, "path": path}
    assert client.post("load_weights", expect=404, **body)["field"] == "path"


def test_a_dead_engine_marks_its_runs(service: ServiceProcess, client: WireClient) -> None:
    import psutil

    model = client.create_model()
    path = model.save("save_weights", "safe")
    for pid in service.engine_pids:
        psutil.Process(pid).kill()
    deadline = time.monotonic() + 10
    while not client.http.get(f"training_runs/{model.model_id}").json()["corrupted"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.load_model(path, 1).loss(make_data()) > 0
