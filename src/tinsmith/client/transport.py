"""HTTP for one service: pooled keep-alive connections, headers, retries, typed errors.

Main names: `Transport`, `Request`, `Reply`. Everything here runs on the SDK's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import random
import sys
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Mapping,
)
from typing import Any, Literal, NoReturn, TypeVar

import httpx

import tinsmith
from tinsmith.client.credentials import Credential, FixedKey
from tinsmith.client.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    ClientClosedError,
    status_error,
)
from tinsmith.client.retries import RetryPolicy, is_retryable, retry_after_s
from tinsmith.core import environment, jsonio
from tinsmith.core.errors import UserError
from tinsmith.core.ids import new_id

logger = logging.getLogger(__name__)

T = TypeVar("T")

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

Lane = Literal["control", "training_polls", "sampling_polls", "streams"]
"""Pools apart from each other: hundreds of waiting samples hold up no submission."""

_MAX_CONNECTIONS: Mapping[Lane, int] = {
    "control": 64,
    "training_polls": 256,
    "sampling_polls": 256,
    "streams": 256,
}
CONNECT_TIMEOUT_S = 5.0
_TELL_AFTER = 3
"""Failures of one request, a second or more, after which somebody who waits wants to know."""
_TELL_EVERY_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One call of the protocol; `path` is relative to `/api/v1/`."""

    path: str
    body: bytes = b""
    method: Literal["GET", "POST", "PUT", "DELETE"] = "POST"
    content_type: str = JSON
    accept: str = JSON
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    lane: Lane = "control"
    timeout_s: float | None = None
    """Limit of one attempt; None takes the transport's."""
    policy: RetryPolicy | None = None
    """None takes the transport's."""
    expects: frozenset[int] = frozenset()
    """Error statuses that are answers to this request, not failures."""
    is_streamed: bool = False
    """The body of a good answer is left to be read; set by `Transport.stream`."""
    credential: Credential | None = None
    """None takes the transport's."""
    idempotency_key: str | None = None
    """Of a request that is sent again by its caller; None takes a fresh one."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a status below 300, or one that the caller expects."""

    status: int
    content: bytes
    content_type: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Names in any case."""

    @property
    def is_protobuf(self) -> bool:
        return PROTOBUF in self.content_type

    def json(self) -> Any:  # Any: validated by whoever knows the model
        """The parsed body.

        Raises:
            APIResponseValidationError: the body is not strict JSON.
        """
        try:
            return jsonio.loads(self.content)
        except ValueError as error:
            text = self.content[:200].decode("utf-8", errors="replace")
            raise APIResponseValidationError(
                f"the service answered with invalid JSON ({error}): {text!r}", body=text
            ) from error


class Transport:
    """Sends requests to one base URL until it is closed."""

    def __init__(
        self,
        base_url: str,
        credential: Credential | str,
        *,
        timeout_s: float,
        policy: RetryPolicy,
        headers: Mapping[str, str] | None = None,
        explain_failure: Callable[[], str | None] | None = None,
    ) -> None:
        """Open nothing yet.

        Args:
            base_url: may carry a path prefix, which is kept.
            credential: gives the `X-API-Key`; a text is a key that stays, an empty one sends none.
            timeout_s: limit of one attempt.
            policy: the retries of requests that bring none of their own.
            headers: added to every request.
            explain_failure: asked after each connection failure; a text means that trying again
                is pointless and becomes the error's hint.
        """
        self.base_url = base_url.rstrip("/")
        self.credential = FixedKey(credential) if isinstance(credential, str) else credential
        self.timeout_s = timeout_s
        self.policy = policy
        self._explain_failure = explain_failure or (lambda: None)
        self._headers = {
            "User-Agent": f"tinsmith/{tinsmith.__version__}",
            **(headers or {}),
        }
        self._pools: dict[Lane, httpx.AsyncClient] = {}
        self._active: set[asyncio.Task[Any]] = set()
        self._is_closed = False
        self._told_at_s = float("-inf")

    async def send(self, request: Request) -> Reply:
        """Send until there is a good answer or the retries are used up.

        Raises:
            APIStatusError: the last answer had an error status.
            APIConnectionError: the last attempt got no answer.
            ClientClosedError: the transport was closed before or meanwhile.
        """
        return _reply(await self._tracked(self._send_with_retries(request)))

    async def stream(self, request: Request) -> AsyncGenerator[bytes]:
        """Send as `send` does, and yield a good answer's body as it comes.

        Closing the generator drops the connection. The request's timeout is the longest silence.

        Raises:
            APIConnectionError: also where the answer breaks off.
        """
        request = dataclasses.replace(request, is_streamed=True)
        response = await self._tracked(self._send_with_retries(request))
        try:
            chunks = response.aiter_bytes()
            while True:
                self._check_open()
                with self._connection_errors(request, request.timeout_s or self.timeout_s):
                    chunk = await self._tracked(_next_chunk(chunks))
                if chunk is None:
                    return
                yield chunk
        finally:
            await response.aclose()

    async def _tracked(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that the transport's end turns into a ClientClosedError."""
        task = asyncio.current_task()
        assert task is not None
        try:
            self._check_open()
        except ClientClosedError:
            work.close()
            raise
        self._active.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            self._check_open()
            raise
        finally:
            self._active.discard(task)

    async def close(self) -> None:
        """Fail what is under way with ClientClosedError and close the pools."""
        self._is_closed = True
        for task in self._active - {asyncio.current_task()}:
            task.cancel()
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosedError("ServiceClient is closed", hint="create a new one")

    async def _send_with_retries(self, request: Request) -> httpx.Response:
        policy = request.policy or self.policy
        # One for all attempts.
        idempotency_key = request.idempotency_key or new_id("tinsmith-retry-")
        start_s = time.monotonic()
        num_failures = num_counted = 0
        while True:
            try:
                response = await self._authorized(request, idempotency_key, num_failures)
            except APIConnectionError as error:
                retry_after = None
                may_retry, is_counted = self._may_reconnect(error), True
                failure: Exception = error
            else:
                if response.status_code < 300 or response.status_code in request.expects:
                    return response
                retry_after = retry_after_s(response.headers)
                may_retry = is_retryable(response.status_code, response.headers)
                if response.status_code == 429 and policy.is_busy_raised:
                    may_retry = False
                is_counted = not (policy.is_backpressure_free and response.status_code == 429)
                failure = _failure(request, response)
            num_failures += 1
            num_counted += is_counted
            delay_s = policy.delay_s(
                num_failures,
                uniform=random.random(),
                retry_after=retry_after,
            )
            elapsed_s = time.monotonic() - start_s
            is_spent = num_counted > policy.max_retries and is_counted
            if not may_retry or is_spent or elapsed_s + delay_s > policy.max_elapsed_s:
                raise failure
            logger.debug("%s failed, trying again in %.2f s: %s", request, delay_s, failure)
            # What is given up soon concerns nobody: heartbeats, reports, cancellations.
            if num_failures >= _TELL_AFTER and policy.max_elapsed_s >= self.policy.max_elapsed_s:
                self._tell(failure)
            await asyncio.sleep(delay_s)

    def _tell(self, failure: Exception) -> None:
        """Say that calls wait, once in a while however many they are."""
        now_s = time.monotonic()
        if now_s - self._told_at_s >= _TELL_EVERY_S:
            self._told_at_s = now_s
            logger.warning("still trying: %s", failure)

    async def _authorized(
        self, request: Request, idempotency_key: str, retry_count: int
    ) -> httpx.Response:
        """One attempt; a refused key that can be renewed is, and the request is sent once more."""
        credential = request.credential or self.credential
        key = await credential.token()
        response = await self._attempt(request, idempotency_key, retry_count, key)
        if response.status_code == 401 and (other := await credential.renewed(key)) is not None:
            response = await self._attempt(request, idempotency_key, retry_count, other)
        return response

    async def _attempt(
        self, request: Request, idempotency_key: str, retry_count: int, key: str
    ) -> httpx.Response:
        headers = {
            **({"X-API-Key": key} if key else {}),
            **self._headers,
            "Accept": request.accept,
            "x-stainless-retry-count": str(retry_count),
            **request.headers,
        }
        if request.method != "GET":
            headers |= {
                "Content-Type": request.content_type,
                "X-Idempotency-Key": idempotency_key,
            }
        _inject_trace(headers)
        timeout_s = request.timeout_s or self.timeout_s
        with self._connection_errors(request, timeout_s):
            pool = self._pool(request.lane)
            built = pool.build_request(
                request.method,
                f"{self.base_url}/api/v1/{request.path}",
                content=request.body or None,
                headers=headers,
                # No limit on waiting for a free connection: the work ahead of it has its own.
                timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
            )
            response = await pool.send(built, stream=request.is_streamed)
            if request.is_streamed and response.status_code >= 300:
                await response.aread()  # which closes it
            return response

    @contextlib.contextmanager
    def _connection_errors(self, request: Request, timeout_s: float) -> Generator[None]:
        """Turn httpx's errors into ours."""
        try:
            yield
        except httpx.TimeoutException as error:
            kind = "no connection" if isinstance(error, httpx.ConnectTimeout) else "no answer"
            limit_s = CONNECT_TIMEOUT_S if kind == "no connection" else timeout_s
            raise APITimeoutError(
                f"{request}: {kind} within {limit_s:g} s from {self.base_url}"
            ) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            _refuse_url(self.base_url, error)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise APIConnectionError(
                f"{request}: no answer from {self.base_url}: {reason}",
                hint="is the service running, and is base_url right?",
            ) from error

    def _may_reconnect(self, error: APIConnectionError) -> bool:
        explanation = self._explain_failure()
        if explanation is not None:
            error.hint = explanation
        return explanation is None

    def _pool(self, lane: Lane) -> httpx.AsyncClient:
        pool = self._pools.get(lane)
        if pool is None:
            _quieten_httpx()
            size = _MAX_CONNECTIONS[lane]
            pool = self._pools[lane] = httpx.AsyncClient(
                limits=httpx.Limits(max_connections=size, max_keepalive_connections=size),
                # Loading the certificates takes longer than a training step of a small model.
                verify=not self.base_url.startswith("http://"),
                trust_env=not is_loopback(self.base_url),  # a proxy cannot reach this machine
            )
        return pool


