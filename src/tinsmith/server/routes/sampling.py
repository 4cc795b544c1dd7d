"""Sampling sessions and samples."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tinsmith.core.ids import content_hash
from tinsmith.server.checkpoints import parse_any_checkpoint_path
from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.requests import JoinSamplingSessionRequest
from tinsmith.server.sample_streams import StreamResponse
from tinsmith.server.service import Service
from tinsmith.types import CreateSamplingSessionRequest, SampleRequest


def make_router(service: Service) -> APIRouter:
    """Routes of sampling."""
    router = APIRouter()
    max_bytes = service.config.limits.max_body_bytes

    @router.post("/create_sampling_session")
    async def create_sampling_session(request: Request) -> Response:
        raw = await read_body(request, max_bytes)
        body = parse_json(CreateSamplingSessionRequest, raw)
        if body.model_path is not None:
            path = parse_any_checkpoint_path(body.model_path, field="model_path")
            await service.check_readable(path, field="model_path")
        sampler_id = service.samplers.open(body, digest=content_hash(raw))
        answer = {"type": "create_sampling_session", "sampling_session_id": sampler_id}
        return json_response(answer)

    @router.get("/samplers/{sampler_id}")
    async def get_sampler(sampler_id: str) -> Response:
        return json_response(service.samplers.describe(sampler_id))

    @router.post("/join_sampling_session")
    async def join_sampling_session(request: Request) -> Response:
        body = parse_json(JoinSamplingSessionRequest, await read_body(request, max_bytes))
        number = service.samplers.join(body.sampling_session_id)
        return json_response({"type": "join_sampling_session", "client_counter": number})

    @router.post("/asample")
    async def asample(request: Request) -> Response:
        raw = await read_body(request, max_bytes)
        body = parse_json(SampleRequest, raw)
        request_id, sequence_ids = service.samplers.sample(body, digest=content_hash(raw))
        return json_response({"request_id": request_id, "sample_sequence_ids": sequence_ids})

    @router.post("/ext/stream_sample")
    async def stream_sample(request: Request) -> Response:
        body = parse_json(SampleRequest, await read_body(request, max_bytes))
        return StreamResponse(service.samplers.stream(body))

    return router
