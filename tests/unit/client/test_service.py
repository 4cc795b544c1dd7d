import gc
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.recording_server import RecordingServer, Reply, recording_server
from tinsmith.client import (
    FEW_LONG_ATTEMPTS,
    APIResponseValidationError,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    RequestOptions,
    ServiceClient,
    SessionLostError,
    Timeout,
    TrainingClient,
    launcher,
    session,
)
from tinsmith.client.connection import ServiceConfig
from tinsmith.core.errors import ConfigError, MissingExtraError, UserError
from tinsmith.types import AdamOptimizerConfig, AdamParams


def test_nothing_is_sent_before_the_first_call(server: RecordingServer) -> None:
    service = ServiceClient(base_url=server.url)
    assert repr(service) == f"ServiceClient({server.url})"
    service.close().result(5)
    assert server.requests == []


def test_creating_a_model_is_one_flow(server: RecordingServer) -> None:
    with ServiceClient(
        {"who": "me"}, "project", display_name="try", base_url=server.url + "/", api_key="tml-k"
    ) as service:
        client = service.create_lora_training_client(
            "tinsmith/tiny", rank=4, seed=7, train_unembed=False, user_metadata={"a": "b"}
        ).result(10)
    assert isinstance(client, TrainingClient)
    assert client.model_id == "S:train:0"
    assert server.paths() == [
        "client/config",
        "create_session",
        "create_model",
        "retrieve_future",
        "get_info",
        "sessions/S/finish",
    ]
    opened = server.of("create_session")[0].json
    assert opened["user_metadata"] == {"who": "me"}
    assert (opened["project_id"], opened["display_name"]) == ("project", "try")
    assert server.of("create_model")[0].json == {
        "session_id": "S",
        "model_seq_id": 0,
        "base_model": "tinsmith/tiny",
        "lora_config": {
            "rank": 4,
            "seed": 7,
            "train_unembed": False,
            "train_mlp": True,
            "train_attn": True,
        },
        "user_metadata": {"a": "b"},
        "optimizer_config": {"type": "adamw"},
        "type": "create_model",
    }
    assert server.of("sessions/S/finish")[0].json == {
        "reason": {"type": "success"},
        "detail": None,
    }
    assert all(request.headers["x-api-key"] == "tml-k" for request in server.requests)


def test_clients_share_one_session_and_are_numbered(server: RecordingServer) -> None:
    with ServiceClient(base_url=server.url) as service:
        futures = [service.create_lora_training_client("tinsmith/tiny") for _ in range(3)]
        assert sorted(f.result(10).model_id for f in futures) == [
            "S:train:0",
            "S:train:1",
            "S:train:2",
        ]
        service.create_sampling_client(base_model="tinsmith/tiny").result(10)
        service.create_sampling_client(base_model="tinsmith/tiny").result(10)
    assert len(server.of("create_session")) == 1
    numbers = [r.json["sampling_session_seq_id"] for r in server.of("create_sampling_session")]
    assert numbers == [0, 1]


def test_the_future_of_a_client_may_be_used_as_the_client(service: ServiceClient) -> None:
    training = service.create_lora_training_client("tinsmith/tiny")
    assert training.optim_step(AdamParams()).result(5).metrics == {"grad_norm": 1.0}
    assert training.get_info().model_name == "tinsmith/tiny"
    capabilities = service.get_server_capabilities()
    assert capabilities.supported_models[0].model_name == "tinsmith/tiny"


async def test_async_code_awaits_clients_under_both_names(server: RecordingServer) -> None:
    async with ServiceClient(base_url=server.url) as service:
        first = await service.create_lora_training_client("tinsmith/tiny")
        second = await service.create_lora_training_client_async("tinsmith/tiny")
        assert (first.model_id, second.model_id) == ("S:train:0", "S:train:1")
        capabilities = await service.get_server_capabilities_async()
        assert capabilities.supported_models


def test_a_model_is_made_from_a_saved_state_in_one_request(
    server: RecordingServer, service: ServiceClient
) -> None:
    path = "tinker://S0:train:0/weights/last"
    one = service.create_training_client_from_state(path).result(10)
    two = service.create_training_client_from_state_with_optimizer(path, "tinsmith/tiny").result(10)
    assert (one.model_id, two.model_id) == ("S:train:0", "S:train:1")
    first, second = (request.json for request in server.of("load_weights"))
    assert first == {
        "session_id": "S",
        "model_seq_id": 0,
        "path": path,
        "optimizer": False,
        "type": "load_weights",
    }
    assert (second["optimizer"], second["base_model"]) == (True, "tinsmith/tiny")
    two.optim_step(AdamParams()).result(5)
    assert server.of("optim_step")[0].json["seq_id"] == 1


