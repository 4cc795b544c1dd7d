"""Sessions: open, heartbeat, finish."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.requests import FinishSessionRequest
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service
from tinsmith.types import CreateSessionRequest, SessionHeartbeatRequest


def make_routes(service: Service) -> RouteTable:
    """Routes of sessions."""
    table = RouteTable()
    max_bytes = service.config.limits.max_body_bytes

    @table.post("/create_session")
    async def create_session(request: Request) -> Response:
        body = parse_json(CreateSessionRequest, await read_body(request, max_bytes))
        details = {"sdk_version": body.sdk_version}
        for name in ("project_id", "display_name"):
            if getattr(body, name) is not None:
                details[name] = getattr(body, name)
        record = service.sessions.open(body.tags, body.user_metadata or {}, details=details)
        return json_response({"type": "create_session", "session_id": record.session_id})

    @table.post("/session_heartbeat")
    async def session_heartbeat(request: Request) -> Response:
        body = parse_json(SessionHeartbeatRequest, await read_body(request, max_bytes))
        service.sessions.touch(body.session_id)
        return json_response({"type": "session_heartbeat"})

    @table.post("/sessions/{session_id}/finish")
    async def finish(request: Request) -> Response:
        session_id = request.path_params["session_id"]
        body = parse_json(FinishSessionRequest, await read_body(request, max_bytes))
        service.sessions.finish(session_id, body.reason.type, body.detail)
        return json_response({"type": "finish_session"})

    return table
