"""The OpenAPI document of the service, composed from `endpoints` and the wire's types.

Main names: `openapi_document`, `OPENAPI_PATH`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from tinsmith import __version__
from tinsmith.server.endpoints import BINARY, ENDPOINTS, JSON, PROTOBUF, Endpoint, Schema
from tinsmith.types import ResponseModel

__all__ = ["OPENAPI_PATH", "openapi_document"]

OPENAPI_PATH = "/openapi.json"
REFERENCE = "#/components/schemas/{model}"


class ErrorAnswer(ResponseModel):
    """Every answer of 4xx and 5xx."""

    detail: str
    """What protocol clients show: the message and the hint."""
    error: str
    category: str
    message: str
    field: str | None
    hint: str | None


@functools.cache
def openapi_document() -> Schema:
    """The document, as data; made when it is first asked for."""
    schemas = _Schemas(ENDPOINTS.values())
    paths: dict[str, Schema] = {}
    for (method, path), endpoint in ENDPOINTS.items():
        paths.setdefault(path, {})[method] = _operation(method, path, endpoint, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tinsmith", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas.definitions,
            "securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
        },
        "security": [{"key": []}, {}],
    }


class _Schemas:
    """The JSON schemas of all models, and references to them."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        modes: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {
            (ErrorAnswer, "serialization"): None
        }
        for endpoint in endpoints:
            for model in (endpoint.body, endpoint.query):
                if model is not None:
                    modes[model, "validation"] = None
            others = [each for told in endpoint.other_answers.values() for each in told.values()]
            for answer in (endpoint.answer, *others):
                if isinstance(answer, type):
                    modes[answer, "serialization"] = None
        self._references, whole = models_json_schema(list(modes), ref_template=REFERENCE)
        self.definitions: dict[str, Schema] = whole["$defs"]

    def body(self, model: type[BaseModel]) -> Schema:
        """What is read."""
        return self._references[model, "validation"]

    def answer(self, content: type[BaseModel] | Schema) -> Schema:
        """What is answered."""
        if isinstance(content, type):
            return self._references[content, "serialization"]
        return content

    def fields(self, model: type[BaseModel]) -> Schema:
        """The whole schema behind a reference."""
        return self.definitions[self.body(model)["$ref"].rpartition("/")[2]]


def _operation(method: str, path: str, endpoint: Endpoint, schemas: _Schemas) -> Schema:
    name = re.sub(r"[^a-z]+", "_", path.removeprefix("/api/v1/")).strip("_")
    operation: Schema = {
        "operationId": f"{method}_{name}",
        "summary": endpoint.summary,
        "parameters": _parameters(path, endpoint, schemas),
        "responses": _responses(endpoint, schemas),
    }
    if endpoint.body is not None:
        content = {JSON: {"schema": schemas.body(endpoint.body)}}
        if endpoint.takes_protobuf:
            content[PROTOBUF] = {"schema": BINARY}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(path: str, endpoint: Endpoint, schemas: _Schemas) -> list[Schema]:
    found: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    if endpoint.query is not None:
        whole = schemas.fields(endpoint.query)
        found += [
            {
                "name": name,
                "in": "query",
                "required": name in whole.get("required", []),
                "schema": schema,
            }
            for name, schema in whole.get("properties", {}).items()
        ]
    return found


def _responses(endpoint: Endpoint, schemas: _Schemas) -> Schema:
    error = {"description": "Refused", "content": {JSON: {"schema": schemas.answer(ErrorAnswer)}}}
    found: Schema = {"4XX": error, "5XX": {**error, "description": "The service's fault"}}
    if endpoint.answer is not None:
        content = {JSON: {"schema": schemas.answer(endpoint.answer)}}
        found["200"] = {"description": "Done", "content": content}
    elif not endpoint.other_answers:
        found["204"] = {"description": "Done"}
    for status, contents in endpoint.other_answers.items():
        told = found.setdefault(status, {"description": "Another answer", "content": {}})
        for media_type, content in contents.items():
            told["content"][media_type] = {"schema": schemas.answer(content)}
    return found
