"""A session on the service: its heartbeat, its end, and what happens when it is lost.

Main name: `Session`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from typing import Literal

from tinsmith.client.errors import APIError, ClientClosedError, SessionLostError
from tinsmith.client.retries import RetryPolicy
from tinsmith.client.transport import Request, Transport
from tinsmith.core import jsonio

logger = logging.getLogger(__name__)

FinishStatus = Literal["success", "errored", "interrupted"]

HEARTBEAT_INTERVAL_S = 10.0
HEARTBEAT_TIMEOUT_S = 10.0
SILENCE_WARNING_S = 120.0
"""Seconds without a successful heartbeat before anybody is told."""
_ONCE = RetryPolicy(max_retries=0)


class Session:
    """One session, kept alive for as long as this object is."""

    def __init__(
        self,
        transport: Transport,
        session_id: str,
        *,
        interval_s: float | None = None,
        is_owner: bool = True,
    ) -> None:
        """Start the heartbeat; on the SDK's loop.

        Args:
            transport: to the service.
            session_id: of the session.
            interval_s: between heartbeats, `HEARTBEAT_INTERVAL_S` by default.
            is_owner: whether it ends with this object's `finish`; else another process ends it.
        """
        self.session_id = session_id
        self._is_owner = is_owner
        self._transport = transport
        self._lost_reason: str | None = None
        self._heartbeat = asyncio.get_running_loop().create_task(
            _beat(weakref.ref(self), transport, session_id, interval_s or HEARTBEAT_INTERVAL_S)
        )

    def check_alive(self) -> None:
        """Raise when the service has ended the session.

        Raises:
            SessionLostError: it has.
        """
        if self._lost_reason is not None:
            raise SessionLostError(
                f"session={self.session_id} was ended by the service: {self._lost_reason}",
                self.session_id,
                hint="create a new ServiceClient and resume from the last checkpoint",
            )

    def mark_lost(self, reason: str) -> None:
        """Remember that the service has ended the session."""
        self._lost_reason = reason
        logger.warning("session=%s was ended by the service: %s", self.session_id, reason)

    async def finish(self, status: FinishStatus, detail: str | None) -> None:
        """Stop the heartbeat and tell the service how the session ended."""
        self._heartbeat.cancel()
        if self._lost_reason is not None or not self._is_owner:
            return
        body = jsonio.dumps({"reason": {"type": status}, "detail": detail}).encode()
        await self._transport.send(
            Request(
                f"sessions/{self.session_id}/finish",
                body,
                expects=frozenset({404, 410}),  # ended already: what was wanted
                policy=RetryPolicy(max_retries=2, max_elapsed_s=10.0),
            )
        )


async def _beat(
    session: weakref.ref[Session], transport: Transport, session_id: str, interval_s: float
) -> None:
    """Beat until the session object is gone, finished or lost."""
    request = Request(
        "session_heartbeat",
        jsonio.dumps({"session_id": session_id, "type": "session_heartbeat"}).encode(),
        timeout_s=HEARTBEAT_TIMEOUT_S,
        policy=_ONCE,
        expects=frozenset({410}),
    )
    last_success_s = time.monotonic()
    while True:
        await asyncio.sleep(interval_s)
        if session() is None:
            await transport.close()  # its ServiceClient was dropped without close()
            return
        try:
            reply = await transport.send(request)
        except ClientClosedError:
            return
        except APIError as error:
            silence_s = time.monotonic() - last_success_s
            if silence_s > SILENCE_WARNING_S:
                logger.warning(
                    "session=%s: no heartbeat for %.0f s: %s", session_id, silence_s, error
                )
            continue
        if reply.status == 410:
            if (lost := session()) is not None:
                lost.mark_lost("it was finished or has expired")
            return
        last_success_s = time.monotonic()
