import base64
import copy
import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.unit.client.recording_server import RecordingServer, Reply
from tests.unit.client.worker import sample, sample_by_handle
from tinsmith.client import RetryConfig, SamplingClient, ServiceClient
from tinsmith.client.futures import start
from tinsmith.core.errors import UserError
from tinsmith.types import ModelInput, SamplingParams

PROMPT = ModelInput.from_ints([1, 2, 3])
PARAMS = SamplingParams(max_tokens=4)


@pytest.fixture
def sampling(service: ServiceClient) -> SamplingClient:
    config = RetryConfig(max_connections=7)
    return service.create_sampling_client(base_model="tinsmith/tiny", retry_config=config).result(
        10
    )


def seq_ids(server: RecordingServer) -> list[int]:
    return [request.json["seq_id"] for request in server.of("asample")]


def test_a_pickled_client_samples_from_the_same_session_under_numbers_of_its_own(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    clone = pickle.loads(pickle.dumps(sampling))
    other = copy.deepcopy(sampling)
    for client in (sampling, clone, clone, other):
        assert client.sample(PROMPT, 1, PARAMS).result(5).sequences[0].tokens == [3, 2, 1]
    assert {r.json["sampling_session_id"] for r in server.of("asample")} == {"S:sample:0"}
    first, second, third, fourth = seq_ids(server)
    assert first == 0
    assert third == second + 1
    assert second % 10**9 == fourth % 10**9 == 0
    assert len({first, second // 10**9, fourth // 10**9}) == 3
    assert clone.get_base_model() == "tinsmith/tiny"
    assert clone._retry_config.max_connections == 7
    assert clone._connection is other._connection  # one heartbeat is enough
    assert server.paths().count("create_session") == 1
    assert [r.headers["x-api-key"] for r in server.of("asample")] == ["tml-key"] * 4


def test_a_handle_holds_no_key(
    server: RecordingServer, sampling: SamplingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = sampling.get_sampler_handle()
    state = json.loads(base64.urlsafe_b64decode(handle))
    assert state == {
        "session_id": "S",
        "sampling_session_id": "S:sample:0",
        "base_model": "tinsmith/tiny",
        "record_stability_info": False,
        "holder": {
            "base_url": server.url,
            "default_headers_overrides": {},
            "client_config": {},
            "client_dynamic_config": {},
            "api_key": None,
        },
    }
    SamplingClient.from_sampler_handle(handle, api_key="given").sample(PROMPT, 1, PARAMS).result(5)
    monkeypatch.setenv("TINSMITH_API_KEY", "from-the-environment")
    SamplingClient.from_sampler_handle(handle).sample(PROMPT, 1, PARAMS).result(5)
    keys = [request.headers["x-api-key"] for request in server.of("asample")]
    assert keys == ["given", "from-the-environment"]


@pytest.mark.parametrize("handle", ["", "!", "e30=", base64.urlsafe_b64encode(b"[1]").decode()])
def test_what_is_no_handle_is_refused(handle: str) -> None:
    with pytest.raises(UserError, match="not the handle of a sampling client"):
        SamplingClient.from_sampler_handle(handle)


def test_a_clone_ends_no_session_that_is_not_its_own(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    clone = pickle.loads(pickle.dumps(sampling))
    clone.sample(PROMPT, 1, PARAMS).result(5)
    connection = clone._connection
    start(lambda: connection.close("success", None), "close").result(5)
    assert "sessions/S/finish" not in server.paths()
    sampling.sample(PROMPT, 1, PARAMS).result(5)


def test_worker_processes_sample_at_the_same_time(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    handle = sampling.get_sampler_handle()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        pickled = [pool.submit(sample, sampling, [i, i + 1]) for i in range(6)]
        by_handle = pool.submit(sample_by_handle, handle, "tml-key", [8, 9])
        assert [f.result(60) for f in pickled] == [[i + 1, i] for i in range(6)]
        assert by_handle.result(60) == [9, 8]
    assert len(set(seq_ids(server))) == 7  # nobody takes another one's result for its own
    assert server.paths().count("create_session") == 1
    assert "sessions/S/finish" not in server.paths()


def test_a_clone_is_told_when_the_session_is_gone(
    server: RecordingServer, sampling: SamplingClient
) -> None:
    clone = pickle.loads(pickle.dumps(sampling))
    server.script("asample", Reply(410, {"message": "session_id='S': was finished"}))
    with pytest.raises(Exception, match="was finished"):
        clone.sample(PROMPT, 1, PARAMS).result(5)
