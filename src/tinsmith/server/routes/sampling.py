"""Sampling sessions and samples."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.core.ids import content_hash
from tinsmith.server.checkpoints import parse_any_checkpoint_path
from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.requests import JoinSamplingSessionRequest
from tinsmith.server.routing import RouteTable
from tinsmith.server.sample_streams import StreamResponse
from tinsmith.server.service import Service
from tinsmith.types import CreateSamplingSessionRequest, SampleRequest


def make_routes(service: Service) -> RouteTable:
    """Routes of sampling."""
    table = RouteTable()
    max_bytes = service.config.limits.max_body_bytes

    @table.post("/create_sampling_session")
    async def create_sampling_session(request: Request) -> Response:
        raw = await read_body(request, max_bytes)
        body = parse_json(CreateSamplingSessionRequest, raw)
        if body.model_path is not None:
            path = parse_any_checkpoint_path(body.model_path, field="model_path")
            await service.check_readable(path, field="model_path")
        sampler_id = service.samplers.open(body, digest=content_hash(raw))
        answer = {"type": "create_sampling_session", "sampling_session_id": sampler_id}
        return json_response(answer)

    @table.get("/samplers/{sampler_id}")
    async def get_sampler(request: Request) -> Response:
        sampler_id = request.path_params["sampler_id"]
        return json_response(service.samplers.describe(sampler_id))

    @table.post("/join_sampling_session")
    async def join_sampling_session(request: Request) -> Response:
        body = parse_json(JoinSamplingSessionRequest, await read_body(request, max_bytes))
        number = service.samplers.join(body.sampling_session_id)
        return json_response({"type": "join_sampling_session", "client_counter": number})

    @table.post("/asample")
    async def asample(request: Request) -> Response:
        raw = await read_body(request, max_bytes)
        body = parse_json(SampleRequest, raw)
        request_id, sequence_ids = service.samplers.sample(body, digest=content_hash(raw))
        return json_response({"request_id": request_id, "sample_sequence_ids": sequence_ids})

    @table.post("/ext/stream_sample")
    async def stream_sample(request: Request) -> Response:
        body = parse_json(SampleRequest, await read_body(request, max_bytes))
        return StreamResponse(service.samplers.stream(body))

    return table
