"""The HTTP face without an engine: keys, errors, bodies, sessions, long polls."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import zstandard

from tests.unit.server.services import endpoints_of
from tinsmith import telemetry
from tinsmith.server.app import make_app
from tinsmith.server.config import ServerConfig
from tinsmith.server.futures import PROTOBUF_TYPE, Outcome
from tinsmith.server.service import Service

PREFIX = "/api/v1/"
Start = Callable[..., AbstractAsyncContextManager[tuple[Service, httpx.AsyncClient]]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    @asynccontextmanager
    async def _start(**config: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
        async with Service.running(ServerConfig(state_dir=tmp_path, **config)) as service:
            transport = httpx.ASGITransport(make_app(service))
            base_url = "http://service/api/v1/"
            async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                yield service, client

    return _start


async def test_health_config_and_telemetry(start: Start) -> None:
    async with start() as (_, client):
        assert (await client.get("healthz")).json() == {"status": "ok"}
        for path, expected in (
            ("client/config", {"custom_loss_server_side": True}),
            ("client/dynamic_config", {"sample_cancel_enabled": True}),
        ):
            answer = await client.post(path, json={"sdk_version": "1", "new": 1})
            assert answer.json() == expected


async def test_telemetry_is_accepted_and_nothing_of_it_is_kept(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stored() -> list[bytes]:
        return [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]

    caplog.set_level("DEBUG")
    secret = "tml-" + "very-secret" * 3
    event = {"event": "UNHANDLED_EXCEPTION", "error_type": "ValueError", "error_message": secret}
    event |= {"traceback": secret, "event_data": {"x-api-key": secret}, "severity": "ERROR"}
    other = {"event": "UNHANDLED_EXCEPTION", "error_type": f"{secret} x", "event_name": secret}
    async with start() as (_, client):
        body = {"events": [event, other], "session_id": "s", "platform": "Linux"}
        answer = await client.post("telemetry", json=body)
        assert answer.json() == {"status": "accepted"}
        for bad in ({}, {"events": 1}, {"events": [1]}, {"events": [{"event": None}]}):
            refused = await client.post("telemetry", json=bad)
            assert refused.status_code == 400
            assert refused.json()["field"].startswith("events")
    assert "a client reports ValueError" in caplog.text
    assert secret not in caplog.text
    assert stored()
    assert not [content for content in stored() if b"very-secret" in content]


async def test_capabilities_name_the_bundled_model(start: Start, tiny_dir: Path) -> None:
    async with start() as (_, client):
        (model,) = (await client.get("get_server_capabilities")).json()["supported_models"]
    assert model["model_name"] == "tinsmith/tiny"
    assert model["max_context_length"] > 0


async def test_a_wrong_key_is_401_and_health_needs_none(start: Start) -> None:
    async with start(api_key="tml-right") as (_, client):
        assert (await client.get("healthz")).status_code == 200
        for headers in ({}, {"X-API-Key": "tml-wrong"}):
            answer = await client.get("get_server_capabilities", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["field"] == "X-API-Key"
        answer = await client.get("get_server_capabilities", headers={"X-API-Key": "tml-right"})
        assert answer.status_code == 200


async def test_sessions_open_beat_and_finish(start: Start) -> None:
    async with start() as (_, client):
        opened = (await client.post("create_session", json={"sdk_version": "1"})).json()
        beat = {"session_id": opened["session_id"], "type": "session_heartbeat"}
        assert (await client.post("session_heartbeat", json=beat)).status_code == 200
        reason = {"reason": {"type": "success"}, "detail": None}
        path = f"sessions/{opened['session_id']}/finish"
        assert (await client.post(path, json=reason)).status_code == 200
        assert (await client.post("session_heartbeat", json=beat)).status_code == 410


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("create_session", {"sdk_version": "1", "colour": 1}, 400, "colour"),
        ("create_session", {}, 400, "sdk_version"),
        ("session_heartbeat", {"session_id": "none"}, 404, "session_id"),
        ("get_info", {"model_id": "none"}, 404, "model_id"),
        ("optim_step", {"model_id": "none", "seq_id": 1}, 404, "model_id"),
        ("retrieve_future", {"request_id": "none"}, 404, "request_id"),
        ("cancel_future", {"request_id": "none"}, 404, "request_id"),
        ("cancel_future", {}, 400, "request_id"),
        ("join_sampling_session", {"sampling_session_id": "x"}, 404, "sampling_session_id"),
        ("retrieve_futures", {"target": {}}, 400, "target.sampling_session_id"),
        (
            "retrieve_futures",
            {"target": {"sampling_session_id": "x"}, "timeout": 0.0},
            404,
            "sampling_session_id",
        ),
        (
            "retrieve_futures",
            {"target": {"sampling_session_id": "x"}, "prev_cursor": -1},
            400,
            "prev_cursor",
        ),
        ("weights_info", {"tinker_path": "nonsense"}, 400, "tinker_path"),
        ("weights_info", {"tinker_path": "tinker://r/weights/a"}, 404, "tinker_path"),
        ("load_weights", {"path": "tinker://r/weights/a"}, 400, "model_id"),
        (
            "save_weights_for_sampler",
            {"model_id": "m", "seq_id": 1, "sampling_session_seq_id": -1},
            400,
            "sampling_session_seq_id",
        ),
        (
            "asample",
            {"prompt": {"chunks": []}, "sampling_params": {}, "seq_id": -1},
            400,
            "seq_id",
        ),
        (
            "asample",
            {"prompt": {"chunks": []}, "sampling_params": {}},
            400,
            "sampling_session_id",
        ),
        (
            "asample",
            {"prompt": {"chunks": []}, "sampling_params": {}, "sampling_session_id": "s"},
            404,
            "sampling_session_id",
        ),
    ],
)
async def test_bad_requests_name_the_field(
    start: Start, path: str, body: dict[str, Any], status: int, field: str
) -> None:
    async with start() as (_, client):
        answer = await client.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()
    assert set(error) == {"detail", "error", "category", "message", "field", "hint"}
    assert (error["field"], error["category"]) == (field, "user")
    assert field in error["detail"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base_model": "tinsmith/tinny"}, "base_model"),
        ({"lora_config": {"rank": 0}}, "lora_config.rank"),
        ({"lora_config": {"rank": 257}}, "lora_config.rank"),
        ({"lora_config": {"rank": 8, "alpha": 3}}, "lora_config.alpha"),
        (
            {
                "lora_config": {
                    "rank": 8,
                    "train_attn": False,
                    "train_mlp": False,
                    "train_unembed": False,
                }
            },
            "lora_config.train_attn",
        ),
        ({"lora_config": None}, "lora_config"),
        ({"optimizer_config": {"type": "lion", "speed": 9}}, "optimizer_config.type"),
        ({"optimizer_config": {"type": "dimuon", "version": 2}}, "optimizer_config.version"),
        ({"model_seq_id": -1}, "model_seq_id"),
    ],
)
async def test_models_that_cannot_be_made_are_refused_before_an_engine_starts(
    start: Start, changes: dict[str, Any], field: str
) -> None:
    async with start() as (service, client):
        opened = (await client.post("create_session", json={"sdk_version": "1"})).json()
        body = {
            "session_id": opened["session_id"],
            "model_seq_id": 0,
            "base_model": "tinsmith/tiny",
            "lora_config": {"rank": 8},
        }
        answer = await client.post("create_model", json=body | changes)
        assert not service.engines.units
    assert (answer.status_code, answer.json()["field"]) == (400, field)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_metadata_that_json_cannot_tell_again_is_refused(start: Start, number: str) -> None:
    async with start() as (_, client):
        body = f'{{"sdk_version": "1", "user_metadata": {{"a": [{number}]}}}}'
        answer = await client.post("create_session", content=body)
    assert (answer.status_code, answer.json()["field"]) == (400, "user_metadata")


async def test_an_unknown_base_model_offers_the_nearest(start: Start) -> None:
    async with start() as (_, client):
        opened = (await client.post("create_session", json={"sdk_version": "1"})).json()
        body = {
            "session_id": opened["session_id"],
            "sampling_session_seq_id": 0,
            "base_model": "tinsmith/tinny",
        }
        answer = await client.post("create_sampling_session", json=body)
    assert "tinsmith/tiny" in answer.json()["hint"]


async def test_unknown_routes_and_broken_json_answer_in_the_same_form(start: Start) -> None:
    async with start() as (_, client):
        unknown = await client.get("nowhere")
        broken = await client.post("create_session", content=b"{not json")
        wrong = await client.post("forward_backward", content=b"\xff\xff\xff")
    assert (unknown.status_code, broken.status_code, wrong.status_code) == (404, 400, 400)
    for answer in (unknown, broken, wrong):
        assert answer.json()["category"] == "user"
        assert answer.json()["detail"]
        assert answer.json()["hint"]
    assert unknown.json()["field"] == "path"


async def test_bodies_above_the_cap_are_413_compressed_or_not(start: Start) -> None:
    async with start(limits={"max_body_bytes": 1000}) as (_, client):
        plain = await client.post("forward_backward", content=b"x" * 1001)
        bomb = zstandard.compress(b"x" * 2_000_000)
        assert len(bomb) < 1000
        headers = {"Content-Encoding": "zstd", "Content-Type": PROTOBUF_TYPE}
        packed = await client.post("forward_backward", content=bomb, headers=headers)
        garbage = await client.post("forward_backward", content=b"garbage", headers=headers)
        other = await client.post(
            "forward_backward", content=b"x", headers={"Content-Encoding": "br"}
        )
    assert [a.status_code for a in (plain, packed, garbage, other)] == [413, 413, 400, 400]


async def test_a_body_above_the_cap_uses_up_its_number_or_says_that_it_does_not(
    start: Start,
) -> None:
    skipped: list[tuple[str, int]] = []
    head = b"\x0a\x07s:train" + b"\x10\xac\x02"  # model_id "s:train", seq_id 300
    binary = {"Content-Type": PROTOBUF_TYPE}
    async with start(limits={"max_body_bytes": 1000}) as (service, client):
        service.models.skip = lambda *position: skipped.append(position)
        body = head + b"\x1a" + b"x" * 5_000
        packed = zstandard.compress(body)
        noise = zstandard.compress(head + random.Random(0).randbytes(2_000))
        assert len(packed) < 1000 < len(noise)
        for content, encoding in ((body, "identity"), (packed, "zstd"), (noise, "zstd")):
            headers = {**binary, "Content-Encoding": encoding}
            answer = await client.post("forward_backward", content=content, headers=headers)
            assert answer.status_code == 413
            assert "seq_id" not in answer.json()["hint"]
        assert skipped == [("s:train", 300)] * 3
        for content in (head[:5], b"", b"\x0a", b"\xff", b"\x10\x80"):
            cut = content + b"\x80" * 2_000
            answer = await client.post("forward", content=cut, headers=binary)
            assert "its seq_id is not used up" in answer.json()["hint"]
        text = await client.post("optim_step", content=b'{"model_id": "' + b"x" * 2_000)
        assert "its seq_id is not used up" in text.json()["hint"]
    assert len(skipped) == 3


async def test_a_checkpoint_id_without_its_kind_is_refused_with_the_kinds(start: Start) -> None:
    async with start() as (_, client):
        answers = [
            await client.delete("training_runs/r/checkpoints/step-1"),
            await client.get("training_runs/r/checkpoints/step-1/archive"),
            await client.put("training_runs/r/checkpoints/step-1/ttl", json={}),
        ]
        other = await client.get("no/such/path")
    for answer in answers:
        assert answer.status_code in (404, 405)
        assert (
            "weights/NAME, sampler_weights/NAME or external_weights/NAME" in answer.json()["hint"]
        )
    assert "NAME" not in other.json()["hint"]


async def test_a_span_of_time_that_ends_before_it_begins_is_refused(start: Start) -> None:
    async with start() as (_, client):
        for start_hour, end_hour, status in (
            ("05", "05", 400),
            ("06", "05", 400),
            ("05", "06", 200),
        ):
            span = {"starting_on": f"2026-01-01T{start_hour}:00:00Z"}
            span["ending_before"] = f"2026-01-01T{end_hour}:00:00"
            answer = await client.get("billing/usage/events", params=span)
            assert answer.status_code == status, answer.text
            if status == 400:
                assert answer.json()["field"] == "ending_before"


async def test_a_pending_future_is_408_after_the_hold_and_a_result_comes_as_it_is(
    start: Start,
) -> None:
    async with start(limits={"long_poll_s": 0.05}) as (service, client):
        request_id = service.futures.create()
        body = {"request_id": request_id, "allow_metadata_only": True}
        started = time.perf_counter()
        answer = await client.post("retrieve_future", json=body)
        assert time.perf_counter() - started >= 0.05
        assert answer.status_code == 408
        assert answer.json() == {
            "type": "try_again",
            "request_id": request_id,
            "queue_state": "active",
        }
        service.futures.complete(request_id, Outcome(b"\x01\x02", PROTOBUF_TYPE))
        for _ in range(2):
            answer = await client.post("retrieve_future", json=body)
            assert answer.headers["content-type"] == PROTOBUF_TYPE
            assert answer.content == b"\x01\x02"


async def test_a_large_result_is_announced_by_size_where_the_client_allows_it(
    start: Start,
) -> None:
    async with start(limits={"metadata_result_bytes": 10}) as (service, client):
        request_id = service.futures.create()
        service.futures.complete(request_id, Outcome(b"x" * 20, PROTOBUF_TYPE))
        body = {"request_id": request_id, "allow_metadata_only": True}
        answer = (await client.post("retrieve_future", json=body)).json()
        assert answer == {"status": "complete_metadata", "response_payload_size": 20}
        body["allow_metadata_only"] = False
        assert (await client.post("retrieve_future", json=body)).content == b"x" * 20


def test_listening_beyond_this_machine_needs_a_key() -> None:
    with pytest.raises(ValueError, match="needs an API key"):
        ServerConfig(host="0.0.0.0")
    ServerConfig(host="0.0.0.0", api_key="tml-x")
    ServerConfig(host="::1")


def test_the_api_process_needs_no_torch() -> None:
    """It starts in half a second and leaves the memory to the engine."""
    code = (
        "import sys, tinsmith.server.serving; "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


async def test_every_endpoint_stands_in_the_docs(start: Start) -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "service.md"
    documented = page.read_text(encoding="utf-8")
    async with start() as (service, _):
        paths = {path for _, path in endpoints_of(make_app(service))}
    endpoints = {path.removeprefix(PREFIX) for path in paths if path.startswith(PREFIX)}
    assert len(endpoints) > 30
    assert [name for name in sorted(endpoints) if f"{name}`" not in documented] == []


async def test_a_service_leaves_no_recorded_run_open(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, is_recorded in (("off", False), (str(tmp_path / "records"), True)):
        monkeypatch.setenv("TINSMITH_RECORD", place)
        async with start() as (service, client):
            assert (service.futures.recorder is not None) is is_recorded
            malformed = await client.get("healthz", headers={"traceparent": "00-zz-1-01"})
            assert malformed.status_code == 200
        assert telemetry.open_runs() == []
