"""Health, capabilities, client configuration, telemetry of clients."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.requests import ClientConfigRequest
from tinsmith.server.service import Service


def make_router(service: Service) -> APIRouter:
    """Routes that tell about the service."""
    router = APIRouter()
    max_bytes = service.config.limits.max_body_bytes

    @router.get("/healthz")
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @router.get("/get_server_capabilities")
    async def get_server_capabilities() -> Response:
        return json_response(service.capabilities())

    @router.post("/client/config")
    @router.post("/client/dynamic_config")
    async def client_config(request: Request) -> Response:
        parse_json(ClientConfigRequest, await read_body(request, max_bytes))
        return json_response({})  # the protocol's defaults suit us

    @router.post("/telemetry")
    async def telemetry(request: Request) -> Response:
        # Read and thrown away: clients put stack traces and API keys into it.
        await read_body(request, max_bytes)
        return json_response({"status": "accepted"})

    return router
