"""HTTP plumbing shared by the routes: bodies with a cap, JSON parsing, the key check, errors."""

from __future__ import annotations

import logging
import re
from typing import TypeVar

import zstandard
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tinsmith.core.errors import ServerError, TinsmithError
from tinsmith.core.jsonio import dumps
from tinsmith.server.access import acting_as
from tinsmith.server.errors import (
    RequestError,
    TooLargeError,
    UnauthorizedError,
    error_body,
    status_of,
)
from tinsmith.server.keys import KeyRegistry
from tinsmith.types import RequestModel, ResponseModel, SampleRequest, user_error

logger = logging.getLogger(__name__)

ModelT = TypeVar("ModelT", bound=RequestModel)

OPEN_PATHS = frozenset({"/api/v1/healthz", "/api/v1/archives", "/openapi.json"})
"""Paths that need no key: they tell nothing of anybody, or their links are signed."""

ZSTD_PIECE_BYTES = 2**10
"""Compressed bytes read at a time; even the worst of them unfold to 32 MiB past the cap only."""

HEAD_BYTES, HEAD_CHUNKS = 2**10, 8
"""Of a refused body, looked at for whose it is; a zstd block may take several chunks."""

NO_SUCH_PATH = 404
ENDPOINTS_HINT = "GET /openapi.json names the endpoints and what they take"
UNDER_CHECKPOINTS = re.compile(r"/training_runs/[^/]+/checkpoints/.")
CHECKPOINT_HINT = (
    "the id of a checkpoint is weights/NAME, sampler_weights/NAME or external_weights/NAME; "
    + ENDPOINTS_HINT
)

DRAIN_FACTOR = 4
"""How many times the cap is still read and thrown away, so that the client gets the answer."""


def json_response(value: object, status: int = 200) -> Response:
    """A JSON answer; refuses NaN."""
    return Response(dumps(value), status_code=status, media_type="application/json")


def error_response(error: TinsmithError) -> Response:
    """The JSON answer of an error."""
    return json_response(error_body(error), status_of(error))


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body, decompressed.

    Raises:
        TooLargeError: it is above the cap, before or after decompression.
        RequestError: it is not what its Content-Encoding says.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    chunks: list[bytes] = []
    num_bytes = 0
    async for chunk in request.stream():
        if num_bytes <= max_bytes:  # the chunk that goes beyond it tells who sent it
            chunks.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > DRAIN_FACTOR * max_bytes:
            break
    if num_bytes > max_bytes:
        raise _too_large(max_bytes, _head(chunks, encoding))
    body = b"".join(chunks)
    if encoding == "zstd":
        return _decompress(body, max_bytes)
    if encoding != "identity":
        raise RequestError(
            f"Content-Encoding={encoding!r}: must be zstd or absent", field="Content-Encoding"
        )
    return body


def _decompress(body: bytes, max_bytes: int) -> bytes:
    """The content of one whole zstd frame: of a cut one, part of a batch could look like all."""
    frame = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    plain = bytearray()
    used = 0
    try:
        while used < len(body) and not frame.eof:
            plain += frame.decompress(body[used : used + ZSTD_PIECE_BYTES])
            used += ZSTD_PIECE_BYTES
            if len(plain) > max_bytes:
                raise _too_large(max_bytes, bytes(plain[:HEAD_BYTES]))
    except (zstandard.ZstdError, MemoryError) as exc:
        raise RequestError(f"body: not a zstd frame: {exc}", field="body") from exc
    if not frame.eof or frame.unused_data or used < len(body):
        problem = "bytes follow it" if frame.eof else "its end is missing"
        raise RequestError(f"body: not one whole zstd frame: {problem}", field="body")
    return bytes(plain)


def _head(chunks: list[bytes], encoding: str) -> bytes:
    """Where a body begins, if it can be read."""
    head = b"".join(chunks[:HEAD_CHUNKS])
    if encoding == "zstd":
        try:
            decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
            return decompressor.stream_reader(head).read(HEAD_BYTES)
        except (zstandard.ZstdError, MemoryError):
            return b""
    return head[:HEAD_BYTES] if encoding == "identity" else b""


