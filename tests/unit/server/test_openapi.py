"""The OpenAPI document says every route, and only what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.unit.server.services import endpoints_of, running_service
from tinsmith.server.app import make_app
from tinsmith.server.endpoints import ENDPOINTS
from tinsmith.server.openapi import OPENAPI_PATH, openapi_document


async def test_every_route_is_described_and_no_other(tmp_path: Path) -> None:
    async with running_service(state_dir=tmp_path) as (service, _):
        served = endpoints_of(make_app(service))
    assert served - {("get", OPENAPI_PATH)} == set(ENDPOINTS)


async def test_the_document_is_served_without_a_key(tmp_path: Path) -> None:
    async with running_service(state_dir=tmp_path, api_key="tml-x") as (_, client):
        answer = await client.get(f"http://service{OPENAPI_PATH}")
        assert (await client.get("sessions")).status_code == 401
    assert answer.status_code == 200
    assert answer.json() == json.loads(json.dumps(openapi_document()))


def test_references_lead_somewhere_and_names_are_unique() -> None:
    document = openapi_document()
    text = json.dumps(document)
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names <= set(document["components"]["schemas"])
    operations = [each for path in document["paths"].values() for each in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert all(
        operation["summary"].endswith(".") or "?" in operation["summary"]
        for operation in operations
    )
