"""The HTTP application: routes over a `Service`, the key check, JSON errors."""

from __future__ import annotations

from fastapi import FastAPI, Response

from tinsmith.server.http import (
    ApiKeyMiddleware,
    PlainAddressMiddleware,
    install_error_handlers,
    json_response,
)
from tinsmith.server.openapi import OPENAPI_PATH, openapi_document
from tinsmith.server.routes import (
    account,
    basics,
    checkpoints,
    futures,
    keys,
    runs,
    sampling,
    sessions,
    training,
)
from tinsmith.server.service import Service

API_PREFIX = "/api/v1"


def make_app(service: Service) -> FastAPI:
    """The application of a running service."""
    app = FastAPI(title="Tinsmith", docs_url=None, redoc_url=None, openapi_url=None)
    # A request is matched against one route after the other: the frequent ones come first.
    for room in (futures, sampling, training, sessions, basics, account, runs, checkpoints, keys):
        app.include_router(room.make_router(service), prefix=API_PREFIX)

    @app.get(OPENAPI_PATH, include_in_schema=False)
    async def openapi() -> Response:
        return json_response(openapi_document())

    install_error_handlers(app)
    app.add_middleware(PlainAddressMiddleware)
    if not service.keys.is_open:
        app.add_middleware(ApiKeyMiddleware, keys=service.keys)
    return app
