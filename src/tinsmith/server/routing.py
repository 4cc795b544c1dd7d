"""The routes of one noun, written down by decorators. Main name: `RouteTable`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

API_PREFIX = "/api/v1"

Endpoint = Callable[[Request], Awaitable[Response]]
Register = Callable[[Endpoint], Endpoint]


class RouteTable:
    """Endpoints in the order in which the paths of requests are compared with them."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def get(self, path: str) -> Register:
        """Registers what answers GET on a path below the prefix."""
        return self._register("GET", path)

    def post(self, path: str) -> Register:
        """Registers what answers POST on a path below the prefix."""
        return self._register("POST", path)

    def put(self, path: str) -> Register:
        """Registers what answers PUT on a path below the prefix."""
        return self._register("PUT", path)

    def delete(self, path: str) -> Register:
        """Registers what answers DELETE on a path below the prefix."""
        return self._register("DELETE", path)

    def _register(self, method: str, path: str) -> Register:
        def register(endpoint: Endpoint) -> Endpoint:
            route = Route(API_PREFIX + path, endpoint, methods=[method])
            route.methods = {method}  # without the HEAD that comes with GET: not in the protocol
            self.routes.append(route)
            return endpoint

        return register
