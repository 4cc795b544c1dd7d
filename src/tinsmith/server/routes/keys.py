"""API keys, for the operator: an extension of the protocol."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.server.errors import RequestError
from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.keys import KeyRecord
from tinsmith.server.requests import CreateKeyRequest
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service

NO_CONTENT = 204
MAX_KEY_ID = 2**31 - 1


def make_routes(service: Service) -> RouteTable:
    """Routes of API keys."""
    table = RouteTable()
    keys = service.keys
    max_bytes = service.config.limits.max_body_bytes

    @table.post("/ext/keys")
    async def create_key(request: Request) -> Response:
        body = parse_json(CreateKeyRequest, await read_body(request, max_bytes))
        record, key = await keys.create(body.name, body.note)
        return json_response({**_told(record), "key": key})

    @table.get("/ext/keys")
    async def list_keys(_: Request) -> Response:
        return json_response({"keys": [_told(record) for record in await keys.records()]})

    @table.delete("/ext/keys/{key_id}")
    async def revoke_key(request: Request) -> Response:
        key_id = request.path_params["key_id"]
        await keys.revoke(_number(key_id))
        return Response(status_code=NO_CONTENT)

    return table


def _number(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text[:20]) <= MAX_KEY_ID:
        raise RequestError(
            f"key_id={text[:40]!r}: must be a number, 1..{MAX_KEY_ID}",
            field="key_id",
            hint="list the keys to see their numbers",
        )
    return int(text)


def _told(record: KeyRecord) -> dict[str, object]:
    return {
        "key_id": record.key_id,
        "prefix": record.prefix,
        "name": record.name,
        "note": record.note,
        "created_at": _time(record.created_at),
        "revoked_at": _time(record.revoked_at),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
