"""schemathesis on the service's own description of itself: no 5xx, nothing that it does not say.

Half of the requests get ids of things that exist, so that they come past the look-up.
`TINSMITH_SLOW=1` makes many more of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, settings

from tests.integration.service_process import BASE_MODEL, ServiceProcess, WireClient, make_data
from tinsmith.server.openapi import openapi_document

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed here")

from schemathesis import checks  # noqa: E402 - only where it is installed
from schemathesis.specs.openapi import checks as openapi_checks  # noqa: E402

pytestmark = pytest.mark.integration

NUM_EXAMPLES = 300 if os.environ.get("TINSMITH_SLOW") else 8
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]
schema = schemathesis.openapi.from_dict(openapi_document())


@schemathesis.serializer("application/x-protobuf")
def _protobuf(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """A service's address, and ids of what lives there."""
    directory = tmp_path_factory.mktemp("openapi")
    with ServiceProcess(directory, "--model", BASE_MODEL, "--api-key", "tml-o") as running:
        wire = WireClient(running.ready)
        model = wire.create_model()
        model.train_step(make_data())
        path = model.save("save_weights", "state")
        sampler_id = wire.create_sampler(0, base_model=BASE_MODEL)
        promise = wire.asample(sampler_id, [5, 6], seq_id=0)
        yield (
            running.ready["url"],
            {
                "session_id": wire.session_id,
                "model_id": model.model_id,
                "run_id": model.model_id,
                "sampling_session_id": sampler_id,
                "sampler_id": sampler_id,
                "base_model": BASE_MODEL,
                "request_id": promise["request_id"],
                "path": path,
                "tinker_path": path,
                "source_path": path,
                "kind": "weights",
                "name": "state",
            },
        )
        assert model.loss(make_data()) > 0  # the model is there and answers
        wire.http.close()


def _filled(values: Any, ids: dict[str, Any]) -> Any:
    """The same values with ids of what exists, at any depth."""
    if isinstance(values, dict):
        return {
            key: ids[key] if key in ids and isinstance(value, str) else _filled(value, ids)
            for key, value in values.items()
        }
    return [_filled(value, ids) for value in values] if isinstance(values, list) else values


@schema.parametrize()
@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_answer_is_a_5xx_or_undescribed(case: Any, living: tuple[str, dict[str, Any]]) -> None:
    url, ids = living
    is_destructive = case.method == "DELETE" or case.path.endswith(("/finish", "/unload_model"))
    if crc32(repr(case.body).encode()) % 2 and not is_destructive:
        case.body = _filled(case.body, ids)
        case.path_parameters = _filled(dict(case.path_parameters or {}), ids)
    if case.path.endswith("/retrieve_futures") and isinstance(case.body, dict):
        case.body["timeout"] = 0  # it would be held for its completions
    case.call_and_validate(
        base_url=url, headers={"X-API-Key": "tml-o"}, checks=CHECKS, allow_redirects=False
    )
