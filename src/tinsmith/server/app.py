"""The HTTP application: routes over a `Service`, the key check, JSON errors."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tinsmith.server.http import (
    ApiKeyMiddleware,
    PlainAddressMiddleware,
    install_error_handlers,
    json_response,
)
from tinsmith.server.openapi import OPENAPI_PATH, openapi_document
from tinsmith.server.recording import TraceMiddleware
from tinsmith.server.routes import (
    account,
    basics,
    checkpoints,
    extensions,
    futures,
    keys,
    runs,
    sampling,
    sessions,
    training,
)
from tinsmith.server.service import Service

NOUNS = (
    futures,
    sampling,
    training,
    extensions,
    sessions,
    basics,
    account,
    runs,
    checkpoints,
    keys,
)
"""A request is compared with one route after the other: the frequent ones come first."""


def make_app(service: Service) -> Starlette:
    """The application of a running service."""
    routes = [route for noun in NOUNS for route in noun.make_routes(service).routes]
    app = Starlette(routes=[*routes, Route(OPENAPI_PATH, _openapi)])
    install_error_handlers(app)
    app.add_middleware(PlainAddressMiddleware)
    if not service.keys.is_open:
        app.add_middleware(ApiKeyMiddleware, keys=service.keys)
    if service.futures.recorder is not None:
        app.add_middleware(TraceMiddleware)
    return app


async def _openapi(_: Request) -> Response:
    return json_response(openapi_document())
