"""Fetching results."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.service import Service
from tinsmith.types import FutureRetrieveRequest

TRY_AGAIN_STATUS = 408


def make_router(service: Service) -> APIRouter:
    """Routes of futures."""
    router = APIRouter()
    limits = service.config.limits

    @router.post("/retrieve_future")
    async def retrieve_future(request: Request) -> Response:
        body = parse_json(FutureRetrieveRequest, await read_body(request, limits.max_body_bytes))
        outcome = await service.futures.wait(body.request_id, limits.long_poll_s)
        if outcome is None:
            answer = {
                "type": "try_again",
                "request_id": body.request_id,
                "queue_state": "active",
            }
            return json_response(answer, TRY_AGAIN_STATUS)
        size = len(outcome.body)
        if body.allow_metadata_only and size > limits.metadata_result_bytes:
            return json_response({"status": "complete_metadata", "response_payload_size": size})
        return Response(outcome.body, media_type=outcome.media_type)

    return router
