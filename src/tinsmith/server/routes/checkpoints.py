"""Saved checkpoints: lists, facts, publishing, expiry, deleting, copying, downloading.

A checkpoint's id, `weights/<name>` or `sampler_weights/<name>`, takes two segments of a route.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from email.utils import format_datetime

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from tinsmith.core.ids import new_id
from tinsmith.core.jsonio import dumps
from tinsmith.server.access import current_key_id, viewer_of
from tinsmith.server.archives import TarStream
from tinsmith.server.checkpoints import CheckpointPath, parse_any_checkpoint_path
from tinsmith.server.errors import RequestError
from tinsmith.server.http import json_response, model_response, parse_json, parse_query
from tinsmith.server.http import read_body as read_whole_body
from tinsmith.server.requests import ArchiveQuery, CheckpointsQuery
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service
from tinsmith.types import CheckpointTtlRequest, CopyWeightsRequest, WeightsInfoRequest

NO_CONTENT = 204
CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


class CheckpointRoutes:
    """What the routes share."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.admin = service.checkpoint_admin
        self._max_bytes = service.config.limits.max_body_bytes

    async def read(self, request: Request) -> bytes:
        """The body of a request."""
        return await read_whole_body(request, self._max_bytes)

    async def find(self, request: Request, *, is_wide: bool = False) -> CheckpointPath:
        """The checkpoint that a route names, if the caller may do this to it."""
        parts = request.path_params
        text = f"tinker://{parts['run_id']}/{parts['kind']}/{parts['name']}"
        path = parse_any_checkpoint_path(text, field="checkpoint_id")
        viewer = viewer_of()._replace(is_wide=is_wide)
        await self.admin.find(path, viewer, field="checkpoint_id")
        return path


def make_routes(service: Service) -> RouteTable:
    """Routes of checkpoints."""
    table = RouteTable()
    routes = CheckpointRoutes(service)
    _add_reading(table, routes)
    _add_changing(table, routes)
    _add_downloading(table, routes)
    return table


def _add_reading(table: RouteTable, routes: CheckpointRoutes) -> None:
    service = routes.service

    @table.get("/training_runs/{run_id}/checkpoints")
    async def list_of_run(request: Request) -> Response:
        run_id = request.path_params["run_id"]
        viewer = viewer_of("accessible")
        return model_response(await service.runs.run_checkpoints(viewer, run_id))

    @table.get("/checkpoints")
    async def list_all(request: Request) -> Response:
        query = parse_query(CheckpointsQuery, request)
        found = await service.runs.checkpoints(viewer_of(), limit=query.limit, offset=query.offset)
        return model_response(found)

    @table.post("/weights_info")
    async def weights_info(request: Request) -> Response:
        body = parse_json(WeightsInfoRequest, await routes.read(request))
        path = parse_any_checkpoint_path(body.tinker_path, field="tinker_path")
        await routes.admin.find(path, viewer_of("accessible"), field="tinker_path")
        return json_response(service.weights_info(body.tinker_path))


def _add_changing(table: RouteTable, routes: CheckpointRoutes) -> None:
    admin = routes.admin

    @table.delete(CHECKPOINT)
    async def delete(request: Request) -> Response:
        await admin.delete(await routes.find(request))
        return Response(status_code=NO_CONTENT)

    @table.post(f"{CHECKPOINT}/publish")
    async def publish(request: Request) -> Response:
        admin.set_public(await routes.find(request), is_public=True)
        return Response(status_code=NO_CONTENT)

    @table.delete(f"{CHECKPOINT}/publish")
    async def unpublish(request: Request) -> Response:
        admin.set_public(await routes.find(request), is_public=False)
        return Response(status_code=NO_CONTENT)

    @table.put(f"{CHECKPOINT}/ttl")
    async def set_ttl(request: Request) -> Response:
        body = parse_json(CheckpointTtlRequest, await routes.read(request))
        await admin.set_ttl(await routes.find(request), body.ttl_seconds)
        return Response(status_code=NO_CONTENT)

    @table.post("/copy_weights")
    async def copy_weights(request: Request) -> Response:
        body = parse_json(CopyWeightsRequest, await routes.read(request))
        source = parse_any_checkpoint_path(body.source_path, field="source_path")
        token = request.headers.get("x-tinker-weights-access-token") or body.weights_access_token
        if token is None:
            await admin.find(source, viewer_of("accessible"), field="source_path")
        else:
            await routes.service.check_readable(source, field="source_path", token=token)
        request_key = request.headers.get("x-idempotency-key") or new_id()
        path = await admin.copy(body, source, request_key=request_key, key_id=current_key_id())
        return json_response({"tinker_path": path})


def _add_downloading(table: RouteTable, routes: CheckpointRoutes) -> None:
    service = routes.service

    @table.get(f"{CHECKPOINT}/archive")
    async def archive(request: Request) -> Response:
        path = await routes.find(request, is_wide=True)
        query, expires_at = service.archive_links.make(str(path))
        url = str(request.base_url).rstrip("/") + f"/api/v1/archives?{query}"
        expires = datetime.fromtimestamp(expires_at, UTC)
        headers = {"Location": url, "Expires": format_datetime(expires, usegmt=True)}
        body = dumps({"url": url, "expires": expires.isoformat()})
        return Response(body, 302, headers=headers, media_type="application/json")

    @table.get("/archives")
    async def download(request: Request) -> Response:
        query = parse_query(ArchiveQuery, request)
        service.archive_links.check(query.path, query.expires, query.signature, query.file)
        path = parse_any_checkpoint_path(query.path, field="path")
        service.checkpoints.read(path, field="path")
        directory = service.checkpoints.directory(path)
        if query.file:  # one that was found there when the link was signed
            return FileResponse(directory / query.file, media_type="application/octet-stream")
        tar = await asyncio.to_thread(TarStream, directory)
        return _tar_response(tar, path, request.headers.get("range"))

    @table.get(f"{CHECKPOINT}/external_weights_urls")
    async def external_weights_urls(request: Request) -> Response:
        path = await routes.find(request, is_wide=True)
        if path.kind != "external_weights":
            raise RequestError(
                f"checkpoint_id='{path.kind}/{path.name}': must be of kind 'external_weights'",
                field="checkpoint_id",
                hint="export it with save_weights_external, or download its archive",
            )
        files = await asyncio.to_thread(service.checkpoints.files, path)
        links = {file: service.archive_links.make(str(path), file) for file in files}
        base = str(request.base_url).rstrip("/") + "/api/v1/archives"
        expires = datetime.fromtimestamp(min(end for _, end in links.values()), UTC)
        urls = {file: f"{base}?{query}" for file, (query, _) in links.items()}
        return json_response({"urls": urls, "expires": expires.isoformat()})


def _tar_response(tar: TarStream, path: CheckpointPath, wanted: str | None) -> Response:
    size = tar.size_bytes
    start = _range_start(wanted, size)
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(size - (start or 0)),
        "Content-Disposition": f'attachment; filename="{path.kind}.tar"',
    }
    if start is not None:
        headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    status = 200 if start is None else 206
    return StreamingResponse(
        tar.read(start or 0), status, headers=headers, media_type="application/x-tar"
    )


def _range_start(wanted: str | None, size: int) -> int | None:
    """Where a download goes on: only `bytes=N-` is understood, all else is answered in full."""
    if wanted is None or not wanted.startswith("bytes=") or not wanted.endswith("-"):
        return None
    number = wanted.removeprefix("bytes=").removesuffix("-")
    if not number.isdecimal() or not 0 <= int(number[:20]) < size:
        return None
    return int(number)
