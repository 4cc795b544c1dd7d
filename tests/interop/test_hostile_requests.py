"""Whatever arrives, the answer is a result or a 4xx, and other models never notice."""

from __future__ import annotations

import collections
import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import zstandard

from tests.integration.service_process import (
    BASE_MODEL,
    PROTOBUF,
    ServiceProcess,
    WireClient,
    make_data,
)
from tests.interop.mutations import mutated_bytes, mutated_json, mutated_message
from tests.unit.server.services import running_service
from tinsmith.server.config import ServerLimits
from tinsmith.types import Datum, ModelInput
from tinsmith.types.codec import (
    decode_forward_backward_output,
    decode_sample_response,
    encode_forward_backward_request,
)

pytestmark = pytest.mark.integration
IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="module")

BODY_CAP = 2**20
NUM_PROTOBUF = NUM_JSON = 10_000 if os.environ.get("TINSMITH_SLOW") else 2000
REQUESTS_PER_MODEL = 50
"""Damaged sequence numbers use up a model's lane; a new one now and then keeps the rest deep."""


class Wire:
    """Requests to a service in this process; everything that came back is counted."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.session_id = ""
        self.num_models = 0
        self.statuses: collections.Counter[int] = collections.Counter()
        self.pending: list[str] = []

    async def post(self, endpoint: str, **body: object) -> dict[str, Any]:
        response = await self.http.post(endpoint, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def open(self) -> None:
        opened = await self.post("create_session", tags=[], sdk_version="test")
        self.session_id = opened["session_id"]

    async def wait(self, request_id: str) -> httpx.Response:
        while True:
            response = await self.http.post("retrieve_future", json={"request_id": request_id})
            if response.status_code != 408:
                return response

    async def create_model(self) -> str:
        promise = await self.post(
            "create_model",
            session_id=self.session_id,
            model_seq_id=self.num_models,
            base_model=BASE_MODEL,
            lora_config={"rank": 2, "seed": 1},
        )
        self.num_models += 1
        result = await self.wait(promise["request_id"])
        return result.json()["model_id"]

    async def send(self, endpoint: str, content: bytes, media_type: str) -> None:
        """A hostile request: the answer is a 4xx that says what is wrong, or a valid one."""
        headers = {"Content-Type": media_type}
        response = await self.http.post(endpoint, content=content, headers=headers)
        self.statuses[response.status_code] += 1
        assert response.status_code < 500, (endpoint, content, response.text)
        if response.status_code >= 400:
            refusal = response.json()
            assert refusal["category"] == "user" or response.status_code == 410, refusal
            assert refusal["message"], (endpoint, content)
        elif response.content and "request_id" in (found := response.json()):
            self.pending.append(found["request_id"])

    async def drain(self) -> collections.Counter[str]:
        """Waits for everything accepted; nothing may end in a failure of the service's own."""
        ends: collections.Counter[str] = collections.Counter()
        for request_id in self.pending:
            response = await self.wait(request_id)
            if response.status_code == 404 or response.status_code == 410:
                ends["gone"] += 1
                continue
            assert response.status_code == 200, response.text
            if response.headers["content-type"].startswith(PROTOBUF):
                ends["ok"] += 1
                continue
            result = response.json()
            assert result.get("category", "user") == "user", result
            ends["refused" if "error" in result else "ok"] += 1
        self.pending.clear()
        return ends


