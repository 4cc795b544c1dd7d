"""Models in training. Every route but the two that tell something answers with a promise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.core.errors import TinsmithError
from tinsmith.core.ids import content_hash
from tinsmith.engine.jobs import RetainGraph, UseGraph
from tinsmith.server.checkpoints import parse_any_checkpoint_path
from tinsmith.server.errors import TooLargeError
from tinsmith.server.http import json_response, parse_json, read_body
from tinsmith.server.requests import (
    OptimStepBody,
    UnloadModelRequest,
)
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service
from tinsmith.server.training_bodies import (
    body_digest,
    lane_position,
    lane_position_of_head,
    read_training_body,
)
from tinsmith.types import (
    CreateCustomLossRequest,
    CreateModelRequest,
    ForwardBackwardRequest,
    GetInfoRequest,
    LoadWeightsRequest,
    RequestModel,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)

BodyT = TypeVar("BodyT", bound=RequestModel)

INLINE_BYTES = 256 * 2**10
"""Larger training bodies are decoded and checked on another thread."""


class TrainingRoutes:
    """The routes' shared ways of reading a request and answering with a promise."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._max_bytes = service.config.limits.max_body_bytes

    async def read(self, request: Request) -> bytes:
        """The body of a request."""
        return await read_body(request, self._max_bytes)

    async def _read_numbered(self, request: Request, media_type: str) -> bytes:
        """The body of a request that has a sequence number.

        Raises:
            TooLargeError: it is above the cap. Its number is used up, if it can be told.
        """
        try:
            return await self.read(request)
        except TooLargeError as error:
            position = lane_position_of_head(error.head, media_type)
            if position is not None:
                self.service.models.skip(*position)
            else:
                error.hint = f"{error.hint}; its seq_id is not used up, and later ones wait for it"
            raise

    async def run_training(
        self,
        request: Request,
        *,
        forward_only: bool,
        graph_of: Callable[[int], RetainGraph | UseGraph] | None = None,
    ) -> Response:
        """Forward and forward_backward; `graph_of` the seq_id says what becomes of the graph."""
        media_type = request.headers.get("content-type", "")
        raw = await self._read_numbered(request, media_type)

        def prepare() -> tuple[ForwardBackwardRequest, int | TinsmithError, str]:
            body = read_training_body(raw, media_type, forward_only=forward_only)
            return body, self.service.models.check_training(body), body_digest(body)

        try:
            if len(raw) > INLINE_BYTES:
                body, num_tokens, digest = await asyncio.to_thread(prepare)
            else:
                body, num_tokens, digest = prepare()
        except TinsmithError:
            self._skip(raw, media_type)
            raise
        graph = graph_of(body.seq_id) if graph_of is not None else None
        if graph is not None:
            digest = content_hash([digest.encode(), repr(graph).encode()])
        request_id = self.service.models.forward_backward(
            body, num_tokens, digest=digest, graph=graph
        )
        return json_response({"request_id": request_id, "model_id": body.model_id})

    async def run_lane(
        self,
        request: Request,
        body_type: type[BodyT],
        submit: Callable[[BodyT, str], tuple[str, str | None]],
    ) -> Response:
        """The JSON requests; `submit` returns request id and model id."""
        raw = await self._read_numbered(request, "application/json")
        try:
            body = parse_json(body_type, raw)
            if isinstance(body, LoadWeightsRequest):
                path = parse_any_checkpoint_path(body.path, field="path")
                token = body.weights_access_token
                await self.service.check_readable(path, field="path", token=token)
        except TinsmithError:
            self._skip(raw, "application/json")
            raise
        request_id, model_id = submit(body, content_hash(raw))
        return json_response({"request_id": request_id, "model_id": model_id})

    def _skip(self, raw: bytes, media_type: str) -> None:
        """Uses up the sequence number of a body that could not be read, if it can be told."""
        position = lane_position(raw, media_type)
        if position is not None:
            self.service.models.skip(*position)


def make_routes(service: Service) -> RouteTable:
    """Routes of models."""
    table = RouteTable()
    routes = TrainingRoutes(service)
    _add_steps(table, routes)
    _add_checkpoints(table, routes)
    _add_models(table, routes)
    return table


def _add_steps(table: RouteTable, routes: TrainingRoutes) -> None:
    models = routes.service.models

    @table.post("/forward_backward")
    async def forward_backward(request: Request) -> Response:
        return await routes.run_training(request, forward_only=False)

    @table.post("/forward")
    async def forward(request: Request) -> Response:
        return await routes.run_training(request, forward_only=True)

    @table.post("/optim_step")
    async def optim_step(request: Request) -> Response:
        def submit(body: OptimStepBody, digest: str) -> tuple[str, str | None]:
            return models.optim_step(body, digest=digest), body.model_id

        return await routes.run_lane(request, OptimStepBody, submit)


def _add_checkpoints(table: RouteTable, routes: TrainingRoutes) -> None:
    models = routes.service.models

    @table.post("/save_weights")
    async def save_weights(request: Request) -> Response:
        def submit(body: SaveWeightsRequest, digest: str) -> tuple[str, str | None]:
            return models.save_weights(body, digest=digest), body.model_id

        return await routes.run_lane(request, SaveWeightsRequest, submit)

    @table.post("/save_weights_for_sampler")
    async def save_weights_for_sampler(request: Request) -> Response:
        def submit(body: SaveWeightsForSamplerRequest, digest: str) -> tuple[str, str | None]:
            return models.save_weights_for_sampler(body, digest=digest), body.model_id

        return await routes.run_lane(request, SaveWeightsForSamplerRequest, submit)

    @table.post("/save_weights_external")
    async def save_weights_external(request: Request) -> Response:
        def submit(body: SaveWeightsExternalRequest, digest: str) -> tuple[str, str | None]:
            return models.save_weights_external(body, digest=digest), body.model_id

        return await routes.run_lane(request, SaveWeightsExternalRequest, submit)

    @table.post("/load_weights")
    async def load_weights(request: Request) -> Response:
        def submit(body: LoadWeightsRequest, digest: str) -> tuple[str, str | None]:
            if body.model_id is None:
                return models.load_new(body, digest=digest)
            return models.load_into(body, digest=digest), body.model_id

        return await routes.run_lane(request, LoadWeightsRequest, submit)


def _add_models(table: RouteTable, routes: TrainingRoutes) -> None:
    service = routes.service
    models = service.models

    @table.post("/create_model")
    async def create_model(request: Request) -> Response:
        raw = await routes.read(request)
        body = parse_json(CreateModelRequest, raw)
        request_id, model_id = models.create(body, digest=content_hash(raw))
        return json_response({"request_id": request_id, "model_id": model_id})

    @table.post("/create_custom_loss")
    async def create_custom_loss(request: Request) -> Response:
        raw = await routes.read(request)
        body = parse_json(CreateCustomLossRequest, raw)
        request_id = service.custom_losses.create(body, digest=content_hash(raw))
        return json_response({"request_id": request_id})

    @table.post("/get_info")
    async def get_info(request: Request) -> Response:
        body = parse_json(GetInfoRequest, await routes.read(request))
        return json_response(models.get_info(body.model_id))

    @table.post("/unload_model")
    async def unload_model(request: Request) -> Response:
        body = parse_json(UnloadModelRequest, await routes.read(request))
        request_id = models.unload(body.model_id)
        return json_response({"request_id": request_id, "model_id": body.model_id})
