"""Tells the service how its clients fare: sessions that begin and end, calls that fail.

Only the service that a client talks to anyway hears of it, and `TINSMITH_TELEMETRY=0` turns it off.
Reports are written to disk before they are sent, are sent in the background, and never hold up a
call or its exception. Main name: `Telemetry`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import tinsmith
from tinsmith.client.errors import APIError, APIStatusError, ClientClosedError
from tinsmith.client.loop import loop_thread, run_in_daemon_thread
from tinsmith.client.redaction import redacted, safe_data, safe_traceback
from tinsmith.client.retries import RetryPolicy
from tinsmith.client.spool import Parcel, Spool
from tinsmith.client.transport import Request, Transport
from tinsmith.core import jsonio
from tinsmith.core.errors import TinsmithError
from tinsmith.core.ids import new_id
from tinsmith.types import Severity

logger = logging.getLogger(__name__)

MAX_BATCH_EVENTS = 100
MAX_QUEUED_EVENTS = 10_000
FLUSH_INTERVAL_S = 10.0
MAX_PAUSE_S = 300.0
"""Longest pause between attempts while the service does not take reports."""
DRAIN_TIMEOUT_S = 3.0
"""How long closing a client waits for the last reports; what is left then waits on disk."""
ATTEMPT_TIMEOUT_S = 5.0
_POLICY = RetryPolicy(max_retries=3, max_elapsed_s=30.0)
_LAST_POLICY = RetryPolicy(max_retries=1, max_elapsed_s=DRAIN_TIMEOUT_S)
_NO_SUCH_ROUTE = frozenset({404, 405, 501})
_REPORTED = "_tinsmith_is_reported"

Event = Mapping[str, Any]


@functools.lru_cache(maxsize=1)
def _uuid_of(pid: int) -> str:
    """One id for a process; a forked child has another."""
    return new_id()


class Telemetry:
    """Collects the events of one client and sends them; any thread may log."""

    def __init__(
        self,
        spool: Spool,
        transport: Callable[[], Transport | None],
        secrets: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Send nothing yet, and start nothing.

        Args:
            spool: where events wait.
            transport: the open transport to the service; None while there is none.
            secrets: texts that may appear in no event.
        """
        self._spool = spool
        self._transport = transport
        self._secrets = secrets
        self._pid = os.getpid()
        self._session_id = f"sessionless-{new_id()}"
        self._session_start: datetime | None = None
        self._indices = itertools.count()
        self._lock = threading.Lock()
        self._fresh: deque[tuple[str, Event]] = deque()  # with their session ids; not on disk yet
        self._waiting: list[Parcel] = []  # touched on the loop only
        self._num_waiting = 0
        self._worker: Future[None] | None = None
        self._wake = asyncio.Event()  # touched on the loop only, as the next
        self._is_due = asyncio.Event()
        self._pause_s = FLUSH_INTERVAL_S  # longer while the service takes nothing
        self._is_closing = False
        self._is_unwanted = False

    def log(
        self,
        event_name: str,
        event_data: Mapping[str, object] | None = None,
        severity: Severity = "INFO",
    ) -> bool:
        """Report something by name; False when it was not taken.

        Args:
            event_name: one of few.
            event_data: what JSON can say; keys, tokens and paths of yours are taken out.
            severity: how bad it is.
        """
        data = safe_data(dict(event_data or {}), self._secrets())
        return self._add(
            "GENERIC_EVENT", severity, event_name=redacted(event_name), event_data=data
        )

    def log_exception_sync(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """Report an exception, once; False when it was not taken. Does not wait."""
        if getattr(exception, _REPORTED, False):
            return False
        with contextlib.suppress(AttributeError):
            setattr(exception, _REPORTED, True)
        kind = type(exception).__name__
        is_ours = isinstance(exception, TinsmithError)
        if is_ours and exception.category == "user":
            told = {"error_type": kind, "field": exception.field}
            told["status_code"] = getattr(exception, "status_code", None)
            return self.log("user_error", told, "WARNING")
        # A message of somebody else's class may hold anything.
        message = redacted(exception.message, self._secrets()) if is_ours else ""
        return self._add(
            "UNHANDLED_EXCEPTION",
            severity,
            error_type=kind,
            error_message=message,
            traceback=safe_traceback(exception),
        )

    async def log_exception(self, exception: BaseException, severity: Severity = "ERROR") -> bool:
        """Twin of `log_exception_sync`."""
        return self.log_exception_sync(exception, severity)

    def watch(self, future: Future[Any]) -> None:
        """Report the failure of a call, after whoever waits for it has been told."""
        future.add_done_callback(self._observe)

    def begin_session(self, session_id: str, *, is_owner: bool) -> None:
        """Report from now on as a session; its owner also reports its start and end."""
        self._session_id = session_id
        if is_owner:
            self._session_start = datetime.now(UTC)
            self._add("SESSION_START", "INFO")

    async def close(self) -> None:
        """Send what there is, within `DRAIN_TIMEOUT_S`; the rest waits on disk for others."""
        if self._session_start is not None:
            duration_s = (datetime.now(UTC) - self._session_start).total_seconds()
            self._add("SESSION_END", "INFO", duration=f"PT{duration_s:.3f}S")
            self._session_start = None
        self._is_closing = True
        if self._worker is not None:
            self._wake.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.wrap_future(self._worker), DRAIN_TIMEOUT_S)

    def abandon(self) -> None:
        """End without a word: the client was dropped and not closed."""
        self._is_closing = True
        if self._worker is not None and self._pid == os.getpid():
            loop_thread().loop.call_soon_threadsafe(self._wake.set)

    def _observe(self, future: Future[Any]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, ClientClosedError):
            self.log_exception_sync(error)

    def _add(self, event: str, severity: Severity, **fields: object) -> bool:
        if self._is_closing or self._is_unwanted or self._pid != os.getpid():
            return False
        made: dict[str, Any] = {
            "event": event,
            "event_id": new_id(),
            "event_session_index": next(self._indices),
            "severity": severity,
            "timestamp": datetime.now(UTC).isoformat(),
            **fields,
        }
        with self._lock:
            if len(self._fresh) + self._num_waiting >= MAX_QUEUED_EVENTS:
                logger.debug("%d reports wait: %s is dropped", MAX_QUEUED_EVENTS, event)
                return False
            self._fresh.append((self._session_id, made))
            if self._worker is None:
                self._worker = loop_thread().start(self._work)
        loop_thread().loop.call_soon_threadsafe(self._wake.set)
        return True

    async def _work(self) -> None:
        sending = asyncio.get_running_loop().create_task(self._send_now_and_then())
        try:
            while not self._is_closing:
                await self._wake.wait()
                self._wake.clear()
                await self._write_down()  # at once, also while a hanging service is being sent to
                if self._num_waiting >= MAX_BATCH_EVENTS and self._pause_s <= FLUSH_INTERVAL_S:
                    self._is_due.set()
            await self._write_down()
            self._is_due.set()
            await sending
            await self._flush(_LAST_POLICY)
        finally:
            sending.cancel()
            await run_in_daemon_thread(self._spool.close)

    async def _send_now_and_then(self) -> None:
        while not self._is_closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_due.wait(), self._pause_s)
            self._is_due.clear()
            if not self._is_closing:
                is_sent = await self._flush(_POLICY)
                longer_s = min(2 * self._pause_s, MAX_PAUSE_S)
                self._pause_s = FLUSH_INTERVAL_S if is_sent else longer_s

    async def _write_down(self) -> None:
        with self._lock:
            fresh = list(self._fresh)
            self._fresh.clear()
            self._num_waiting += len(fresh)
        parcels: list[Parcel] = []
        for session_id, entries in itertools.groupby(fresh, key=lambda entry: entry[0]):
            events = [event for _, event in entries]
            parcels += [
                Parcel(_header(session_id), events[start : start + MAX_BATCH_EVENTS])
                for start in range(0, len(events), MAX_BATCH_EVENTS)
            ]
        if parcels:
            await run_in_daemon_thread(lambda: [self._spool.write(parcel) for parcel in parcels])
        self._waiting += parcels  # only now: what is sent is then also deleted

    async def _flush(self, policy: RetryPolicy) -> bool:
        """Send what waits, and what ended processes left; False when the service takes nothing."""
        transport = self._transport()
        if transport is None:
            return False
        while self._waiting:
            group = next(_groups(self._waiting))
            if not await self._deliver(transport, group, policy):
                return False
            self._waiting = self._waiting[len(group) :]
            self._num_waiting -= sum(len(parcel.events) for parcel in group)
        adopted = contextlib.ExitStack()
        try:
            parcels = await run_in_daemon_thread(lambda: adopted.enter_context(self._spool.adopt()))
            for group in _groups(parcels):
                if not await self._deliver(transport, group, policy):
                    return False
        finally:
            await run_in_daemon_thread(adopted.close)
        return True

    async def _deliver(
        self, transport: Transport, group: Sequence[Parcel], policy: RetryPolicy
    ) -> bool:
        """Send parcels of one client; False when they are to be sent again."""
        events = [event for parcel in group for event in parcel.events]
        body = jsonio.dumps({"events": events, **_header(""), **group[0].header}).encode()
        try:
            if events:
                await transport.send(
                    Request("telemetry", body, timeout_s=ATTEMPT_TIMEOUT_S, policy=policy)
                )
        except APIStatusError as error:
            if error.category != "user":
                logger.debug("reports wait: %s", error)
                return False
            self._is_unwanted = error.status_code in _NO_SUCH_ROUTE
            logger.debug("reports are dropped, for the service does not take them: %s", error)
        except (APIError, TinsmithError) as error:
            logger.debug("reports wait: %s", error)
            return False
        await run_in_daemon_thread(lambda: [self._spool.remove(parcel) for parcel in group])
        return True


def _header(session_id: str) -> dict[str, str]:
    return {
        "platform": platform.system(),
        "sdk_version": tinsmith.__version__,
        "session_id": session_id,
        "process_uuid": _uuid_of(os.getpid()),
    }


def _groups(parcels: Sequence[Parcel]) -> Iterator[list[Parcel]]:
    """Consecutive parcels of one client, as many as fit one batch; never none."""
    group: list[Parcel] = []
    num_events = 0
    for parcel in parcels:
        is_full = num_events + len(parcel.events) > MAX_BATCH_EVENTS
        if group and (is_full or parcel.header != group[0].header):
            yield group
            group, num_events = [], 0
        group.append(parcel)
        num_events += len(parcel.events)
    if group:
        yield group
