"""Sessions: opening, heartbeats, the end, and when the whole service may go home.

A session is live while requests or heartbeats arrive. One that stays silent for long is ended and
its models leave the engine. The idle exit is one timer, set for the earliest moment at which the
service could have been without a live session for long enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from tinsmith.server.access import current_key_id, may_use
from tinsmith.server.config import ServerLimits
from tinsmith.server.store import MemoryStore, SessionRecord


class SessionRegistry:
    """The sessions of the service. Lives on the event loop."""

    def __init__(
        self,
        store: MemoryStore,
        limits: ServerLimits,
        *,
        on_end: Callable[[str], None],
        idle_exit_s: float | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._limits = limits
        self._on_end = on_end
        self._idle_exit_s = idle_exit_s
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._last_live_s = self._loop.time()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._release_timer: asyncio.TimerHandle | None = None
        self._arm_idle()

    def open(
        self,
        tags: list[str],
        user_metadata: dict[str, Any],
        *,
        details: dict[str, Any] | None = None,
    ) -> SessionRecord:
        """Starts a session; `details` is what else its client told."""
        record = SessionRecord(
            str(uuid4()),
            self._loop.time(),
            tags,
            user_metadata,
            details=details or {},
            key_id=current_key_id(),
        )
        self._store.add_session(record)
        if self._release_timer is None:
            self._arm_release()
        return record

    def take_up(self, record: SessionRecord) -> None:
        """Goes on with a session of an earlier process."""
        self._store.sessions[record.session_id] = record
        if self._release_timer is None:
            self._arm_release()

    def touch(self, session_id: str) -> SessionRecord:
        """Notes a sign of life.

        Raises:
            MissingError, GoneError: as `MemoryStore.session`.
        """
        record = self._store.session(session_id)
        record.last_seen_s = self._loop.time()
        self._store.note_session(record)
        return record

    def finish(self, session_id: str, reason: str, detail: str | None = None) -> None:
        """Ends a session at its client's wish; the first reason wins."""
        record = self._store.sessions.get(session_id)
        if record is None or not may_use(record.key_id):
            self._store.session(session_id)  # raises
        elif record.ended is None:
            if detail is not None:
                record.details["finish_detail"] = detail
            self._end(record, f"finished ({reason})")

    def close(self) -> None:
        """Stops the timers."""
        for timer in (self._idle_timer, self._release_timer):
            if timer is not None:
                timer.cancel()

    def _end(self, record: SessionRecord, why: str) -> None:
        record.ended = why
        self._store.note_session(record)
        self._last_live_s = max(self._last_live_s, self._loop.time())
        self._on_end(record.session_id)
        self._arm_idle()

    def _living(self) -> list[SessionRecord]:
        return [record for record in self._store.sessions.values() if record.ended is None]

    def _idle_since_s(self) -> float:
        """When the last session stopped being live; in the future while one is."""
        away_s = self._limits.session_timeout_s
        ends = [record.last_seen_s + away_s for record in self._living()]
        return max(self._last_live_s, *ends) if ends else self._last_live_s

    def _arm_idle(self) -> None:
        if self._idle_exit_s is None or self._on_idle is None:
            return
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        due_s = self._idle_since_s() + self._idle_exit_s
        self._idle_timer = self._loop.call_at(due_s, self._check_idle, self._on_idle)

    def _check_idle(self, on_idle: Callable[[], None]) -> None:
        assert self._idle_exit_s is not None
        self._idle_timer = None
        if self._idle_since_s() + self._idle_exit_s <= self._loop.time():
            on_idle()
        else:
            self._arm_idle()

    def _arm_release(self) -> None:
        living = self._living()
        self._release_timer = None
        if living:
            oldest_s = min(record.last_seen_s for record in living)
            due_s = oldest_s + self._limits.session_release_s
            self._release_timer = self._loop.call_at(due_s, self._release_silent)

    def _release_silent(self) -> None:
        limit_s = self._limits.session_release_s
        for record in self._living():
            if record.last_seen_s + limit_s <= self._loop.time():
                self._end(record, f"ended after {limit_s:.0f} s without a heartbeat")
        self._arm_release()
