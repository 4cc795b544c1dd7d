"""How much a client has on the wire at once, and how it gives way to a busy service.

Everything here is used on the SDK's loop. Main names: `ByteBudget`, `SampleGate`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Callable

from tinsmith.types import DmelChunk, EncodedTextChunk, ImageChunk, ModelInput

MAX_SUBMITS = 400
"""Samples being submitted at once."""
BUSY_S = 10.0
"""How long a client holds back after the service said that it is busy (429)."""
BUSY_SUBMITS = 10
BUSY_WEIGHT = 20
"""A byte counts so many times as long as the client holds back."""
LARGE_BYTES = 128 * 1024
SMALL_PAUSE_S, LARGE_PAUSE_S = 1.0, 5.0
"""Nothing is submitted for so long after a small or a large sample was turned away."""
_JITTER = 0.25
_TOKEN_BYTES = 10


class ByteBudget:
    """Lets in what fits, in order of arrival; what is larger than the budget goes in alone."""

    def __init__(self, max_bytes: Callable[[], int]) -> None:
        """Ask for the limit at each admission: the service may say it later."""
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()

    @contextlib.asynccontextmanager
    async def hold(self, num_bytes: int) -> AsyncGenerator[None]:
        """Wait for room, and keep it until the block ends."""
        async with self._turn:
            while self._used_bytes and self._used_bytes + num_bytes > self._max_bytes():
                self._room.clear()
                await self._room.wait()
            self._used_bytes += num_bytes
        try:
            yield
        finally:
            self._used_bytes -= num_bytes
            self._room.set()


class SampleGate:
    """Admits submissions of samples: by count and bytes, and few of them while the service is busy.

    One 429 holds back all of a client's samples, not only the one that was turned away; so a
    thousand of them do not ask again at once.
    """

    def __init__(self, max_bytes: Callable[[], int]) -> None:
        self._max_bytes = max_bytes
        self._num_submits = 0
        self._used_bytes = 0
        self._closed_until_s = float("-inf")
        self._busy_until_s = float("-inf")
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()

    @contextlib.asynccontextmanager
    async def admitted(self, num_bytes: int) -> AsyncGenerator[None]:
        """Wait until a submission of this size may go out; it counts until the block ends."""
        async with self._turn:  # in order of arrival
            while not self._has_room(num_bytes):
                self._room.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), self._next_change_s())
            self._num_submits += 1
            self._used_bytes += num_bytes
        try:
            yield
        finally:
            self._num_submits -= 1
            self._used_bytes -= num_bytes
            self._room.set()

    def turned_away(self, num_bytes: int, retry_after_s: float | None) -> None:
        """Hold back after a 429.

        Args:
            num_bytes: of the sample that was turned away.
            retry_after_s: the pause that the service asked for, if it did.
        """
        pause_s = SMALL_PAUSE_S if num_bytes <= LARGE_BYTES else LARGE_PAUSE_S
        pause_s = pause_s if retry_after_s is None else retry_after_s
        now_s = time.monotonic()
        reopens_s = now_s + pause_s * (1.0 + _JITTER * random.random())
        self._closed_until_s = max(self._closed_until_s, reopens_s)
        self._busy_until_s = max(self._busy_until_s, now_s + BUSY_S, reopens_s)

    def _has_room(self, num_bytes: int) -> bool:
        now_s = time.monotonic()
        if now_s < self._closed_until_s:
            return False
        if not self._num_submits:
            return True
        is_busy = now_s < self._busy_until_s
        weight = BUSY_WEIGHT if is_busy else 1
        is_few = self._num_submits < (BUSY_SUBMITS if is_busy else MAX_SUBMITS)
        return is_few and weight * (self._used_bytes + num_bytes) <= self._max_bytes()

    def _next_change_s(self) -> float | None:
        """Seconds until time alone may make room; None where only others' ends do."""
        now_s = time.monotonic()
        ahead = [t - now_s for t in (self._closed_until_s, self._busy_until_s) if t > now_s]
        return min(ahead, default=None)


def prompt_bytes(prompt: ModelInput) -> int:
    """Estimate a prompt's size in a request, by the rule of the protocol."""
    total = 0
    for chunk in prompt.chunks:
        if isinstance(chunk, EncodedTextChunk):
            total += _TOKEN_BYTES * len(chunk.tokens)
        elif isinstance(chunk, ImageChunk):
            total += len(chunk.data)
        elif isinstance(chunk, DmelChunk):
            total += len(chunk.dmel)
        else:
            total += len(chunk.location)
    return total
