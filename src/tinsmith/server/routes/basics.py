"""Health, capabilities, client configuration, telemetry of clients."""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.requests import ClientConfigRequest, TelemetryRequest
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service

logger = logging.getLogger(__name__)


def make_routes(service: Service) -> RouteTable:
    """Routes that tell about the service."""
    table = RouteTable()
    max_bytes = service.config.limits.max_body_bytes

    @table.get("/healthz")
    async def healthz(_: Request) -> Response:
        return json_response({"status": "ok"})

    @table.get("/get_server_capabilities")
    async def get_server_capabilities(_: Request) -> Response:
        return json_response(service.capabilities())

    @table.post("/client/config")
    async def client_config(request: Request) -> Response:
        parse_json(ClientConfigRequest, await read_body(request, max_bytes))
        # Uploaded losses run here; for all else the protocol's defaults suit us.
        return json_response({"custom_loss_server_side": True})

    @table.post("/client/dynamic_config")
    async def dynamic_config(request: Request) -> Response:
        parse_json(ClientConfigRequest, await read_body(request, max_bytes))
        return json_response({"sample_cancel_enabled": True})  # abandoned samples cost time

    @table.post("/telemetry")
    async def telemetry(request: Request) -> Response:
        body = parse_json(TelemetryRequest, await read_body(request, max_bytes))
        for event in body.events:
            # Nothing else of an event is looked at: clients put stack traces and API keys into it.
            if event.error_type is not None and event.error_type.isidentifier():
                logger.info("a client reports %s", event.error_type[:80])
        return json_response({"status": "accepted"})

    return table
