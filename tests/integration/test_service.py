"""The service over HTTP with the real engine and the bundled model."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.integration.service_process import (
    BASE_MODEL,
    PROTOBUF,
    ServiceProcess,
    WireClient,
    kill,
    make_data,
    wait_for_end,
)
from tinsmith.types import Datum, EncodedTextChunk, ImageChunk, ModelInput
from tinsmith.types.codec import encode_forward_backward_request

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service"), "--model", BASE_MODEL) as running:
        yield running


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[WireClient]:
    client = WireClient(service.ready)
    yield client
    client.post(f"sessions/{client.session_id}/finish", reason={"type": "success"})
    client.http.close()


def test_train_save_and_sample(client: WireClient) -> None:
    model = client.create_model()
    info = client.post("get_info", model_id=model.model_id)
    assert (info["lora_rank"], info["model_name"]) == (8, BASE_MODEL)
    data = make_data()
    losses = [model.train_step(data) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
    path = model.save("save_weights_for_sampler", "first")
    assert path == f"tinker://{model.model_id}/sampler_weights/first"
    sampler = client.create_sampler(0, model_path=path)
    described = client.http.get(f"samplers/{sampler}").json()
    assert described == {"sampler_id": sampler, "base_model": BASE_MODEL, "model_path": path}
    promise = client.asample(sampler, [50, 51, 52], seq_id=0, num_samples=3)
    assert len(set(promise["sample_sequence_ids"])) == 3
    response = client.samples(promise["request_id"])
    assert len(response.sequences) == 3
    assert all(0 < len(sequence.tokens) <= 8 for sequence in response.sequences)
    assert all(len(s.logprobs or []) == len(s.tokens) for s in response.sequences)


def test_prompt_logprobs_agree_with_the_trainer(client: WireClient) -> None:
    model = client.create_model()
    data = make_data(1)
    for _ in range(2):
        model.train_step(data)
    promise = model.forward_backward(data, forward_only=True)
    trainer = client.output(promise["request_id"]).loss_fn_outputs[0]["logprobs"].to_numpy()
    sampler = client.create_sampler(0, model_path=model.save("save_weights_for_sampler", "now"))
    tokens = [*data[0].model_input.to_ints(), int(data[0].loss_fn_inputs["target_tokens"].data[-1])]
    promise = client.asample(
        sampler, tokens, seq_id=0, prompt_logprobs=True, topk_prompt_logprobs=2
    )
    response = client.samples(promise["request_id"])
    logprobs = response.prompt_logprobs
    assert logprobs is not None
    assert logprobs[0] is None
    np.testing.assert_allclose(np.array(logprobs[1:], float), trainer, atol=1e-4)
    assert response.topk_prompt_logprobs is not None


def test_out_of_order_submissions_run_in_order(client: WireClient) -> None:
    data = make_data()
    ordered, shuffled = client.create_model(0), client.create_model(1)
    losses = [ordered.train_step(data) for _ in range(2)]
    second = shuffled.forward_backward(data, seq_id=3)
    step = shuffled.optim_step(seq_id=2)
    first = shuffled.forward_backward(data, seq_id=1)
    client.json_result(step["request_id"])
    found = [client.output(promise["request_id"]).loss for promise in (first, second)]
    np.testing.assert_allclose(found, losses, rtol=1e-5)


def test_a_repeated_submission_is_one_request(client: WireClient) -> None:
    model = client.create_model()
    data = make_data()
    first = model.forward_backward(data, seq_id=1)
    assert model.forward_backward(data, seq_id=1)["request_id"] == first["request_id"]
    refused = model.forward_backward(make_data(seed=9), seq_id=1, expect=400)
    assert refused["field"] == "seq_id"
    once = model.optim_step(seq_id=2)
    assert model.optim_step(seq_id=2) == once
    metrics = client.json_result(once["request_id"])["metrics"]
    assert metrics["step"] == 1
    for _ in range(2):  # results can be fetched again
        assert client.output(first["request_id"]).loss > 0
    body = {
        "session_id": client.session_id,
        "model_seq_id": 0,
        "base_model": BASE_MODEL,
        "lora_config": {"rank": 8, "seed": 1},
    }
    again = client.post("create_model", **body)
    assert again["model_id"] == model.model_id
    body["lora_config"] = {"rank": 4}
    assert client.post("create_model", expect=400, **body)["field"] == "model_seq_id"


def test_a_refused_request_uses_up_its_number(client: WireClient) -> None:
    model = client.create_model()
    refused = model.forward_backward(make_data(), "cross_entorpy", expect=400)
    assert refused["field"] == "loss_fn"
    assert "cross_entropy" in refused["hint"]
    garbled = {"model_id": model.model_id, "seq_id": 2, "adam_params": {"learning_rate": -1}}
    refused = client.post("optim_step", expect=400, **garbled)
    assert refused["field"] == "adam_params.learning_rate"
    model.seq_id = 2
    assert model.train_step(make_data()) > 0


def test_json_bodies_and_zstd_bodies_mean_the_same(client: WireClient) -> None:
    import zstandard

    model = client.create_model()
    data = make_data(2)
    expected = model.loss(data)
    content: dict[str, Any] = {"loss_fn": "cross_entropy", "data": []}
    for datum in data:
        inputs = {
            name: {"data": tensor.data, "dtype": tensor.dtype, "shape": tensor.shape}
            for name, tensor in datum.loss_fn_inputs.items()
        }
        model_input = datum.model_input.model_dump(mode="json")
        content["data"].append({"model_input": model_input, "loss_fn_inputs": inputs})
    promise = model.submit("forward", forward_input=content)
    assert client.output(promise["request_id"]).loss == pytest.approx(expected)
    body = encode_forward_backward_request(
        model.model_id, 3, data, "cross_entropy", {}, forward_only=True
    )
    headers = {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}
    answer = client.http.post("forward_backward", content=zstandard.compress(body), headers=headers)
    assert client.output(answer.json()["request_id"]).loss == pytest.approx(expected)


def bad_datums(context: int) -> dict[str, tuple[Datum, str]]:
    good = make_data(1)[0]
    tokens = good.model_input
    targets = good.loss_fn_inputs["target_tokens"]
    image = ImageChunk(data=b"x", format="png", expected_tokens=16)
    long = [5] * (context + 1)
    return {
        "missing weights": (
            Datum(tokens, {"target_tokens": targets}),
            "loss_fn_inputs.weights",
        ),
        "unexpected input": (
            Datum(tokens, {**good.loss_fn_inputs, "advantages": [0.0] * 16}),
            "loss_fn_inputs.advantages",
        ),
        "wrong length": (
            Datum(tokens, {"target_tokens": [1, 2], "weights": [1.0, 1.0]}),
            "loss_fn_inputs.target_tokens",
        ),
        "not finite": (
            Datum(tokens, {"target_tokens": targets, "weights": [np.nan] * 16}),
            "loss_fn_inputs.weights",
        ),
        "target outside the vocabulary": (
            Datum(tokens, {"target_tokens": [10**6] * 16, "weights": [1.0] * 16}),
            "loss_fn_inputs.target_tokens",
        ),
        "token outside the vocabulary": (
            Datum(ModelInput.from_ints([10**6] * 16), good.loss_fn_inputs),
            "model_input",
        ),
        "image": (Datum(ModelInput(chunks=[image]), good.loss_fn_inputs), "model_input.chunks"),
        "too long": (
            Datum(
                ModelInput.from_ints(long),
                {"target_tokens": long, "weights": [1.0] * len(long)},
            ),
            "model_input",
        ),
        "no tokens": (
            Datum(ModelInput(chunks=[EncodedTextChunk(tokens=[])]), good.loss_fn_inputs),
            "model_input",
        ),
    }


def test_bad_datums_are_refused_by_field_and_index_and_harm_nothing(client: WireClient) -> None:
    (served,) = client.http.get("get_server_capabilities").json()["supported_models"]
    model = client.create_model()
    before = model.loss(make_data())
    for what, (datum, field) in bad_datums(served["max_context_length"]).items():
        refused = model.forward_backward([make_data(1)[0], datum], expect=400)
        assert refused["field"] == field, what
        assert "datum 1" in refused["detail"], what
    assert model.loss(make_data()) == pytest.approx(before)


@pytest.mark.parametrize(
    ("endpoint", "body", "field"),
    [
        ("optim_step", {"adam_params": {"beta1": 1.0}}, "adam_params.beta1"),
        ("optim_step", {"adam_params": {"eps": 0}}, "adam_params.eps"),
        ("optim_step", {"adam_params": {"momentum": 0.9}}, "adam_params.momentum"),
        (
            "optim_step",
            {"optimizer_params": {"type": "dimuon", "learning_rate": 0.1}},
            "optimizer_params",
        ),
        ("optim_step", {"optimizer_params": {"type": "lion", "beta": 1}}, "optimizer_params"),
        ("optim_step", {}, "adam_params"),
        ("save_weights", {"path": "a/b"}, "path"),
        ("save_weights", {"path": ".."}, "path"),
        ("save_weights", {"path": "a", "ttl_seconds": 0}, "ttl_seconds"),
        ("save_weights_for_sampler", {}, "path"),
        ("save_weights_for_sampler", {"path": "a", "kind": "inflight"}, "kind"),
        ("load_weights", {"path": "tinker://r/sampler_weights/a"}, "path"),
    ],
)
def test_bad_lane_requests_name_the_field(
    client: WireClient, endpoint: str, body: dict[str, Any], field: str
) -> None:
    refused = client.create_model().submit(endpoint, expect=400, **body)
    assert refused["field"] == field
    assert field in refused["detail"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_samples": 0}, "num_samples"),
        ({"params": {"temperature": -1}}, "sampling_params.temperature"),
        ({"params": {"top_p": 0}}, "sampling_params.top_p"),
        ({"params": {"max_tokens": 10**6}}, "sampling_params.max_tokens"),
        ({"params": {"stop": [""]}}, "sampling_params.stop"),
        ({"params": {"stop": [1, 10**6]}}, "sampling_params.stop"),
        ({"prompt_logprobs": "false"}, "prompt_logprobs"),
        ({"topk_prompt_logprobs": 129}, "topk_prompt_logprobs"),
        ({"topk_sample_logprobs": 129}, "topk_sample_logprobs"),
        ({"topk_sample_logprobs": -1}, "topk_sample_logprobs"),
        (
            {"topk_sample_logprobs": 128, "num_samples": 4096, "params": {"max_tokens": 200}},
            "topk_sample_logprobs",
        ),
        ({"prompt_alt_tokens_k": 129}, "prompt_alt_tokens_k"),
        ({"prompt_logprobs_last_n": 1}, "prompt_logprobs_last_n"),
        ({"prompt_logprobs_last_n": 2, "prompt_logprobs": True}, "prompt_logprobs_last_n"),
        ({"record_stability_info": True}, "record_stability_info"),
        (
            {"target_prompt_logprobs": {"data": [1, 2], "dtype": "int64", "shape": [2, 1]}},
            "target_prompt_logprobs",
        ),
    ],
)
def test_what_sampling_does_not_honour_is_refused_by_field(
    client: WireClient, options: dict[str, Any], field: str
) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    prompt = ModelInput.from_ints([1, 2]).model_dump(mode="json")
    params = {"max_tokens": 4} | options.pop("params", {})
    body = {"sampling_session_id": sampler, "seq_id": 0, "prompt": prompt, "num_samples": 1}
    refused = client.post("asample", expect=400, sampling_params=params, **(body | options))
    assert refused["field"] == field


def test_a_taken_name_fails_the_future_and_overwrite_replaces(client: WireClient) -> None:
    model = client.create_model()
    path = model.save("save_weights", "best")
    failure = client.failure(model.submit("save_weights", path="best")["request_id"])
    assert (failure["category"], failure["field"]) == ("user", "path")
    assert model.save("save_weights", "best", overwrite=True) == path
    info = client.post("weights_info", tinker_path=path)
    assert (info["base_model"], info["lora_rank"], info["is_lora"]) == (BASE_MODEL, 8, True)


def test_loading_into_a_model_restores_weights_and_optimizer(client: WireClient) -> None:
    model = client.create_model()
    data = make_data()
    model.train_step(data)
    path = model.save("save_weights", "one")
    after = [model.train_step(data) for _ in range(2)]
    promise = model.submit("load_weights", path=path, optimizer=True)
    assert client.json_result(promise["request_id"])["path"] == path
    assert [model.train_step(data) for _ in range(2)] == after
    fresh = client.load_model(path, 1)
    assert [fresh.train_step(data) for _ in range(2)] == after
    assert client.post("get_info", model_id=fresh.model_id)["lora_rank"] == 8


def test_two_models_train_together_as_they_would_alone(client: WireClient) -> None:
    data = [make_data(seed=0), make_data(3, 24, seed=5)]
    alone = [client.create_model(n, rank=4 + 4 * n) for n in range(2)]
    expected = [
        [model.train_step(d) for _ in range(3)] for model, d in zip(alone, data, strict=True)
    ]
    together = [client.create_model(2 + n, rank=4 + 4 * n) for n in range(2)]
    promises: list[list[str]] = [[], []]
    for _ in range(3):
        for index, model in enumerate(together):
            promises[index].append(model.forward_backward(data[index])["request_id"])
            model.optim_step()
    found = [[client.output(request_id).loss for request_id in ids] for ids in promises]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_sampling_session_does_not_follow_the_training(client: WireClient) -> None:
    model = client.create_model()
    promise = model.submit("save_weights_for_sampler", sampling_session_seq_id=0)
    sampler = client.json_result(promise["request_id"])["sampling_session_id"]
    named = client.create_sampler(1, model_path=model.save("save_weights_for_sampler", "n"))
    data = make_data()

    def logprobs(sampler_id: str, seq_id: int) -> list[float | None]:
        promise = client.asample(sampler_id, [50, 51, 52], seq_id=seq_id, prompt_logprobs=True)
        return client.samples(promise["request_id"]).prompt_logprobs or []

    before = [logprobs(sampler, 0), logprobs(named, 0)]
    losses = [model.train_step(data) for _ in range(3)]
    assert [logprobs(sampler, 1), logprobs(named, 1)] == before
    assert model.loss(data) < losses[-1]  # nor does sampling touch the training


def test_a_crowd_of_samples_gets_what_each_would_get_alone(client: WireClient) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    prompts = [[5 + n, 6, 7 + n] for n in range(24)]

    def sample(number: int, offset: int) -> list[int]:
        promise = client.asample(
            sampler,
            prompts[number],
            seq_id=offset + number,
            params={"max_tokens": 6, "temperature": 1.0, "seed": number, "stop": []},
        )
        (sequence,) = client.samples(promise["request_id"]).sequences
        return sequence.tokens

    with ThreadPoolExecutor(24) as pool:
        crowd = list(pool.map(lambda n: sample(n, 0), range(24)))
    assert [sample(n, 100) for n in range(0, 24, 6)] == crowd[::6]


def test_a_repeated_sample_is_one_request(client: WireClient) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    first = client.asample(sampler, [1, 2], seq_id=0, num_samples=2)
    assert client.asample(sampler, [1, 2], seq_id=0, num_samples=2) == first


def test_a_cancelled_sample_fails_at_once_and_the_others_go_on(client: WireClient) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    long = {"max_tokens": 1500, "temperature": 1.0, "stop": []}
    promises = [client.asample(sampler, [50, 51], seq_id=n, params=long) for n in (0, 1)]
    started = time.perf_counter()
    for _ in range(2):  # again is no mistake
        answer = client.http.post("cancel_future", json={"request_id": promises[0]["request_id"]})
        assert answer.status_code == 204
    failure = client.failure(promises[0]["request_id"])
    assert time.perf_counter() - started < 5.0
    assert (failure["category"], failure["field"]) == ("user", "request_id")
    assert "was cancelled" in failure["error"]
    short = client.asample(sampler, [50, 51], seq_id=2)
    assert client.samples(short["request_id"]).sequences[0].tokens
    answer = client.http.post("cancel_future", json={"request_id": promises[1]["request_id"]})
    assert answer.status_code == 204
    client.failure(promises[1]["request_id"])
    answer = client.http.post("cancel_future", json={"request_id": short["request_id"]})
    assert answer.status_code == 204
    assert client.samples(short["request_id"]).sequences[0].tokens  # what is done stays done
    model = client.create_model()
    step = model.forward_backward(make_data(64, 64))["request_id"]
    assert client.post("cancel_future", expect=400, request_id=step)["field"] == "request_id"
    assert client.output(step).loss > 0


def test_a_batch_poll_tells_each_client_what_finished(client: WireClient) -> None:
    sampler = client.create_sampler(0, base_model=BASE_MODEL)

    def poll(after: int, clone_id: int = 0, **options: object) -> dict[str, Any]:
        target = {
            "type": "sampling_session",
            "sampling_session_id": sampler,
            "cloned_sampler_id": clone_id,
        }
        return client.post("retrieve_futures", target=target, prev_cursor=after, **options)

    assert poll(0, timeout=0.0) == {"completions": [], "cursor": 0}
    numbers = [
        client.post("join_sampling_session", sampling_session_id=sampler)["client_counter"]
        for _ in range(2)
    ]
    assert 1 <= numbers[0] < numbers[1]
    ours = {client.asample(sampler, [50], seq_id=n)["request_id"] for n in range(3)}
    seq_id = numbers[1] * 10**9
    theirs = client.asample(sampler, [50], seq_id=seq_id)["request_id"]
    found: dict[str, int] = {}
    cursor = 0
    while len(found) < 3:
        answer = poll(cursor)
        assert answer["completions"]
        cursor = answer["cursor"]
        for event in answer["completions"]:
            assert event["state"] == "finished"
            found[event["request_id"]] = event["response_payload_uncompressed_size"]
    assert set(found) == ours
    for request_id, size in found.items():
        result = client.wait(request_id)
        assert len(result) == size
    assert poll(cursor, timeout=0.0, retrieved_request_ids=list(ours)) == {
        "completions": [],
        "cursor": cursor,
    }
    (event,) = poll(0, numbers[1])["completions"]
    assert event["request_id"] == theirs


def test_unloading_frees_the_model_and_leaves_its_checkpoints(client: WireClient) -> None:
    model = client.create_model()
    path = model.save("save_weights_for_sampler", "kept")
    client.json_result(client.post("unload_model", model_id=model.model_id)["request_id"])
    assert model.optim_step(expect=410)["field"] == "model_id"
    sampler = client.create_sampler(0, model_path=path)
    promise = client.asample(sampler, [1, 2], seq_id=0)
    assert client.samples(promise["request_id"]).sequences


def test_a_killed_engine_fails_its_work_and_a_checkpoint_brings_it_back(
    service: ServiceProcess, client: WireClient
) -> None:
    model = client.create_model()
    data = make_data()
    model.train_step(data)
    path = model.save("save_weights", "safe")
    sampler_path = model.save("save_weights_for_sampler", "safe")
    sampler = client.create_sampler(0, model_path=sampler_path)
    expected = model.loss(data)
    (engine,) = service.engine_pids
    promises = [model.forward_backward(make_data(64, 64))["request_id"] for _ in range(4)]
    kill(engine)
    failures = [client.failure(request_id) for request_id in promises]
    assert {failure["category"] for failure in failures} == {"server"}
    assert "last checkpoint" in failures[0]["error"]
    lost = model.optim_step(expect=410)
    assert (lost["field"], lost["category"]) == ("model_id", "server")
    assert "last checkpoint" in lost["detail"]
    assert client.load_model(path, 1).loss(data) == pytest.approx(expected)
    assert service.engine_pids != [engine]
    promise = client.asample(sampler, [1, 2], seq_id=0)  # on disk, so it outlives the engine
    assert client.samples(promise["request_id"]).sequences


def test_a_finished_session_is_over_and_the_others_go_on(
    service: ServiceProcess, client: WireClient
) -> None:
    other = WireClient(service.ready)
    model = other.create_model()
    other.post(f"sessions/{other.session_id}/finish", reason={"type": "success"})
    gone = model.optim_step(expect=410)
    assert gone["field"] == "session_id"
    assert client.create_model().train_step(make_data()) > 0


def test_the_idle_service_uses_no_processor(service: ServiceProcess, client: WireClient) -> None:
    client.create_model()
    processes = [psutil.Process(pid) for pid in (service.process.pid, *service.engine_pids)]

    def used_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = used_s()
    time.sleep(1.0)
    assert used_s() - before <= 0.02


def test_an_answer_does_not_wait_for_a_delayed_acknowledgement(client: WireClient) -> None:
    times: list[float] = []
    for _ in range(30):
        started = time.perf_counter()
        client.http.get("healthz")
        times.append(time.perf_counter() - started)
    assert sorted(times)[15] < 0.03  # 0.04 s each where TCP_NODELAY is not set


def test_without_the_key_nothing_is_served(service: ServiceProcess) -> None:
    answer = httpx.get(f"{service.ready['url']}/api/v1/get_server_capabilities", trust_env=False)
    assert answer.status_code == 401
    assert service.ready["api_key"].startswith("tml-")
    assert service.ready_file.stat().st_mode & 0o777 == 0o600


def test_a_restarted_service_loads_its_checkpoints_and_ends_cleanly(
    tmp_path: Path, tiny_dir: Path
) -> None:
    data = make_data()
    with ServiceProcess(tmp_path) as first:
        client = WireClient(first.ready)
        model = client.create_model()
        model.train_step(data)
        path = model.save("save_weights", "kept")
        sampler_path = model.save("save_weights_for_sampler", "kept")
        expected = model.loss(data)
        (engine,) = first.engine_pids
        assert first.stop() == 0
        assert wait_for_end(engine)
        assert not first.ready_file.exists()
    with ServiceProcess(tmp_path) as second:
        client = WireClient(second.ready)
        assert client.load_model(path, 0).loss(data) == expected
        sampler = client.create_sampler(0, model_path=sampler_path)
        promise = client.asample(sampler, [1, 2], seq_id=0)
        assert client.samples(promise["request_id"]).sequences
        (engine,) = second.engine_pids
        second.stop(signal.SIGKILL)  # the engine notices the closed pipe
        assert wait_for_end(engine)


def test_a_base_model_that_cannot_be_loaded_fails_its_models_and_nothing_else(
    tmp_path: Path, tiny_dir: Path
) -> None:
    hollow = tmp_path / "hollow"
    hollow.mkdir()
    shutil.copy(tiny_dir / "config.json", hollow)
    with ServiceProcess(tmp_path) as service:
        client = WireClient(service.ready)
        body = {"session_id": client.session_id, "lora_config": {"rank": 4}}
        promise = client.post("create_model", model_seq_id=0, base_model=str(hollow), **body)
        failure = client.failure(promise["request_id"])
        assert str(hollow) in failure["error"]
        model_id = promise["model_id"]
        assert client.post("get_info", expect=410, model_id=model_id)["field"] == "model_id"
        assert not service.engine_pids
        refused = client.post(
            "create_model", expect=400, model_seq_id=1, base_model=str(tmp_path), **body
        )
        assert refused["field"] == "base_model"


def test_the_service_ends_when_no_session_is_live(tmp_path: Path) -> None:
    with ServiceProcess(tmp_path, "--idle-exit-s", "0.3") as service:
        assert service.process.wait(timeout=10) == 0
        assert not service.ready_file.exists()


def test_bad_options_are_one_line_on_stderr(tmp_path: Path) -> None:
    for options, expected in (
        (("--model", "no/such-model"), "model='no/such-model'"),
        (("--port", "99999"), "port=99999"),
    ):
        with pytest.raises(RuntimeError) as caught:
            ServiceProcess(tmp_path, *options)
        (line,) = str(caught.value).splitlines()[1:]
        assert line.startswith(f"error: {expected}")
