"""Tokens of a sample as they are drawn: `SampleStream`, an iterator of `SampledTokens`.

An extension of the protocol, which only services that announce `stream_sample` have.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, Self

import pydantic

from tinsmith.client.connection import Connection, parse
from tinsmith.client.errors import (
    APIConnectionError,
    APIResponseValidationError,
    failed_request,
)
from tinsmith.client.futures import start
from tinsmith.client.retries import RetryConfig
from tinsmith.client.transport import Request
from tinsmith.core import jsonio
from tinsmith.core.errors import TinsmithError
from tinsmith.types import SampleRequest, StopReason

EXTENSION = "stream_sample"
SILENCE_S = 45.0
"""Longest silence of a service that is well; it sends an empty line every 10 s."""
_NDJSON = "application/x-ndjson"


@dataclasses.dataclass(frozen=True, slots=True)
class SampledTokens:
    """The next tokens of one sequence, one or more."""

    index: int
    """Which of the `num_samples` sequences they continue."""
    tokens: list[int]
    logprobs: list[float]
    """The model's own, of each token when it was drawn."""
    stop_reason: StopReason | None = None
    """Given with the last tokens of the sequence."""


class SampleStream:
    """The tokens of one sample; iterate with `for` or `async for`, once.

    Leaving its `with` block, `close()`, or letting go of it before the end gives the sample up: the
    service stops drawing. Cancelling the task that awaits the next tokens does so too.
    """

    def __init__(
        self, connection: Connection, request: SampleRequest, retry_config: RetryConfig
    ) -> None:
        """Begin; made by `SamplingClient.stream`."""
        self._pid = os.getpid()
        self._reader = _Reader(connection, request, retry_config)
        self._ready: deque[SampledTokens] = deque()
        self._is_closed = False
        # On its way before anybody iterates, like every call: it opens the stream.
        self._next = start(self._reader.take, "stream")

    @property
    def request_id(self) -> str | None:
        """The service's name of the request; None until the first tokens have come."""
        return self._reader.request_id

    @property
    def sequence_ids(self) -> list[str]:
        """The service's names of the sequences; empty until the first tokens have come."""
        return self._reader.sequence_ids

    def close(self) -> None:
        """Give up what has not come yet; iterating further ends at once. Never waits."""
        if not self._is_closed:
            self._is_closed = True
            self._ready.clear()
            self._next.cancel()
            start(self._reader.close, "stream")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> SampledTokens:
        if not self._ready and not self._is_closed:
            self._refill(self._next.result())
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SampledTokens:
        if not self._ready and not self._is_closed:
            try:
                self._refill(await self._next)
            except asyncio.CancelledError:
                self.close()
                raise
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    def _refill(self, tokens: list[SampledTokens]) -> None:
        if tokens:
            self._ready.extend(tokens)
            self._next = start(self._reader.take, "stream")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        is_ours = not sys.is_finalizing() and self._pid == os.getpid()  # not a forked child's
        if is_ours and not self._reader.is_over:
            self.close()


class _Event(pydantic.BaseModel):
    """One line of the stream; kinds that this client does not know are skipped."""

    type: str
    request_id: str | None = None
    sequence_ids: list[str] = []
    index: int = 0
    tokens: list[int] = []
    logprobs: list[float] = []
    stop_reason: StopReason | None = None


class _Reader:
    """The connection behind a stream; used on the SDK's loop."""

    def __init__(
        self, connection: Connection, request: SampleRequest, retry_config: RetryConfig
    ) -> None:
        self.request_id: str | None = None
        self.sequence_ids: list[str] = []
        self.is_over = False
        self._connection = connection
        self._request = request
        self._retry_config = retry_config
        self._chunks: AsyncGenerator[bytes] | None = None
        self._rest = b""
        self._failure: TinsmithError | None = None
        self._lock = asyncio.Lock()

    async def take(self) -> list[SampledTokens]:
        """The next tokens as soon as there are some; none at the end."""
        async with self._lock:
            if self._failure is not None:
                raise self._failure
            try:
                return await self._take()
            except BaseException:
                await self._shut()
                raise

    async def close(self) -> None:
        """Drop the connection."""
        async with self._lock:
            await self._shut()

    async def _take(self) -> list[SampledTokens]:
        found: list[SampledTokens] = []
        while not found and not self.is_over:
            if self._chunks is None:
                self._chunks = await self._open()
            chunk = await anext(self._chunks, None)
            if chunk is None:
                raise APIConnectionError(
                    f"stream: the answer broke off before its end (request_id={self.request_id})",
                    hint="sample again",
                )
            found = self._read(chunk)
        if self.is_over:
            await self._shut()
            if self._failure is not None and not found:
                raise self._failure
        return found

    async def _shut(self) -> None:
        self.is_over = True
        chunks, self._chunks = self._chunks, None
        if chunks is not None:
            await chunks.aclose()

    async def _open(self) -> AsyncGenerator[bytes]:
        await self._connection.require_extension(
            EXTENSION, hint="use sample(), which gives all tokens at the end"
        )
        await self._connection.session()
        transport = await self._connection.transport()
        return transport.stream(
            Request(
                "ext/stream_sample",
                self._request.model_dump_json(exclude_none=True).encode(),
                accept=_NDJSON,
                lane="streams",
                timeout_s=SILENCE_S,
                policy=self._retry_config.policy(transport.policy),
            )
        )

    def _read(self, chunk: bytes) -> list[SampledTokens]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        found: list[SampledTokens] = []
        for line in lines:
            if line and not self.is_over:
                self._read_event(_payload(line), found)
        return found

    def _read_event(self, payload: Mapping[str, Any], found: list[SampledTokens]) -> None:
        event = parse(_Event, payload, "stream_sample")
        if event.type == "start":
            self.request_id, self.sequence_ids = event.request_id, event.sequence_ids
        elif event.type == "tokens":
            if not 0 <= event.index < self._request.num_samples or (
                len(event.tokens) != len(event.logprobs)
            ):
                raise APIResponseValidationError(
                    f"stream_sample: {len(event.tokens)} tokens and {len(event.logprobs)} logprobs "
                    f"of sequence {event.index}",
                    body=payload,
                )
            tokens = (event.index, event.tokens, event.logprobs, event.stop_reason)
            found.append(SampledTokens(*tokens))
        elif event.type in ("end", "error"):
            self.is_over = True
            if event.type == "error":
                self._failure = failed_request(payload, self.request_id or "")


def _payload(line: bytes) -> Mapping[str, Any]:  # Any: parsed JSON, validated by the caller
    try:
        payload = jsonio.loads(line)
    except ValueError as error:
        text = line[:200].decode(errors="replace")
        raise APIResponseValidationError(
            f"stream_sample: a line that is not JSON ({error}): {text!r}", body=text
        ) from error
    return payload
