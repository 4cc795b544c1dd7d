"""Waits for the result of an accepted request by long polls.

Main names: `await_result`, `ResultKind`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Mapping
from typing import Any, cast

from tinsmith.client.backpressure import ByteBudget
from tinsmith.client.errors import (
    APIResponseValidationError,
    ResultExpiredError,
    failed_request,
)
from tinsmith.client.queue_state import ACTIVE, QueueObserver
from tinsmith.client.transport import JSON, PROTOBUF, Lane, Reply, Request, Transport
from tinsmith.core import jsonio

logger = logging.getLogger(__name__)

POLL_TIMEOUT_S = 45.0
"""Limit of one long poll; the service answers "not yet" after 40 s at the latest."""
_HASTE_S = 0.05
"""A "not yet" sooner than this is no long poll; after a few in a row polls are spaced out."""
_MAX_HASTY = 3
_PAUSE_S = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class ResultKind:
    """What a request's result looks like on the wire."""

    request_type: str
    """The protocol's name of the request, such as `OptimStep`."""
    is_protobuf: bool = False
    lane: Lane = "training_polls"


async def await_result(
    transport: Transport,
    request_id: str,
    kind: ResultKind,
    observe: QueueObserver = lambda state, reason: None,
    budget: ByteBudget | None = None,
) -> Reply:
    """Poll until the result is there; `observe` hears why it is not.

    With a budget the service may tell a large result's size first, and it is fetched when there is
    room for it.

    "Not yet" polls again at once. Busy or broken answers back off, up to the transport's retry
    policy in a row.

    Raises:
        RequestFailedError: the request was carried out and failed.
        ResultExpiredError: the service no longer has the result.
    """
    may_weigh = budget is not None and kind.is_protobuf
    iteration = num_hasty = 0
    while True:
        started_s = time.monotonic()
        reply = await transport.send(_poll(request_id, kind, iteration, may_weigh=may_weigh))
        if may_weigh and budget is not None and (size := _announced_size(reply)) is not None:
            may_weigh = False
            async with budget.hold(size):
                reply = await transport.send(
                    _poll(request_id, kind, iteration + 1, may_weigh=False)
                )
        if reply.status == 410:
            raise ResultExpiredError(
                f"{kind.request_type}: the service no longer has this result "
                f"(request_id={request_id})",
                request_id,
                hint="submit it again, or resume from the last checkpoint",
            )
        if reply.status != 408 and not _is_try_again(reply):
            observe(ACTIVE, None)
            return _checked(reply, request_id, kind)
        observe(*_queue_state(reply))
        iteration += 1
        num_hasty = num_hasty + 1 if time.monotonic() - started_s < _HASTE_S else 0
        if num_hasty > _MAX_HASTY:
            await asyncio.sleep(_PAUSE_S)


def _poll(request_id: str, kind: ResultKind, iteration: int, *, may_weigh: bool) -> Request:
    body = {"request_id": request_id, "allow_metadata_only": may_weigh}
    return Request(
        "retrieve_future",
        jsonio.dumps(body).encode(),
        accept=PROTOBUF if kind.is_protobuf else JSON,
        headers={
            "X-Tinker-Request-Iteration": str(iteration),
            "X-Tinker-Request-Type": kind.request_type,
        },
        lane=kind.lane,
        timeout_s=POLL_TIMEOUT_S,
        expects=frozenset({408, 410}),
    )


def _announced_size(reply: Reply) -> int | None:
    """Bytes of a result that is ready and was not sent along."""
    if reply.is_protobuf or b"complete_metadata" not in reply.content:
        return None
    payload = reply.json()
    if not isinstance(payload, dict):
        return None
    said = cast("Mapping[str, Any]", payload)
    size = said.get("response_payload_size")
    is_size = said.get("status") == "complete_metadata" and isinstance(size, int)
    return size if is_size else None


def _is_try_again(reply: Reply) -> bool:
    if reply.is_protobuf or b"try_again" not in reply.content:
        return False
    payload = reply.json()
    return isinstance(payload, dict) and cast("Any", payload).get("type") == "try_again"


def _queue_state(reply: Reply) -> tuple[str, str | None]:
    """The state and its reason; a proxy's own 408 says neither."""
    try:
        payload = reply.json()
    except APIResponseValidationError:
        return ACTIVE, None
    if not isinstance(payload, dict):
        return ACTIVE, None
    said = cast("Mapping[str, Any]", payload)
    reason = said.get("queue_state_reason")
    return str(said.get("queue_state") or ACTIVE), None if not reason else str(reason)


def _checked(reply: Reply, request_id: str, kind: ResultKind) -> Reply:
    if not reply.is_protobuf:
        payload = reply.json()
        if isinstance(payload, dict) and "error" in payload:
            raise failed_request(cast("Mapping[str, Any]", payload), request_id)
    if kind.is_protobuf and not reply.is_protobuf:
        raise APIResponseValidationError(
            f"{kind.request_type}: the service answered with {reply.content_type or 'no type'}, "
            f"and the result must be {PROTOBUF} (request_id={request_id})",
            hint="the service may speak another version of the protocol",
        )
    return reply