def test_the_options_of_a_new_model_travel(server: RecordingServer, service: ServiceClient) -> None:
    optimizer = AdamOptimizerConfig()
    metadata = {"k": "v"}
    service.create_training_client_from_state(
        "tinker://a/weights/b", None, metadata, "token", optimizer
    ).result(10)
    service.create_training_client_from_state_with_optimizer(
        "tinker://a/weights/b", weights_access_token="token"
    ).result(10)
    service.create_lora_training_client("tinsmith/tiny", optimizer=optimizer).result(10)
    first, second = (request.json for request in server.of("load_weights"))
    assert (first["user_metadata"], first["weights_access_token"]) == (metadata, "token")
    assert (first["optimizer"], first["optimizer_config"]) == (False, {"type": "adamw"})
    assert (second["optimizer"], second["weights_access_token"]) == (True, "token")
    assert "optimizer_config" not in second
    assert server.of("create_model")[0].json["optimizer_config"] == {"type": "adamw"}


def test_project_and_tags_come_from_the_environment_unless_given(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_PROJECT_ID", "theirs")
    monkeypatch.setenv("TINSMITH_TAGS", "b, a,,b")
    for project_id in (None, "mine"):
        with ServiceClient(base_url=server.url, project_id=project_id) as service:
            service.create_lora_training_client("tinsmith/tiny").result(10)
    sessions = [request.json for request in server.of("create_session")]
    assert [session["project_id"] for session in sessions] == ["theirs", "mine"]
    assert [session["tags"] for session in sessions] == [["b", "a"]] * 2


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("x"), "errored"), (KeyboardInterrupt(), "interrupted")]
)
def test_leaving_with_an_exception_is_told_to_the_service(
    server: RecordingServer, error: BaseException, status: str
) -> None:
    def work() -> None:
        with ServiceClient(base_url=server.url) as service:
            service.create_lora_training_client("tinsmith/tiny").result(10)
            raise error

    with pytest.raises(type(error)):
        work()
    finished = server.of("sessions/S/finish")[0].json
    assert finished["reason"] == {"type": status}
    assert type(error).__name__ in finished["detail"]


def test_a_failed_goodbye_hides_nothing(
    server: RecordingServer, caplog: pytest.LogCaptureFixture
) -> None:
    def work(*, fails: bool) -> None:
        with ServiceClient(base_url=server.url) as service:
            service.create_lora_training_client("tinsmith/tiny").result(10)
            server.script("sessions/S/finish", Reply(400, {"message": "cannot finish"}))
            if fails:
                raise KeyError("the work's own")

    with pytest.raises(KeyError, match="the work's own"):
        work(fails=True)
    work(fails=False)
    assert caplog.text.count("cannot finish") == 2


def test_a_closed_client_says_so(server: RecordingServer) -> None:
    service = ServiceClient(base_url=server.url)
    training = service.create_lora_training_client("tinsmith/tiny").result(10)
    server.hold("optim_step")
    waiting = training.optim_step(AdamParams())
    server.wait_for("optim_step")
    service.close("interrupted", "enough").result(5)
    service.close().result(5)
    with pytest.raises(ClientClosedError):
        waiting.result(5)
    with pytest.raises(RuntimeError, match="ServiceClient is closed"):
        training.optim_step(AdamParams()).result(5)
    with pytest.raises(ClientClosedError):
        service.create_lora_training_client("tinsmith/tiny").result(5)
    assert len(server.of("sessions/S/finish")) == 1


