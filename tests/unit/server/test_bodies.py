"""Request bodies as they come over the wire: whole, and never deeper than they can be read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest
import zstandard

from tinsmith.server.app import make_app
from tinsmith.server.config import ServerConfig
from tinsmith.server.service import Service

Connect = Callable[[], AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def connect(tmp_path: Path) -> Connect:
    @asynccontextmanager
    async def _connect() -> AsyncIterator[httpx.AsyncClient]:
        async with Service.running(ServerConfig(state_dir=tmp_path)) as service:
            transport = httpx.ASGITransport(make_app(service))
            base_url = "http://service/api/v1/"
            async with httpx.AsyncClient(transport=transport, base_url=base_url) as client:
                yield client

    return _connect


async def test_a_compressed_body_is_one_whole_frame(connect: Connect) -> None:
    body = b'{"session_id": "none"}'
    frame = zstandard.compress(body)
    headers = {"Content-Encoding": "zstd"}
    async with connect() as client:
        whole = await client.post("session_heartbeat", content=frame, headers=headers)
        assert (whole.status_code, whole.json()["field"]) == (404, "session_id")
        for wrong in (frame[:-3], frame[:4], b"", frame + b"x", frame + frame):
            answer = await client.post("session_heartbeat", content=wrong, headers=headers)
            assert (answer.status_code, answer.json()["field"]) == (400, "body"), answer.text


@pytest.mark.parametrize("endpoint", ["optim_step", "forward_backward", "create_model"])
async def test_json_nested_without_end_is_the_sender_s_error(
    connect: Connect, endpoint: str
) -> None:
    headers = {"Content-Type": "application/json"}
    async with connect() as client:
        answer = await client.post(endpoint, content=b"[" * 100_000, headers=headers)
    assert (answer.status_code, answer.json()["category"]) == (400, "user")