def _too_large(max_bytes: int, head: bytes) -> TooLargeError:
    error = TooLargeError(
        f"body: larger than the {max_bytes} bytes that a request may have",
        field="body",
        hint="send fewer datums in one request",
    )
    error.head = head
    return error


def parse_json(model_type: type[ModelT], body: bytes) -> ModelT:
    """Validates a JSON body.

    Raises:
        UserError: naming the first offending field.
    """
    try:
        parsed = model_type.model_validate_json(body)
    except ValidationError as exc:
        raise user_error(exc, model_type, root="body") from exc
    _check_storable(getattr(parsed, "user_metadata", None))
    if b"\\u0000" in body and not isinstance(parsed, SampleRequest):
        _check_texts(parsed)
    return parsed


def _check_texts(parsed: RequestModel) -> None:
    """Refuses U+0000 in what is kept: PostgreSQL has no place for it. A stop text may hold it."""
    for field, value in parsed.model_dump(mode="json").items():
        if "\\u0000" in dumps(value).replace("\\\\", ""):
            raise RequestError(
                f"{field}: holds the character U+0000, which cannot be kept",
                field=field,
                hint="take it out of the text",
            )


def _check_storable(user_metadata: object) -> None:
    """Refuses metadata that could be accepted now and not be told again: NaN, endless nesting."""
    if user_metadata is None:
        return
    try:
        dumps(user_metadata)
    except (ValueError, RecursionError) as exc:
        raise RequestError(
            f"user_metadata: cannot be kept: {exc}; numbers must be finite",
            field="user_metadata",
            hint="write NaN and infinity as text or null",
        ) from exc


def parse_query(model_type: type[ModelT], request: Request) -> ModelT:
    """Validates a query string.

    Raises:
        UserError: naming the first offending parameter.
    """
    try:
        return model_type.model_validate(dict(request.query_params))
    except ValidationError as exc:
        raise user_error(exc, model_type) from exc


def model_response(model: ResponseModel, status: int = 200) -> Response:
    """A typed answer as JSON."""
    return json_response(model.model_dump(mode="json"), status)


class PlainAddressMiddleware:
    """Refuses U+0000 in path and query: no id and no name holds it, and PostgreSQL reads none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400 in place of the application."""
        if scope["type"] == "http" and (
            "\0" in scope["path"] or b"%00" in scope.get("query_string", b"")
        ):
            error = RequestError(
                "path: holds the character U+0000",
                field="path",
                hint="ids and names are plain text",
            )
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class ApiKeyMiddleware:
    """Lets a request through only with a good X-API-Key, and notes whose it is."""

    def __init__(self, app: ASGIApp, *, keys: KeyRegistry) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401 in place of the application where the key is wrong."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = next((v for k, v in scope["headers"] if k == b"x-api-key"), b"")
            is_good, key_id = self._keys.check(given)
            if not is_good:
                error = UnauthorizedError(
                    "X-API-Key: missing or wrong",
                    field="X-API-Key",
                    hint="set TINSMITH_API_KEY to a key of this service",
                )
                await error_response(error)(scope, receive, send)
                return
            with acting_as(key_id):
                await self._app(scope, receive, send)
            return
        await self._app(scope, receive, send)


def install_error_handlers(app: Starlette) -> None:
    """Makes every error answer JSON of one shape."""

    async def on_tinsmith_error(_: Request, exc: Exception) -> Response:
        assert isinstance(exc, TinsmithError)
        if status_of(exc) >= 500:
            logger.error("request failed", exc_info=exc)
        return error_response(exc)

    async def on_http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)
        is_checkpoint = UNDER_CHECKPOINTS.search(request.url.path) is not None
        error = RequestError(
            f"{request.method} {request.url.path}: {exc.detail}",
            field="path" if exc.status_code == NO_SUCH_PATH else "method",
            hint=CHECKPOINT_HINT if is_checkpoint else ENDPOINTS_HINT,
        )
        return json_response(error_body(error), exc.status_code)

    async def on_unexpected(_: Request, exc: Exception) -> Response:
        # the server framework logs the traceback
        return error_response(ServerError(f"internal error: {type(exc).__name__}"))

    app.add_exception_handler(TinsmithError, on_tinsmith_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_unexpected)