class Bystander:
    """A model that trained a step, and what it says of fixed data."""

    def __init__(self, wire: Wire, model_id: str, sampler_id: str) -> None:
        self.wire, self.model_id, self.sampler_id = wire, model_id, sampler_id
        self.seq_id = 4
        self.num_samples = 0

    @classmethod
    async def make(cls, wire: Wire) -> Bystander:
        model_id = await wire.create_model()
        body = encode_forward_backward_request(model_id, 1, make_data(2), "cross_entropy", {})
        headers = {"Content-Type": PROTOBUF}
        await wire.http.post("forward_backward", content=body, headers=headers)
        step = {"learning_rate": 0.01}
        await wire.post("optim_step", model_id=model_id, seq_id=2, adam_params=step)
        saved = await wire.post(
            "save_weights_for_sampler", model_id=model_id, seq_id=3, sampling_session_seq_id=0
        )
        found = (await wire.wait(saved["request_id"])).json()
        return cls(wire, model_id, found["sampling_session_id"])

    async def says(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Logprobs of the trainer and of the sampler, and a greedy sample."""
        body = encode_forward_backward_request(
            self.model_id, self.seq_id, make_data(3), "cross_entropy", {}, forward_only=True
        )
        self.seq_id += 1
        headers = {"Content-Type": PROTOBUF}
        answer = await self.wire.http.post("forward_backward", content=body, headers=headers)
        output = decode_forward_backward_output(
            (await self.wire.wait(answer.json()["request_id"])).content
        )
        trained = [record["logprobs"].to_numpy() for record in output.loss_fn_outputs]
        promise = await self.wire.post(
            "asample",
            sampling_session_id=self.sampler_id,
            seq_id=10**6 + self.num_samples,
            prompt=ModelInput.from_ints([5, 6, 7, 8]).model_dump(mode="json"),
            sampling_params={"max_tokens": 4, "temperature": 0.0},
            num_samples=1,
            prompt_logprobs=True,
        )
        self.num_samples += 1
        response = decode_sample_response(
            (await self.wire.wait(promise["request_id"])).content, promise["sample_sequence_ids"]
        )
        sampled = np.array((response.prompt_logprobs or [])[1:], np.float32)
        return np.concatenate(trained), sampled, response.sequences[0].tokens

    async def check(self, before: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
        """It says the same as before, the trainer to the bit.

        The sampler may hold a snapshot's weights merged or apart, as its company asks, which
        rounds differently.
        """
        trained, sampled, tokens = await self.says()
        np.testing.assert_array_equal(trained, before[0])
        np.testing.assert_allclose(sampled, before[1], atol=1e-5)
        assert tokens == before[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path
) -> AsyncIterator[httpx.AsyncClient]:
    limits = ServerLimits(max_body_bytes=BODY_CAP, long_poll_s=2.0, seq_gap_timeout_s=0.3)
    state_dir = tmp_path_factory.mktemp("hostile")
    async with running_service(state_dir=state_dir, models=(BASE_MODEL,), limits=limits) as (
        _,
        http,
    ):
        http.timeout = httpx.Timeout(60.0)
        yield http


@pytest_asyncio.fixture(loop_scope="module")
async def wire(running: httpx.AsyncClient) -> Wire:
    wire = Wire(running)
    await wire.open()
    return wire


def training_body(model_id: str, seq_id: int, kind: int) -> bytes:
    data = make_data(2, 6, seed=kind)
    if kind % 3 == 0:
        return encode_forward_backward_request(model_id, seq_id, data, "cross_entropy", {})
    policy = []
    for datum in data:
        targets = datum.loss_fn_inputs["target_tokens"]
        inputs = {"target_tokens": targets, "logprobs": [-1.0] * 6, "advantages": [0.5] * 6}
        policy.append(Datum(datum.model_input, inputs))
    config: dict[str, Any] = {"clip_high_threshold": 1.5} if kind % 3 == 1 else {}
    return encode_forward_backward_request(model_id, seq_id, policy, "ppo", config)


@IN_ONE_LOOP
async def test_thousands_of_damaged_training_requests(wire: Wire) -> None:
    rng = random.Random(20)
    model_id = ""
    bystander = await Bystander.make(wire)
    before = await bystander.says()
    # Damage to bytes may hit the sequence number and leave a gap: it has a model of its own.
    for mutate in (mutated_message, mutated_bytes):
        for index in range(NUM_PROTOBUF // 2):
            seq_id = index % REQUESTS_PER_MODEL + 1
            if seq_id == 1:
                model_id = await wire.create_model()
            body = training_body(model_id, seq_id, index % 7)
            await wire.send("forward_backward", mutate(rng, body), PROTOBUF)
    ends = await wire.drain()
    assert wire.statuses[400] > NUM_PROTOBUF / 10  # the damage is damage,
    assert ends["ok"] > NUM_PROTOBUF / 20  # and some of it is harmless
    await bystander.check(before)


def json_requests(session_id: str, model_id: str, sampler_id: str, index: int) -> dict[str, Any]:
    """A valid body for each endpoint that takes one."""
    run = {"model_id": model_id, "seq_id": index % REQUESTS_PER_MODEL + 1}
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [5, 6, 7]}]}
    path = f"tinker://{model_id}/weights/a"
    datum = {
        "model_input": prompt,
        "loss_fn_inputs": {
            "target_tokens": {"data": [1, 2, 3], "dtype": "int64", "shape": [3]},
            "weights": {"data": [1.0, 2.0, 3.0], "dtype": "float32", "shape": [3]},
        },
    }
    content = {"data": [datum], "loss_fn": "cross_entropy", "loss_fn_config": {}}
    lora = {"rank": 2, "seed": 3, "train_mlp": True, "train_attn": True, "train_unembed": True}
    step = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1}
    return {
        "create_session": {"tags": ["a"], "user_metadata": {"a": "b"}, "sdk_version": "x"},
        "create_model": {
            "session_id": session_id,
            "model_seq_id": 5000 + index,
            "base_model": BASE_MODEL,
            "lora_config": lora,
            "user_metadata": {"a": "b"},
        },
        "get_info": {"model_id": model_id, "type": "get_info"},
        "forward": {**run, "forward_input": content},
        "forward_backward": {**run, "forward_backward_input": content},
        "optim_step": {**run, "adam_params": step, "type": "optim_step"},
        "save_weights": {**run, "path": "a", "overwrite": True, "user_metadata": {"a": "b"}},
        "save_weights_for_sampler": {**run, "path": f"a{index}", "kind": "snapshot"},
        "load_weights": {**run, "path": path, "optimizer": True, "type": "load_weights"},
        "create_sampling_session": {
            "session_id": session_id,
            "sampling_session_seq_id": 5000 + index,
            "base_model": BASE_MODEL,
        },
        "asample": {
            "sampling_session_id": sampler_id,
            "seq_id": index,
            "prompt": prompt,
            "num_samples": 2,
            "prompt_logprobs": True,
            "topk_prompt_logprobs": 2,
            "topk_sample_logprobs": 2,
            "prompt_alt_tokens_k": 2,
            "prompt_logprobs_last_n": 1,
            "target_prompt_logprobs": {
                "data": [9, 8],
                "dtype": "int64",
                "shape": [2, 4],
                "sparse_crow_indices": [0, 1, 2],
                "sparse_col_indices": [3, 0],
            },
            "sampling_params": {
                "max_tokens": 4,
                "temperature": 0.7,
                "top_k": 3,
                "top_p": 0.9,
                "seed": 5,
                "stop": ["x", "y"],
            },
        },
        "retrieve_future": {"request_id": "none", "allow_metadata_only": False},
        "cancel_future": {"request_id": "none"},
        "retrieve_futures": {
            "target": {
                "type": "sampling_session",
                "sampling_session_id": sampler_id,
                "cloned_sampler_id": 0,
            },
            "prev_cursor": 0,
            "timeout": 0.0,
            "retrieved_request_ids": ["a"],
        },
        "session_heartbeat": {"session_id": session_id, "type": "session_heartbeat"},
        "sessions/none/finish": {"reason": {"type": "success"}, "detail": "x"},
        "sessions/search": {"session_id": "x", "user_metadata": {"a": "b"}, "limit": 5},
        "weights_info": {"tinker_path": path},
        "copy_weights": {"source_path": path, "destination_project_id": "p", "ttl_seconds": 7200},
        "client/config": {"sdk_version": "x"},
        "telemetry": {"events": [{"event": "x", "event_name": "y"}], "session_id": "z"},
    }


@IN_ONE_LOOP
async def test_thousands_of_damaged_json_requests(wire: Wire) -> None:
    rng = random.Random(21)
    bystander = await Bystander.make(wire)
    before = await bystander.says()
    model_id = ""
    answered: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    for index in range(NUM_JSON):
        if index % REQUESTS_PER_MODEL == 0:
            model_id = await wire.create_model()
        bodies = json_requests(wire.session_id, model_id, bystander.sampler_id, index)
        endpoint = rng.choice(list(bodies))
        seen = collections.Counter(wire.statuses)
        await wire.send(endpoint, mutated_json(rng, bodies[endpoint]), "application/json")
        answered[endpoint] += wire.statuses - seen
    ends = await wire.drain()
    assert set(wire.statuses) <= {200, 204, 400, 404, 408, 410, 413}, wire.statuses
    assert ends["ok"] > 15  # of some 45 that are accepted
    await bystander.check(before)


@IN_ONE_LOOP
async def test_random_valid_requests_are_all_accepted(wire: Wire) -> None:
    rng = random.Random(22)
    model_id = await wire.create_model()
    bystander = await Bystander.make(wire)
    for index in range(200):
        if index % REQUESTS_PER_MODEL == 0:
            model_id = await wire.create_model()
        if rng.random() < 0.5:
            seq_id = index % REQUESTS_PER_MODEL + 1
            body = training_body(model_id, seq_id, rng.randrange(50))
            await wire.send("forward_backward", body, PROTOBUF)
        else:
            step = {"learning_rate": rng.random(), "weight_decay": rng.random()}
            seq_id = index % REQUESTS_PER_MODEL + 1
            await wire.post("optim_step", model_id=model_id, seq_id=seq_id, adam_params=step)
            prompt = [rng.randrange(500) for _ in range(rng.randint(1, 40))]
            promise = await wire.post(
                "asample",
                sampling_session_id=bystander.sampler_id,
                seq_id=index,
                prompt=ModelInput.from_ints(prompt).model_dump(mode="json"),
                sampling_params={
                    "max_tokens": rng.randint(1, 6),
                    "temperature": rng.random() * 3,
                    "top_p": rng.uniform(0.01, 1),
                    "top_k": rng.choice([-1, 1, 2, 50, 10**6]),
                    "seed": rng.choice([None, 0, 2**31, 2**63 - 1]),
                },
                num_samples=rng.randint(1, 4),
            )
            wire.pending.append(promise["request_id"])
    assert set(wire.statuses) == {200}
    assert set(await wire.drain()) == {"ok"}


@pytest.fixture
def client(service: ServiceProcess) -> Iterator[WireClient]:
    client = WireClient(service.ready)
    yield client
    client.http.close()


def test_bombs_and_giants_over_the_socket(client: WireClient, service: ServiceProcess) -> None:
    model = client.create_model()
    before = model.loss(make_data())
    packed = {"Content-Type": PROTOBUF, "Content-Encoding": "zstd"}
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(400 * 2**20))
    cases: list[tuple[str, bytes, dict[str, str], int]] = [
        ("forward_backward", bomb, packed, 413),
        ("forward_backward", zstandard.compress(bytes(10**6))[:-9], packed, 400),
        ("forward_backward", b"not zstd", packed, 400),
        ("forward_backward", b"", packed, 400),
        ("forward_backward", b"", {"Content-Type": PROTOBUF}, 404),
        ("forward_backward", b"{}", {"Content-Type": "text/plain"}, 400),
        ("forward_backward", b"x", packed | {"Content-Encoding": "br"}, 400),
        ("asample", b"[" * 10**6, {"Content-Type": "application/json"}, 400),
        ("asample", b'{"seq_id": ' + b"9" * 10**5 + b"}", {}, 400),
        ("asample", b"\xff\xfe{}", {}, 400),
        ("ext/stream_sample", b"\xff\xfe{}", {}, 400),
        ("ext/stream_sample", b'{"num_samples": 1e99}', {}, 400),
        ("create_model", b'{"a": NaN}', {}, 400),
    ]
    for endpoint, content, headers, status in cases:
        response = client.http.post(endpoint, content=content, headers=headers)
        assert response.status_code == status, (endpoint, content[:20], response.text)
        assert response.json()["message"]
    long = [5] * 1_000_000
    sampler = client.create_sampler(0, base_model=BASE_MODEL)
    response = client.http.post(
        "asample",
        json={
            "sampling_session_id": sampler,
            "seq_id": 0,
            "prompt": {"chunks": [{"type": "encoded_text", "tokens": long}]},
            "sampling_params": {"max_tokens": 1},
            "num_samples": 1,
        },
    )
    assert (response.status_code, response.json()["field"]) == (400, "prompt")
    datum = Datum(ModelInput.from_ints(long), {"target_tokens": long, "weights": [1.0] * len(long)})
    refused = model.forward_backward([datum], expect=400)
    assert refused["field"] == "model_input"
    assert model.loss(make_data()) == before
    assert service.process.poll() is None


def test_damaged_requests_over_the_socket(client: WireClient) -> None:
    rng = random.Random(23)
    model = client.create_model(0)
    before = model.loss(make_data())
    victim = client.create_model(1)
    for index in range(300):
        body = training_body(victim.model_id, index + 1, index % 7)
        mutate = mutated_message if index % 2 else mutated_bytes
        headers = {"Content-Type": PROTOBUF}
        response = client.http.post("forward_backward", content=mutate(rng, body), headers=headers)
        assert response.status_code < 500, response.text
    for path in ("", "none", "training_runs/%00", "training_runs/%ff/checkpoints", "sessions/.."):
        assert client.http.get(path).status_code < 500
    for query in ("limit=-1", "limit=x", "offset=1e9", f"offset={2**70}", "unknown=1", "limit=%00"):
        assert client.http.get(f"training_runs?{query}").status_code == 400
    assert model.loss(make_data()) == before
