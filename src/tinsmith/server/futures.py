"""Futures: request ids, results, and long polls that wake the moment a result is there.

A result can be fetched again and again until it expires, `keep_s` after completion. Where memory
is over `max_bytes`, results leave it, those already fetched first; they are gone then, or come from
the metadata database if the store was given one. Expiry is one timer set for the oldest result;
nothing polls.

The database gets a result at once, and that a training request is open. That a sample is open it
gets a moment later, if it is open still: a process killed within that moment leaves no trace of the
sample, and the next one says that its result is not held and that it has to be submitted again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from itertools import islice

from tinsmith.core.errors import TinsmithError
from tinsmith.core.jsonio import dumps
from tinsmith.server.access import current_key_id, may_use
from tinsmith.server.errors import GoneError, MissingError, RequestError, future_error_body
from tinsmith.server.metadata.writes import MetadataWrites, NullWrites
from tinsmith.server.recording import Done, Origin, ServiceRecorder, origin

JSON_TYPE = "application/json"
PROTOBUF_TYPE = "application/x-protobuf"
TRAINING_TYPE = f"{PROTOBUF_TYPE}; message=ForwardBackwardOutput"
SAMPLE_TYPE = f"{PROTOBUF_TYPE}; message=SampleResponse"
"""Kept with a binary result, so that it can be read again; clients see the part up to the `;`."""
MAX_ID_CHARS = 64
ENTRY_BYTES = 512
"""Bookkeeping cost charged to every stored result."""
OPEN_ROW_WAIT_S = 0.05
"""How long the row of an open sample waits: the result of a short one comes sooner."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished result, encoded once."""

    body: bytes
    media_type: str = JSON_TYPE

    @property
    def content_type(self) -> str:
        """The media type as clients know it."""
        return self.media_type.partition(";")[0]

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
    owner_id: str | None
    key_id: int | None
    outcome: Outcome | None = None
    expires_s: float = 0.0
    retrieved: bool = False
    origin: Origin | None = None


FindStored = Callable[[str], Awaitable[Outcome | None]]
"""Looks a request up in the metadata database; None means that it is not there."""


