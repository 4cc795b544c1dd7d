"""Training runs and sessions, looked at afterwards."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.server.access import viewer_of
from tinsmith.server.errors import MissingError
from tinsmith.server.http import json_response, model_response, parse_json, parse_query, read_body
from tinsmith.server.requests import RunsQuery, ScopeQuery, SessionsQuery
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service
from tinsmith.types import SessionProjectRequest, SessionSearchRequest

NO_CONTENT = 204


def make_routes(service: Service) -> RouteTable:
    """Routes of what the service keeps about runs and sessions."""
    table = RouteTable()
    runs = service.runs
    max_bytes = service.config.limits.max_body_bytes

    @table.get("/training_runs")
    async def list_training_runs(request: Request) -> Response:
        query = parse_query(RunsQuery, request)
        found = await runs.training_runs(
            viewer_of(query.access_scope),
            limit=query.limit,
            offset=query.offset,
            project_id=query.project_id,
        )
        return model_response(found)

    @table.get("/training_runs/{run_id}")
    async def get_training_run(request: Request) -> Response:
        run_id = request.path_params["run_id"]
        query = parse_query(ScopeQuery, request)
        viewer = viewer_of(query.access_scope)
        return model_response(await runs.training_run(viewer, run_id))

    @table.get("/sessions")
    async def list_sessions(request: Request) -> Response:
        query = parse_query(SessionsQuery, request)
        viewer = viewer_of(query.access_scope)
        return model_response(await runs.sessions(viewer, limit=query.limit, offset=query.offset))

    @table.post("/sessions/search")
    async def search_sessions(request: Request) -> Response:
        body = parse_json(SessionSearchRequest, await read_body(request, max_bytes))
        scope = "accessible" if body.owner.type != "own" else "owned"
        return model_response(await runs.search(viewer_of(scope), body))

    @table.get("/sessions/{session_id}")
    async def get_session(request: Request) -> Response:
        session_id = request.path_params["session_id"]
        query = parse_query(ScopeQuery, request)
        viewer = viewer_of(query.access_scope)
        return model_response(await runs.session(viewer, session_id))

    @table.put("/sessions/{session_id}/project")
    async def assign_project(request: Request) -> Response:
        session_id = request.path_params["session_id"]
        body = parse_json(SessionProjectRequest, await read_body(request, max_bytes))
        await runs.session(viewer_of(), session_id)
        await runs.set_project(session_id, body.project_id)
        record = service.store.sessions.get(session_id)
        if record is not None:
            record.details["project_id"] = body.project_id
        return Response(status_code=NO_CONTENT)

    @table.get("/sessions/{session_id}/trace_export")
    async def export_trace(request: Request) -> Response:
        session_id = request.path_params["session_id"]
        await runs.session(viewer_of(), session_id)
        error = MissingError("this service records no traces")
        return json_response({"status": "failed", "error": str(error)})

    return table
