"""Fetching results."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.server.completions import Completion
from tinsmith.server.futures import JSON_TYPE
from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.json_results import as_json, takes_protobuf
from tinsmith.server.requests import CancelFutureRequest, RetrieveFuturesRequest
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service
from tinsmith.types import FutureRetrieveRequest

TRY_AGAIN_STATUS = 408
NO_CONTENT = 204
MAX_BATCH_POLL_S = 30.0
"""How long retrieve_futures holds a request; its clients wait 45 s."""


def make_routes(service: Service) -> RouteTable:
    """Routes of futures."""
    table = RouteTable()
    limits = service.config.limits

    @table.post("/retrieve_future")
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
        if outcome.media_type != JSON_TYPE and not takes_protobuf(request.headers.get("accept")):
            outcome = await asyncio.to_thread(as_json, outcome)
        return Response(outcome.body, media_type=outcome.content_type)

    @table.post("/cancel_future")
    async def cancel_future(request: Request) -> Response:
        body = parse_json(CancelFutureRequest, await read_body(request, limits.max_body_bytes))
        service.samplers.cancel(body.request_id)
        return Response(status_code=NO_CONTENT)

    @table.post("/retrieve_futures")
    async def retrieve_futures(request: Request) -> Response:
        body = parse_json(RetrieveFuturesRequest, await read_body(request, limits.max_body_bytes))
        hold_s = min(limits.long_poll_s, MAX_BATCH_POLL_S)
        found, cursor = await service.samplers.wait_completions(
            body.target.sampling_session_id,
            body.target.cloned_sampler_id,
            after=body.prev_cursor,
            hold_s=hold_s if body.timeout is None else min(hold_s, body.timeout),
        )
        service.futures.note_retrieved(body.retrieved_request_ids)
        return json_response({"completions": [_told(event) for event in found], "cursor": cursor})

    return table


def _told(event: Completion) -> dict[str, object]:
    if event.size_bytes is None:
        return {"state": "failed", "request_id": event.request_id}
    size = event.size_bytes
    told = {"state": "finished", "request_id": event.request_id}
    return {**told, "response_payload_uncompressed_size": size}