def test_heartbeats_go_on_until_the_end(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HEARTBEAT_INTERVAL_S", 0.05)
    with ServiceClient(base_url=server.url) as service:
        service.create_lora_training_client("tinsmith/tiny").result(10)
        server.script("session_heartbeat", Reply(500))  # one failure means nothing
        server.wait_for("session_heartbeat", 3)
    assert server.of("session_heartbeat")[0].json["session_id"] == "S"
    count = len(server.of("session_heartbeat"))
    time.sleep(0.15)
    assert len(server.of("session_heartbeat")) == count


def test_a_session_that_the_service_ended_is_reported(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HEARTBEAT_INTERVAL_S", 0.05)
    server.script("session_heartbeat", Reply(410, {"detail": "finished"}))
    with ServiceClient(base_url=server.url) as service:

        def work_until_lost() -> None:
            training = service.create_lora_training_client("tinsmith/tiny").result(10)
            deadline_s = time.monotonic() + 5.0
            while time.monotonic() < deadline_s:
                training.optim_step(AdamParams()).result(5)

        with pytest.raises(SessionLostError, match=r"session=S was ended by the service.*resume"):
            work_until_lost()
    assert len(server.of("session_heartbeat")) == 1
    assert not server.of("sessions/S/finish")


def test_a_dropped_client_stops_its_heartbeat(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "HEARTBEAT_INTERVAL_S", 0.05)
    service = ServiceClient(base_url=server.url)
    service.create_lora_training_client("tinsmith/tiny").result(10)
    server.wait_for("session_heartbeat")
    del service
    gc.collect()
    time.sleep(0.3)
    count = len(server.of("session_heartbeat"))
    time.sleep(0.15)
    assert len(server.of("session_heartbeat")) == count


SCRIPT = """
import sys
from tinsmith.client import ServiceClient
service = ServiceClient(base_url=sys.argv[1])
service.create_lora_training_client("tinsmith/tiny").result(20)
{end}
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("", "success"), ("raise ValueError('x')", "errored"), ("sys.exit(3)", "success")],
)
def test_the_end_of_the_process_finishes_the_session(
    server: RecordingServer, end: str, status: str
) -> None:
    command = [sys.executable, "-c", SCRIPT.format(end=end), server.url]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run(command, env=environment, timeout=60, check=False, stderr=subprocess.DEVNULL)
    assert server.of("sessions/S/finish")[0].json["reason"] == {"type": status}


def test_the_end_of_the_process_does_not_wait_for_a_service_that_is_gone() -> None:
    with recording_server() as server:
        end = "import urllib.request; urllib.request.urlopen(sys.argv[1] + '/api/v1/healthz')"
        server.script("sessions/S/finish", Reply(delay_s=30))
        command = [sys.executable, "-c", SCRIPT.format(end=end), server.url]
        start_s = time.monotonic()
        done = subprocess.run(command, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60)
        after_s = time.monotonic() - server.of("healthz")[0].time_s
        assert done.returncode == 0
        assert after_s < 5.0
        assert start_s


FORK = """
import os, sys
from tinsmith.client import ServiceClient
service = ServiceClient(base_url=sys.argv[1])
client = service.create_lora_training_client("tinsmith/tiny").result(20)
if os.fork() == 0:
    try:
        client.save_state("x").result(20)
    except RuntimeError as error:
        print(error, flush=True)
    with ServiceClient(base_url=sys.argv[1]) as own:
        print(own.create_lora_training_client("tinsmith/tiny").result(20).model_id, flush=True)
    os._exit(0)
os.wait()
service.close().result(20)
"""


def test_a_forked_child_needs_a_client_of_its_own(server: RecordingServer) -> None:
    command = [sys.executable, "-c", FORK, server.url]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        command, env=environment, timeout=60, check=True, capture_output=True, text=True
    )
    told, model_id = done.stdout.splitlines()
    assert "forked" in told
    assert "create a new one in each process" in told
    assert model_id == "S:train:0"


def test_a_wrong_key_is_reported_and_the_next_call_tries_again(server: RecordingServer) -> None:
    service = ServiceClient(base_url=server.url, api_key="wrong")
    server.script("client/config", Reply(401, {"message": "unknown API key", "hint": "set it"}))
    with pytest.raises(AuthenticationError, match=r"unknown API key.*set it"):
        service.get_server_capabilities().result(5)
    assert service.get_server_capabilities().result(5).supported_models
    service.close().result(5)


def test_a_refused_model_names_the_field(server: RecordingServer, service: ServiceClient) -> None:
    refusal = {"message": "base_model='tinny': unknown", "field": "base_model", "hint": "tiny?"}
    server.script("create_model", Reply(400, refusal))
    with pytest.raises(BadRequestError, match="base_model='tinny'") as caught:
        service.create_lora_training_client("tinny").result(5)
    assert caught.value.field == "base_model"


def test_an_answer_that_breaks_the_protocol_is_named(
    server: RecordingServer, service: ServiceClient
) -> None:
    server.script("create_session", Reply(body={"session": "S"}))
    with pytest.raises(APIResponseValidationError, match=r"create_session.*session_id"):
        service.create_lora_training_client("tinsmith/tiny").result(5)
    server.script("create_model", Reply(body={"request_id": 7}))
    with pytest.raises(APIResponseValidationError, match=r"create_model.*request_id"):
        service.create_lora_training_client("tinsmith/tiny").result(5)


def test_arguments_out_of_range_are_refused_by_name(service: ServiceClient) -> None:
    with pytest.raises(UserError, match="timeout=0: must be positive"):
        ServiceClient(base_url="http://x", timeout=0)
    wrong: Any  # as a script without types has it
    for wrong in ("x", True, math.nan, [1]):
        with pytest.raises(UserError, match=r"timeout=.*: must be positive, in seconds"):
            ServiceClient(base_url="http://x", timeout=wrong)
    for wrong in ("3", 1.5, None):
        with pytest.raises(UserError, match=r"max_retries=.*: must be a whole number"):
            ServiceClient(base_url="http://x", max_retries=wrong)
    with pytest.raises(UserError, match="max_retries=-1"):
        ServiceClient(base_url="http://x", max_retries=-1)
    with pytest.raises(UserError, match=r"must start with http.*try http://localhost:1"):
        ServiceClient(base_url="localhost:1")
    with pytest.raises(UserError, match="At least one of"):
        service.create_lora_training_client("m", 8, None, False, False, False)
    with pytest.raises(ConfigError, match="rank=0"):
        service.create_lora_training_client("m", rank=0)


def test_the_address_comes_from_the_argument_then_the_environment(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-twin")
    with ServiceClient() as service:
        service.get_server_capabilities().result(5)
    assert server.requests[0].headers["x-api-key"] == "tml-twin"
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in repr(ServiceClient())
    assert "example" in repr(ServiceClient(base_url="http://example"))


def test_without_an_address_the_missing_extra_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "_ENGINE_PACKAGES", ("no_such_package",))
    with pytest.raises(MissingExtraError, match=r'pip install "tinsmith\[engine\]"'):
        ServiceClient()


def test_the_embedded_services_key_and_address_are_used(
    server: RecordingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
    state = tmp_path / "state"
    state.mkdir()
    ready = {"url": server.url, "pid": os.getpid(), "api_key": "embedded-key"}
    (state / "embedded.json").write_text(json.dumps(ready))
    model = tmp_path / "my-model"
    model.mkdir()
    monkeypatch.chdir(tmp_path)
    with ServiceClient(api_key="tml-other") as service:
        assert repr(service) == "ServiceClient(embedded service)"
        service.create_lora_training_client("./my-model").result(10)
    assert server.of("create_model")[0].headers["x-api-key"] == "embedded-key"
    # The service has another working directory: a local model travels as an absolute path.
    assert server.of("create_model")[0].json["base_model"] == str(model)


def test_configuration_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="fwdbwd_max_chunk_len"):
        ServiceConfig(fwdbwd_max_chunk_len=0)


def test_the_sdk_needs_no_torch_transformers_or_web_framework() -> None:
    code = (
        "import sys, tinsmith.client;"
        "print([m for m in ('torch', 'transformers', 'starlette', 'uvicorn', 'safetensors')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


def test_a_preset_and_a_timeout_object_say_how_long_attempts_may_take(
    server: RecordingServer,
) -> None:
    for options in (FEW_LONG_ATTEMPTS, RequestOptions(timeout=Timeout(120.0), max_retries=2)):
        with ServiceClient(base_url=server.url, **options) as service:
            settings = service._connection.settings
            assert (settings.timeout_s, settings.max_retries) == (120.0, 2)
    with pytest.raises(UserError, match="timeout=None"):
        ServiceClient(base_url=server.url, timeout=Timeout(None))


def test_the_console_addresses_are_those_of_the_services_records(
    server: RecordingServer, service: ServiceClient, training: TrainingClient
) -> None:
    assert service.get_console_url() == f"{server.url}/api/v1/sessions/S"
    assert training.get_console_url() == f"{server.url}/api/v1/training_runs/S:train:0"