def _quieten_httpx() -> None:
    """Four lines of log a training step help nobody; a level that somebody has set stays."""
    httpx_logger = logging.getLogger("httpx")
    if httpx_logger.level == logging.NOTSET:
        httpx_logger.setLevel(logging.WARNING)


def is_loopback(base_url: str) -> bool:
    """Whether the address is this machine's own."""
    host = httpx.URL(base_url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _next_chunk(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


def _inject_trace(headers: dict[str, str]) -> None:
    """Add `traceparent` where we are in a trace.

    Without the recorder nobody is in one, unless the process was started in it; so it is not
    imported for that, which would make a client's start a tenth longer.
    """
    if "tinsmith.telemetry" in sys.modules or environment.traceparent() is not None:
        from tinsmith.telemetry.context import inject

        inject(headers)


def _failure(request: Request, response: httpx.Response) -> APIStatusError:
    error = status_error(response.status_code, response.content, request=str(request))
    error.retry_after_s = retry_after_s(response.headers)
    if response.is_redirect:  # not followed: a body may not be sent twice, a key not elsewhere
        error.hint = f"use {response.headers.get('location')} as base_url, if you trust it"
    return error


def _reply(response: httpx.Response) -> Reply:
    return Reply(
        response.status_code,
        response.content,
        response.headers.get("content-type", "").lower(),
        response.headers,
    )


def _refuse_url(base_url: str, error: Exception) -> NoReturn:
    raise UserError(
        f"base_url={base_url!r}: not an address ({error})",
        field="base_url",
        hint="try http://127.0.0.1:8000",
    ) from error
