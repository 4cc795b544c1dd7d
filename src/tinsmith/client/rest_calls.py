"""Requests that need no session, as futures of their validated answers.

Main names: `get`, `ask`, `do`.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlencode

import pydantic

from tinsmith.client.connection import Connection, parse
from tinsmith.client.futures import APIFuture
from tinsmith.client.transport import Request

M = TypeVar("M", bound=pydantic.BaseModel)


def get(
    connection: Connection, path: str, answer: type[M], **query: str | int | None
) -> APIFuture[M]:
    """GET something; what is None is left out of the query."""
    given = {name: value for name, value in query.items() if value is not None}
    return ask(
        connection, Request(f"{path}?{urlencode(given)}" if given else path, method="GET"), answer
    )


def ask(connection: Connection, request: Request, answer: type[M]) -> APIFuture[M]:
    """Send a request whose answer is a model."""

    async def send() -> M:
        reply = await connection.ask(request)
        return parse(answer, reply.json(), request.path)

    return connection.start(send, str(request))


def do(connection: Connection, request: Request) -> APIFuture[None]:
    """Send a request whose answer says nothing."""

    async def send() -> None:
        await connection.ask(request)

    return connection.start(send, str(request))
