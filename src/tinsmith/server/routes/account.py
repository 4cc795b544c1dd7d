"""The account behind a key, and what a self-hosted service has no more to say about."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.server.access import current_key_id, viewer_of
from tinsmith.server.errors import RequestError
from tinsmith.server.http import json_response, model_response, parse_query
from tinsmith.server.metadata import listings
from tinsmith.server.requests import AuditQuery, StorageQuery, UsageQuery
from tinsmith.server.routing import RouteTable
from tinsmith.server.runs import OPERATOR, owner_name
from tinsmith.server.service import Service
from tinsmith.types import ApiKeyDetails, ApiKeyOrganization, ApiKeyResponse

NO_CONTENT = 204
ORGANIZATION = "self-hosted"
GIGABYTE = 10**9


def make_routes(service: Service) -> RouteTable:
    """Routes of accounts."""
    table = RouteTable()

    @table.get("/auth/apikey/me")
    async def who_am_i(request: Request) -> Response:
        details = ApiKeyDetails(org_details=ApiKeyOrganization(name=ORGANIZATION))
        key_id = current_key_id()
        if key_id is None:
            name, note = OPERATOR, "the service's own key"
        else:
            record = await service.keys.record(key_id)
            name, note = record.name, record.note
        answer = ApiKeyResponse(key_id=key_id or 0, name=name, note=note, details=details)
        return model_response(answer)

    @table.delete("/auth/apikey/me")
    async def revoke_mine(_: Request) -> Response:
        key_id = current_key_id()
        if key_id is None:
            raise RequestError(
                "the operator's key cannot be revoked",
                field="X-API-Key",
                hint="start the service with another --api-key",
            )
        await service.keys.revoke(key_id)
        return Response(status_code=NO_CONTENT)

    @table.post("/auth/token")
    async def exchange(_: Request) -> Response:
        raise RequestError(
            "this service uses API keys as they are and gives out no tokens",
            hint="send the key as X-API-Key",
        )

    @table.get("/audit")
    async def audit(request: Request) -> Response:
        parse_query(AuditQuery, request)
        return json_response({"entries": []})

    @table.get("/billing/usage/events")
    async def usage(request: Request) -> Response:
        parse_query(UsageQuery, request)
        return json_response({"data": [], "sessions": {}})

    @table.get("/billing/usage/checkpoints/current")
    async def stored(request: Request) -> Response:
        query = parse_query(StorageQuery, request)
        viewer = viewer_of()
        if query.project_id is not None:
            raise RequestError(
                f"project_id={query.project_id!r}: storage is not counted by project",
                field="project_id",
                hint="leave it out",
            )
        count, size = await service.metadata.run(partial(listings.storage, viewer=viewer))
        usage = {
            "user_name": owner_name(current_key_id()),
            "checkpoint_count": count,
            "size_bytes": size,
            "size_gigabytes": size / GIGABYTE,
        }
        return json_response({"data": [usage] if count else []})

    return table
