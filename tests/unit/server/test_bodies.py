"""Request bodies as they come over the wire: whole, and never deeper than they can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from tests.unit.server.services import running_service


async def test_a_compressed_body_is_one_whole_frame(tmp_path: Path) -> None:
    body = b'{"session_id": "none"}'
    frame = zstandard.compress(body)
    headers = {"Content-Encoding": "zstd"}
    async with running_service(state_dir=tmp_path) as (_, client):
        whole = await client.post("session_heartbeat", content=frame, headers=headers)
        assert (whole.status_code, whole.json()["field"]) == (404, "session_id")
        for wrong in (frame[:-3], frame[:4], b"", frame + b"x", frame + frame):
            answer = await client.post("session_heartbeat", content=wrong, headers=headers)
            assert (answer.status_code, answer.json()["field"]) == (400, "body"), answer.text


@pytest.mark.parametrize("endpoint", ["optim_step", "forward_backward", "create_model"])
async def test_json_nested_without_end_is_the_sender_s_error(tmp_path: Path, endpoint: str) -> None:
    headers = {"Content-Type": "application/json"}
    async with running_service(state_dir=tmp_path) as (_, client):
        answer = await client.post(endpoint, content=b"[" * 100_000, headers=headers)
    assert (answer.status_code, answer.json()["category"]) == (400, "user")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"api_key": "secret', "body: invalid JSON: EOF while parsing a string"),
        (b"", "body: invalid JSON: EOF while parsing a value"),
        (b"[]", "body=[]: input should be an object"),
    ],
)
async def test_a_body_that_is_no_object_is_named_the_body(
    tmp_path: Path, body: bytes, said: str
) -> None:
    async with running_service(state_dir=tmp_path) as (_, client):
        answer = await client.post("create_session", content=body)
    assert (answer.status_code, answer.json()["field"]) == (400, "body")
    assert answer.json()["message"].startswith(said)
    assert "secret" not in answer.text


@pytest.mark.parametrize("base_model", ["x" * 10_000, "y/" * 3_000, "~nobody-of-this-name", "a\0b"])
async def test_a_base_model_that_cannot_be_a_path_is_unknown(
    tmp_path: Path, base_model: str
) -> None:
    async with running_service(state_dir=tmp_path) as (_, client):
        session = await client.post("create_session", json={"tags": [], "sdk_version": "1"})
        body = {"session_id": session.json()["session_id"], "model_seq_id": 0}
        body |= {"base_model": base_model, "lora_config": {"rank": 4}}
        answer = await client.post("create_model", json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, "base_model")
