"""The one background thread of the SDK: a daemon with one asyncio loop, shared by all clients.

All network work runs there, so the public methods behave the same in a plain script, inside a
running loop and in a notebook. Main names: `LoopThread`, `loop_thread`, `run_in_daemon_thread`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A daemon thread that runs one asyncio loop until the process ends."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="tinsmith-client", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:
            # These two fail the call that they were raised in, such as by a loss that calls
            # sys.exit(), and asyncio would end the loop with all other calls.
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_forever()

    def is_current(self) -> bool:
        """Whether the caller runs on this thread, where blocking would be a deadlock."""
        return threading.current_thread() is self._thread

    def start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Call `make` on the loop and run the coroutine it returns.

        `make` is called exactly once, in the order of the calls to `start`, even when the future
        is cancelled before: what must happen whatever becomes of the future goes into `make`
        itself, what may be abandoned into the coroutine.
        """
        future: Future[T] = Future()
        self.loop.call_soon_threadsafe(self._begin, make, future)
        return future

    def _begin(self, make: Callable[[], Coroutine[Any, Any, T]], future: Future[T]) -> None:
        try:
            task = self.loop.create_task(make())
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the future
            future.set_exception(error)
            return
        self._tasks.add(task)  # the loop itself keeps only weak references

        def deliver(done: asyncio.Task[T]) -> None:
            self._tasks.discard(done)
            _copy_outcome(done, future)

        def cancel_task(source: Future[T]) -> None:
            if source.cancelled():
                self.loop.call_soon_threadsafe(task.cancel)

        task.add_done_callback(deliver)
        future.add_done_callback(cancel_task)


def _copy_outcome(task: asyncio.Task[T], future: Future[T]) -> None:
    if task.cancelled():
        future.cancel()
        future.set_running_or_notify_cancel()
        return
    error = task.exception()  # read in any case: asyncio complains about unread ones
    if not future.set_running_or_notify_cancel():
        return  # the caller cancelled in the meantime
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


_shared: LoopThread | None = None
_shared_lock = threading.RLock()  # a stream's finalizer may run while its own thread holds it


def loop_thread() -> LoopThread:
    """The process's loop thread, started on first use.

    A forked child has no copy of its parent's threads and gets a new one; clients made before the
    fork stay with the parent.
    """
    global _shared  # noqa: PLW0603 - one thread for the whole process is the point
    with _shared_lock:
        if _shared is None or _shared.pid != os.getpid():
            _shared = LoopThread()
        return _shared


async def run_in_daemon_thread(function: Callable[[], T]) -> T:
    """Run a blocking function in a daemon thread, which never holds up the end of the process."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - handed to the awaiting caller
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=work, name="tinsmith-blocking", daemon=True).start()
    waiter = asyncio.wrap_future(future)
    # Whoever was cancelled meanwhile does not read a failure, of which asyncio would complain.
    waiter.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(waiter)
