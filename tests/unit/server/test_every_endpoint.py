"""What holds for every endpoint: it is documented, and it refuses nonsense in one shape."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.assets import REPOSITORY
from tests.unit.server.services import endpoints_of
from tinsmith.server.app import make_app
from tinsmith.server.config import ServerConfig
from tinsmith.server.service import Service

PREFIX = "/api/v1/"
BAD_BODIES = {
    "empty": b"",
    "no object": b"[1]",
    "no JSON": b"\x00{",
    "wrong kinds": b'{"model_id": 7, "session_id": [], "request_id": {}, "seq_id": "x", "data": 1}',
    "unknown field": b'{"no_such_field": 1}',
}
ERROR_KEYS = {"detail", "error", "category", "message", "field", "hint"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[set[tuple[str, str]], httpx.AsyncClient]]:
    """All endpoints as (method, path below the prefix), and a client of the application."""
    async with Service.running(ServerConfig(state_dir=tmp_path)) as service:
        app = make_app(service)
        endpoints = {
            (method, path.removeprefix(PREFIX))
            for method, path in endpoints_of(app)
            if path.startswith(PREFIX)
        }
        # An exception that the application lets through is raised here, too.
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x" + PREFIX) as client:
            yield endpoints, client


async def test_every_documented_endpoint_is_served(
    served: tuple[set[tuple[str, str]], httpx.AsyncClient],
) -> None:
    endpoints, _ = served
    page = (REPOSITORY / "docs/reference/service.md").read_text(encoding="utf-8")
    named = re.findall(r"`(GET|POST|PUT|DELETE|PATCH) ([a-z][^` ]*)`", page)
    documented = {(method.lower(), path) for method, path in named}
    assert len(documented) > 30
    assert documented - endpoints == set()


@pytest.mark.parametrize("kind", BAD_BODIES)
async def test_nonsense_is_answered_with_an_error_of_one_shape(
    served: tuple[set[tuple[str, str]], httpx.AsyncClient], kind: str
) -> None:
    endpoints, client = served
    refused = 0
    for method, path in sorted(endpoints):
        url = re.sub(r"\{[^}]*\}", "none", path)
        for media_type in ("application/json", "application/x-protobuf"):
            answer = await client.request(
                method, url, content=BAD_BODIES[kind], headers={"Content-Type": media_type}
            )
            where = f"{method} {url}: {answer.status_code} {answer.text[:200]}"
            assert answer.status_code < 500, where
            if answer.status_code >= 400:
                refused += 1
                body = answer.json()
                assert body.keys() >= ERROR_KEYS, where
                assert body["category"] == "user", where
                assert body["message"], where
                assert body["detail"], where
                assert body["field"], where
                assert body["hint"], where
    assert refused > 30
