"""A service without a socket, for tests of what it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from tinsmith.server.app import make_app
from tinsmith.server.config import ServerConfig
from tinsmith.server.service import Service

Start = Callable[..., AbstractAsyncContextManager[tuple[Service, httpx.AsyncClient]]]


@asynccontextmanager
async def running_service(
    headers: dict[str, str] | None = None, **config: Any
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service and a client of it."""
    async with Service.running(ServerConfig(**config)) as service:
        transport = httpx.ASGITransport(make_app(service))
        base_url = "http://service/api/v1/"
        async with httpx.AsyncClient(
            transport=transport, base_url=base_url, headers=headers
        ) as client:
            yield service, client


def endpoints_of(app: Starlette) -> set[tuple[str, str]]:
    """What an application serves, as (method in lower case, path)."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert len(routes) == len(app.routes)
    return {
        (method.lower(), route.path)
        for route in routes
        for method in route.methods or ()
        if method != "HEAD"
    }
