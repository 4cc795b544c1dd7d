"""What the protocol does not have: kept forward graphs, and terms on the parameters alone."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tinsmith.engine.jobs import RetainGraph, UseGraph
from tinsmith.server.http import parse_query
from tinsmith.server.requests import RetainQuery, UseGraphQuery
from tinsmith.server.routes.training import TrainingRoutes
from tinsmith.server.routing import RouteTable
from tinsmith.server.service import Service
from tinsmith.types import AdapterTermsRequest


def make_routes(service: Service) -> RouteTable:
    """Routes of training beyond the protocol."""
    table = RouteTable()
    routes = TrainingRoutes(service)

    @table.post("/ext/retained_forward")
    async def retained_forward(request: Request) -> Response:
        query = parse_query(RetainQuery, request)
        width = 0 if query.distribution == "full" else query.distribution
        return await routes.run_training(
            request, forward_only=True, graph_of=lambda seq_id: RetainGraph(seq_id, width)
        )

    @table.post("/ext/retained_backward")
    async def retained_backward(request: Request) -> Response:
        query = parse_query(UseGraphQuery, request)
        graph_ids = tuple(map(int, query.graph.split(",")))
        use = UseGraph(graph_ids, query.on_missing, query.accumulate)
        return await routes.run_training(request, forward_only=False, graph_of=lambda _: use)

    @table.post("/ext/adapter_terms")
    async def adapter_terms(request: Request) -> Response:
        def submit(body: AdapterTermsRequest, digest: str) -> tuple[str, str | None]:
            return service.models.adapter_terms(body, digest=digest), body.model_id

        return await routes.run_lane(request, AdapterTermsRequest, submit)

    return table