class FutureStore:
    """Pending and finished results by request id. Lives on one event loop."""

    def __init__(
        self,
        *,
        keep_s: float,
        max_bytes: int,
        max_stored_bytes: int = 0,
        writes: MetadataWrites | None = None,
        find_stored: FindStored | None = None,
    ) -> None:
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._max_stored_bytes = max_stored_bytes
        self._writes = writes or NullWrites()
        self._find_stored = find_stored
        self._boot_id = secrets.token_hex(6)
        self._count = 0
        self._entries: dict[str, _Entry] = {}
        self._finished: OrderedDict[str, int] = OrderedDict()
        self._keys: dict[Hashable, str] = {}
        self._bytes = 0
        self._spilled: OrderedDict[str, tuple[float, int]] = OrderedDict()  # expiry, size
        self._spilled_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._open_rows: dict[str, dict[str, object]] = {}
        self._open_rows_timer: asyncio.TimerHandle | None = None
        self._closed = asyncio.Event()
        self.recorder: ServiceRecorder | None = None
        """Is told of the work behind each result."""

    @property
    def boot_id(self) -> str:
        """Names this life of the service; every request id begins with it."""
        return self._boot_id

    @property
    def num_pending(self) -> int:
        """Futures whose work has not finished."""
        return len(self._entries) - len(self._finished)

    def create(
        self,
        *,
        key: Hashable | None = None,
        digest: str = "",
        owner_id: str | None = None,
        is_repeatable: bool = False,
    ) -> str:
        """Opens a future.

        Args:
            key: lets `find` recognise a repeated submission while the future lives.
            digest: of the submission's content.
            owner_id: the model or sampler that the request is for.
            is_repeatable: nothing but the result is lost with the process, so that the request may
                wait a moment before it is written down.
        """
        self._count += 1
        request_id = f"{self._boot_id}-{self._count}-{secrets.token_hex(4)}"
        self._entries[request_id] = _Entry(
            asyncio.Event(),
            key,
            digest,
            owner_id,
            current_key_id(),
            origin=origin() if self.recorder is not None else None,
        )
        row = {
            "request_id": request_id,
            "boot_id": self._boot_id,
            "owner_id": owner_id,
            "created_at": time.time(),
            "expires_at": None,
            "media_type": None,
            "payload": None,
        }
        if is_repeatable and not self._closed.is_set():
            self._open_rows[request_id] = row
            if self._open_rows_timer is None:
                loop = asyncio.get_running_loop()
                self._open_rows_timer = loop.call_later(OPEN_ROW_WAIT_S, self._write_open_rows)
        else:
            self._writes.put("futures", row)
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

    def is_pending(self, request_id: str) -> bool:
        """Whether this process has accepted the request and not finished it.

        Raises:
            MissingError: it was never accepted here.
        """
        entry = self._entries.get(request_id)
        if entry is not None:
            if not may_use(entry.key_id):
                raise _missing(request_id)
            return entry.outcome is None
        parts = request_id.split("-")
        if parts[0] != self._boot_id and not (len(parts) == 3 and len(parts[0]) == 12):
            raise _missing(request_id)
        return False

    def complete(self, request_id: str, outcome: Outcome, done: Done | None = None) -> None:
        """Stores a result and wakes everyone who waits; a second result is ignored.

        `done` says which work it is the result of, for the recorder.
        """
        entry = self._entries.get(request_id)
        if entry is None or entry.outcome is not None:
            return
        entry.outcome = outcome
        entry.expires_s = asyncio.get_running_loop().time() + self._keep_s
        stored = {
            "expires_at": time.time() + self._keep_s,
            "media_type": outcome.media_type,
            "payload": outcome.body,
        }
        row = self._open_rows.pop(request_id, None)
        if row is not None:
            self._writes.put("futures", row | stored)
        else:
            self._writes.change("futures", request_id, stored)
        size = len(outcome.body) + ENTRY_BYTES
        self._finished[request_id] = size
        self._bytes += size
        entry.done.set()
        if done is not None and self.recorder is not None and entry.origin is not None:
            self.recorder.record(done, entry.origin)
        if self._bytes > self._max_bytes:
            self._evict()
        self._arm()

    def fail(self, request_id: str, error: TinsmithError) -> None:
        """Stores a failure as the result; once closed, what fails is left for the next start."""
        if not self._closed.is_set():
            self.complete(request_id, Outcome.from_error(error))

    async def wait(self, request_id: str, hold_s: float) -> Outcome | None:
        """Waits up to `hold_s` seconds; None means still pending.

        Raises:
            GoneError: the result expired, or an earlier process of the service held it.
            MissingError: no such id was ever given out.
        """
        entry = self._entries.get(request_id)
        if entry is None:
            return await self._stored(request_id)
        if not may_use(entry.key_id):
            raise _missing(request_id)
        if entry.outcome is None and hold_s > 0 and not self._closed.is_set():
            try:
                async with asyncio.timeout(hold_s):
                    await entry.done.wait()
            except TimeoutError:
                return None
        if entry.outcome is not None:
            entry.retrieved = True
        return entry.outcome

    def note_retrieved(self, request_ids: list[str]) -> None:
        """Lets results that a client has safely got go first when memory is short."""
        for request_id in request_ids:
            entry = self._entries.get(request_id)
            if entry is not None and entry.outcome is not None:
                entry.retrieved = True

    def close(self) -> None:
        """Wakes every waiter for a shutdown; pending results stay pending."""
        self._closed.set()
        for entry in self._entries.values():
            entry.done.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._write_open_rows()

    def _write_open_rows(self) -> None:
        """Writes down which requests are not finished, for the next start to tell."""
        if self._open_rows_timer is not None:
            self._open_rows_timer.cancel()
            self._open_rows_timer = None
        for row in self._open_rows.values():
            self._writes.put("futures", row)
        self._open_rows.clear()

    async def _stored(self, request_id: str) -> Outcome:
        parts = request_id.split("-")
        is_ours = parts[0] == self._boot_id
        well_formed = len(parts) == 3 and len(parts[0]) == 12 and parts[1].isdecimal()
        if not well_formed or len(request_id) > MAX_ID_CHARS:
            raise _missing(request_id)
        if self._find_stored is not None and (not is_ours or request_id in self._spilled):
            outcome = await self._find_stored(request_id)
            if outcome is not None:
                return outcome
        if is_ours and int(parts[1]) > self._count:
            raise _missing(request_id)
        raise GoneError(
            f"request_id={request_id[:80]!r}: its result is no longer held",
            field="request_id",
            hint=f"results are kept {self._keep_s:.0f} s; submit the request again"
            + ("" if is_ours else ", the service was restarted since"),
        )

    def _forget(self, request_id: str) -> None:
        """Takes a finished result out of memory."""
        self._bytes -= self._finished.pop(request_id)
        entry = self._entries.pop(request_id)
        if entry.key is not None and self._keys.get(entry.key) == request_id:
            del self._keys[entry.key]

    def _spill(self, request_id: str) -> None:
        """Leaves a result to the database, if there is one."""
        expires_s, size = self._entries[request_id].expires_s, self._finished[request_id]
        self._forget(request_id)
        if self._find_stored is None:
            return
        self._spilled[request_id] = (expires_s, size)
        self._spilled_bytes += size
        while self._spilled_bytes > self._max_stored_bytes:
            self._drop_spilled(next(iter(self._spilled)))

    def _drop_spilled(self, request_id: str) -> None:
        _, size = self._spilled.pop(request_id)
        self._spilled_bytes -= size
        self._writes.remove("futures", request_id)

    def _evict(self) -> None:
        """Makes room down to nine tenths: fetched results first, then the oldest."""
        goal = self._max_bytes * 9 // 10
        fetched = [name for name in self._finished if self._entries[name].retrieved]
        for request_id in [*fetched, *self._finished]:
            if self._bytes <= goal or len(self._finished) == 1:
                return
            if request_id in self._finished:
                self._spill(request_id)

    def _next_expiries(self) -> list[float]:
        due = [self._entries[request_id].expires_s for request_id in islice(self._finished, 1)]
        return due + [expires_s for expires_s, _ in islice(self._spilled.values(), 1)]

    def _arm(self) -> None:
        due = self._next_expiries()
        if self._timer is None and due and not self._closed.is_set():
            self._timer = asyncio.get_running_loop().call_at(min(due), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._finished:
            request_id = next(iter(self._finished))
            if self._entries[request_id].expires_s > now:
                break
            self._forget(request_id)
            self._writes.remove("futures", request_id)
        while self._spilled:
            request_id, (expires_s, _) = next(iter(self._spilled.items()))
            if expires_s > now:
                break
            self._drop_spilled(request_id)
        self._arm()


def _missing(request_id: str) -> MissingError:
    return MissingError(f"request_id={request_id[:80]!r}: unknown", field="request_id")
