"""A sample told token by token: lines of JSON, one event each, while the engine draws.

Events: `start` (the request's id and its sequences'), `tokens` (of one sequence; `stop_reason` with
its last ones), and at the end `end` or `error`. Empty lines mean that the service is still there.
A stream that is closed before its end gives the sample up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from tinsmith.core.errors import TinsmithError
from tinsmith.core.jsonio import dumps
from tinsmith.engine.jobs import SampledToken
from tinsmith.server.errors import future_error_body

NDJSON = "application/x-ndjson"
HEARTBEAT_S = 10.0
"""Longest silence; its clients wait four times as long."""


class SampleStream:
    """What one sample has told and its client has not got yet. Lives on the event loop."""

    def __init__(
        self, request_id: str, sequence_ids: Sequence[str], give_up: Callable[[], None]
    ) -> None:
        self._give_up = give_up
        self._events: list[dict[str, object]] = []
        self._growing: dict[int, tuple[dict[str, object], list[int], list[float]]] = {}
        """By sequence, its event that still waits, with the event's tokens and logprobs."""
        self._news = asyncio.Event()
        self._is_over = False
        self._put({"type": "start", "request_id": request_id, "sequence_ids": list(sequence_ids)})

    def add(self, token: SampledToken) -> None:
        """Takes a token; those of one sequence that wait together travel in one event."""
        if token.sample not in self._growing:
            tokens: list[int] = []
            logprobs: list[float] = []
            event: dict[str, object] = {"type": "tokens", "index": token.sample}
            event |= {"tokens": tokens, "logprobs": logprobs}
            self._growing[token.sample] = (event, tokens, logprobs)
            self._put(event)
        event, tokens, logprobs = self._growing[token.sample]
        tokens.append(token.token)
        logprobs.append(token.logprob)
        event["stop_reason"] = token.stop_reason

    def finish(self, error: TinsmithError | None) -> None:
        """Takes the end; what comes after it is ignored."""
        if not self._is_over:
            self._is_over = True
            failure = {} if error is None else future_error_body(error)
            self._put({"type": "end" if error is None else "error", **failure})

    def close(self) -> None:
        """Gives the sample up unless it is done: nobody reads on."""
        if not self._is_over:
            self._is_over = True
            self._give_up()

    async def lines(self) -> AsyncIterator[bytes]:
        """Events as they come, as many at a time as wait."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._news.wait()
            except TimeoutError:
                yield b"\n"
                continue
            events, self._events, self._growing = self._events, [], {}
            self._news.clear()
            yield "".join(dumps(event) + "\n" for event in events).encode()
            if events[-1]["type"] in ("end", "error"):
                return

    def _put(self, event: dict[str, object]) -> None:
        self._events.append(event)
        self._news.set()


class StreamResponse(StreamingResponse):
    """The answer that carries a stream and closes it however it ends."""

    def __init__(self, stream: SampleStream) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(stream.lines(), media_type=NDJSON, headers=headers)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the end, or until the client is gone."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()
