"""The ordered lane of one model: sequence numbers in call order, submissions one after another.

A turn passes when the previous submission was answered, not when its work is done: optim_step is
on its way while forward_backward computes. Main name: `TurnOrder`.
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


class TurnOrder:
    """Orders the requests of one model, whichever threads they come from."""

    def __init__(self, first_seq_id: int = 1) -> None:
        self._lock = threading.Lock()
        self._next_seq_id = first_seq_id
        self._last_turn: asyncio.Task[Any] | None = None  # touched on the loop only

    def submit(
        self,
        num_requests: int,
        prepare: Callable[[range], Callable[[], Coroutine[Any, Any, P]]],
        collect: Callable[[P], Awaitable[R]],
        *,
        label: str,
    ) -> APIFuture[R]:
        """Reserve sequence numbers now, submit when it is this call's turn, then collect.

        A call that cannot be prepared uses up no number, so the service never waits for a gap. Once
        prepared it is submitted even if the future is cancelled, for the same reason.

        Args:
            num_requests: sequence numbers to reserve.
            prepare: turns the numbers into the submission; runs in the caller's thread, and what
                it raises is raised here.
            collect: turns what the submission returned into the result.
            label: names the call in messages.
        """
        with self._lock:
            seq_ids = range(self._next_seq_id, self._next_seq_id + num_requests)
            post = prepare(seq_ids)
            self._next_seq_id = seq_ids.stop
            # Inside the lock: the order on the loop is the order of the numbers.
            future = loop_thread().start(lambda: _after(self._take_turn(post), collect))
        return APIFuture(future, label)

    def _take_turn(self, post: Callable[[], Coroutine[Any, Any, P]]) -> asyncio.Task[P]:
        previous = self._last_turn

        async def turn() -> P:
            if previous is not None:
                await asyncio.wait({previous})
            return await post()

        task = asyncio.get_running_loop().create_task(turn())
        task.add_done_callback(_mark_read)
        self._last_turn = task
        return task


async def _after(turn: asyncio.Task[P], collect: Callable[[P], Awaitable[R]]) -> R:
    return await collect(await asyncio.shield(turn))


def _mark_read(turn: asyncio.Task[Any]) -> None:
    """Keep asyncio from reporting a failure that nobody waits for (the future was cancelled)."""
    if not turn.cancelled():
        turn.exception()
