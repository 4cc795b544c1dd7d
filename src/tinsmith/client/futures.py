"""What the SDK's methods return: futures that can be awaited anywhere and waited for anywhere.

Main names: `APIFuture` and `ClientFuture`, which also passes attribute access on to its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from numbers import Real
from typing import Any, Generic, TypeVar

from tinsmith.client.loop import loop_thread
from tinsmith.core.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class APIFuture(Generic[T]):
    """The outcome of a call that is already on its way.

    `await future` in async code, `future.result()` everywhere else (also inside a running loop or
    a notebook). The outcome may be asked for any number of times. Cancelling, directly or through
    the task that awaits, gives up the result; what was submitted is not undone.
    """

    def __init__(self, future: Future[T], label: str = "call") -> None:
        self._future = future
        self._label = label

    def result(self, timeout: float | None = None) -> T:
        """Wait for the outcome, at most `timeout` seconds; the work goes on after a timeout.

        Raises:
            TimeoutError: there is no outcome yet.
            UserError: `timeout` is no number of seconds.
            RuntimeError: called on the SDK's own loop, where waiting could never end.
        """
        _check_timeout(timeout)
        if not self._future.done() and loop_thread().is_current():
            raise RuntimeError(
                f"{self._label}: result() would block the SDK's own event loop; await it instead"
            )
        try:
            return self._future.result(timeout)
        except TimeoutError:
            if self._future.done():
                raise  # the call's own failure
            raise self._timed_out(timeout) from None

    async def result_async(self, timeout: float | None = None) -> T:  # noqa: ASYNC109 - the SDK's name
        """Await the outcome, at most `timeout` seconds; the work goes on after a timeout."""
        _check_timeout(timeout)
        if timeout is None:
            return await self
        waiter = asyncio.wrap_future(self._future)
        waiter.add_done_callback(_mark_read)
        done, _ = await asyncio.wait({waiter}, timeout=timeout)
        if not done:
            raise self._timed_out(timeout)
        return waiter.result()

    def __await__(self) -> Generator[Any, None, T]:
        return asyncio.wrap_future(self._future).__await__()

    def coroutine(self) -> Coroutine[Any, Any, T]:
        """A coroutine of the outcome, for functions that take nothing else (`create_task`)."""
        return self.result_async()

    def future(self) -> Future[T]:
        """The underlying `concurrent.futures.Future`."""
        return self._future

    def done(self) -> bool:
        """Whether there is an outcome."""
        return self._future.done()

    def cancel(self) -> bool:
        """Give up the result; False when there is an outcome already."""
        return self._future.cancel()

    def _timed_out(self, timeout: float | None) -> TimeoutError:
        return TimeoutError(f"{self._label}: no result after timeout={timeout} s; still running")

    def __repr__(self) -> str:
        state = "cancelled" if self._future.cancelled() else "done" if self.done() else "pending"
        return f"<{type(self).__name__} of {self._label}: {state}>"


class ClientFuture(APIFuture[T]):
    """A future that also stands in for its result.

    `.result()` and `await` give the object itself; any other public attribute is looked up on it,
    waiting first. Scripts written for blocking constructors and for awaited ones both run:

        client = service.create_lora_training_client("tinsmith/tiny")        # used at once
        client = await service.create_lora_training_client("tinsmith/tiny")  # awaited
    """

    def __getattr__(self, name: str) -> Any:  # Any: the attribute is the result's
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.result(), name)


# The Tinker SDK has a class for each kind of client; annotations in scripts name them.
BackcompatTrainingClientFuture = ClientFuture
BackcompatSamplingClientFuture = ClientFuture


def _check_timeout(timeout: object) -> None:
    is_number = not isinstance(timeout, bool) and isinstance(timeout, Real)
    if timeout is not None and not (is_number and timeout == timeout):  # NaN equals nothing
        raise UserError(
            f"timeout={timeout!r}: must be a number of seconds, or None to wait for ever",
            field="timeout",
        )


def _mark_read(waiter: asyncio.Future[Any]) -> None:
    """Keep asyncio from reporting the failure of a call that nobody waits for any more."""
    if not waiter.cancelled():
        waiter.exception()


def start(make: Callable[[], Coroutine[Any, Any, R]], label: str) -> APIFuture[R]:
    """Run a coroutine on the SDK's loop."""
    return APIFuture(loop_thread().start(make), label)
