"""Futures: request ids, results, and long polls that wake the moment a result is there.

A result can be fetched again and again until it expires (`keep_s` after completion) or the store
is over `max_bytes`, when results already fetched go first. Expiry is one timer set for the oldest
result; nothing polls.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from tinsmith.core.errors import TinsmithError
from tinsmith.core.jsonio import dumps
from tinsmith.server.errors import GoneError, MissingError, RequestError, future_error_body

JSON_TYPE = "application/json"
PROTOBUF_TYPE = "application/x-protobuf"
ENTRY_BYTES = 512
"""Bookkeeping cost charged to every stored result."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished result, encoded once."""

    body: bytes
    media_type: str = JSON_TYPE

    @classmethod
    def from_json(cls, value: object) -> Outcome:
        """Encodes a JSON result; NaN and infinity are refused by the encoder."""
        return cls(dumps(value).encode())

    @classmethod
    def from_error(cls, error: TinsmithError) -> Outcome:
        """Encodes a failure as the protocol's error result."""
        return cls.from_json(future_error_body(error))


@dataclass(slots=True)
class _Entry:
    done: asyncio.Event
    key: Hashable | None
    digest: str
    outcome: Outcome | None = None
    expires_s: float = 0.0
    retrieved: bool = False


class FutureStore:
    """Pending and finished results by request id. Lives on one event loop."""

    def __init__(self, *, keep_s: float, max_bytes: int) -> None:
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._boot_id = secrets.token_hex(6)
        self._count = 0
        self._entries: dict[str, _Entry] = {}
        self._finished: OrderedDict[str, int] = OrderedDict()
        self._keys: dict[Hashable, str] = {}
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()

    @property
    def num_pending(self) -> int:
        """Futures whose work has not finished."""
        return len(self._entries) - len(self._finished)

    def create(self, *, key: Hashable | None = None, digest: str = "") -> str:
        """Opens a future; `key` lets `find` recognise a repeated submission while it lives."""
        self._count += 1
        request_id = f"{self._boot_id}-{self._count}-{secrets.token_hex(4)}"
        self._entries[request_id] = _Entry(asyncio.Event(), key, digest)
        if key is not None:
            self._keys[key] = request_id
        return request_id

    def find(self, key: Hashable, digest: str) -> str | None:
        """The request id of a live future opened with `key` and the same content.

        Raises:
            RequestError: it was opened with other content.
        """
        request_id = self._keys.get(key)
        if request_id is not None and self._entries[request_id].digest != digest:
            raise RequestError(
                f"seq_id: already used by a different request ({key!r})",
                field="seq_id",
                hint="give every new request the next sequence number",
            )
        return request_id

    def complete(self, request_id: str, outcome: Outcome) -> None:
        """Stores a result and wakes everyone who waits; a second result is ignored."""
        entry = self._entries.get(request_id)
        if entry is None or entry.outcome is not None:
            return
        entry.outcome = outcome
        entry.expires_s = asyncio.get_running_loop().time() + self._keep_s
        size = len(outcome.body) + ENTRY_BYTES
        self._finished[request_id] = size
        self._bytes += size
        entry.done.set()
        if self._bytes > self._max_bytes:
            self._evict()
        self._arm()

    def fail(self, request_id: str, error: TinsmithError) -> None:
        """Stores a failure as the result."""
        self.complete(request_id, Outcome.from_error(error))

    async def wait(self, request_id: str, hold_s: float) -> Outcome | None:
        """Waits up to `hold_s` seconds; None means still pending.

        Raises:
            GoneError: the result expired, or an earlier process of the service held it.
            MissingError: no such id was ever given out.
        """
        entry = self._entries.get(request_id)
        if entry is None:
            raise self._unknown(request_id)
        if entry.outcome is None and hold_s > 0 and not self._closed.is_set():
            try:
                async with asyncio.timeout(hold_s):
                    await entry.done.wait()
            except TimeoutError:
                return None
        if entry.outcome is not None:
            entry.retrieved = True
        return entry.outcome

    def close(self) -> None:
        """Wakes every waiter for a shutdown; pending results stay pending."""
        self._closed.set()
        for entry in self._entries.values():
            entry.done.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unknown(self, request_id: str) -> GoneError | MissingError:
        parts = request_id.split("-")
        well_formed = len(parts) == 3 and len(parts[0]) == 12 and parts[1].isdigit()
        if well_formed and (parts[0] != self._boot_id or int(parts[1]) <= self._count):
            return GoneError(
                f"request_id={request_id!r}: its result is no longer held",
                field="request_id",
                hint=f"results are kept {self._keep_s:.0f} s and do not survive a restart; "
                "submit the request again",
            )
        return MissingError(f"request_id={request_id!r}: unknown", field="request_id")

    def _drop(self, request_id: str) -> None:
        self._bytes -= self._finished.pop(request_id)
        entry = self._entries.pop(request_id)
        if entry.key is not None and self._keys.get(entry.key) == request_id:
            del self._keys[entry.key]

    def _evict(self) -> None:
        """Makes room down to nine tenths: fetched results first, then the oldest."""
        goal = self._max_bytes * 9 // 10
        fetched = [name for name in self._finished if self._entries[name].retrieved]
        for request_id in [*fetched, *self._finished]:
            if self._bytes <= goal or len(self._finished) == 1:
                return
            if request_id in self._finished:
                self._drop(request_id)

    def _arm(self) -> None:
        if self._timer is None and self._finished and not self._closed.is_set():
            oldest = self._entries[next(iter(self._finished))]
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(oldest.expires_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._finished:
            request_id = next(iter(self._finished))
            if self._entries[request_id].expires_s > now:
                break
            self._drop(request_id)
        self._arm()
