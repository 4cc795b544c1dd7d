"""The ordered lane of one model: submissions one after another, in the order of the calls.

A turn passes when its submission was answered, not when its work is done: optim_step is on its way
while forward_backward computes. Sequence numbers are taken when a turn has something to send, so a
call that fails before that leaves no gap, which would hold up the service. Main name: `TurnOrder`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tinsmith.client.futures import APIFuture
from tinsmith.client.loop import loop_thread

P = TypeVar("P")
R = TypeVar("R")
TakeSeqIds = Callable[[int], range]
"""Takes so many consecutive sequence numbers; each of them has to be sent."""


class TurnOrder:
    """Orders the requests of one model, whichever threads they come from."""

    def __init__(self, first_seq_id: int = 1) -> None:
        self._lock = threading.Lock()
        self._next_seq_id = first_seq_id  # touched on the loop only, by whoever has the turn
        self._last_turn: asyncio.Task[Any] | None = None  # touched on the loop only

    def submit(
        self,
        post: Callable[[TakeSeqIds], Coroutine[Any, Any, P]],
        collect: Callable[[P], Awaitable[R]],
        *,
        label: str,
        may_be_abandoned: bool = False,
    ) -> APIFuture[R]:
        """Get in line now, submit when it is this call's turn, then collect.

        Args:
            post: the submission; takes its sequence numbers when it is about to send.
            collect: turns what the submission returned into the result.
            label: names the call in messages.
            may_be_abandoned: cancelling the future cancels the submission too, which then has to
                send what it has numbers for (`undisturbed`). Otherwise it is made all the same.
        """
        with self._lock:  # the order on the loop is the order of the calls
            future = loop_thread().start(
                lambda: _after(self._take_turn(post), collect, may_be_abandoned)
            )
        return APIFuture(future, label)

    def _take_turn(self, post: Callable[[TakeSeqIds], Coroutine[Any, Any, P]]) -> asyncio.Task[P]:
        previous = self._last_turn

        async def turn() -> P:
            if previous is not None:
                await undisturbed(_ended(previous))  # also when cancelled: the order must hold
            return await post(self._take_seq_ids)

        task = asyncio.get_running_loop().create_task(turn())
        task.add_done_callback(_mark_read)
        self._last_turn = task
        return task

    def _take_seq_ids(self, count: int) -> range:
        start = self._next_seq_id
        self._next_seq_id += count
        return range(start, start + count)


async def undisturbed(work: Coroutine[Any, Any, R]) -> R:
    """Finish the work even if the caller is cancelled meanwhile, which is then said afterwards."""
    task = asyncio.ensure_future(work)
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        _mark_read(task)
        raise asyncio.CancelledError
    return task.result()


async def _ended(turn: asyncio.Task[Any]) -> None:
    await asyncio.wait({turn})


async def _after(
    turn: asyncio.Task[P], collect: Callable[[P], Awaitable[R]], may_be_abandoned: bool
) -> R:
    return await collect(await (turn if may_be_abandoned else asyncio.shield(turn)))


def _mark_read(turn: asyncio.Task[Any]) -> None:
    """Keep asyncio from reporting a failure that nobody waits for (the future was cancelled)."""
    if not turn.cancelled():
        turn.exception()
