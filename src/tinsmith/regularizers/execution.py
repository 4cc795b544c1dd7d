"""Run the terms of a loss: some at once, each within its time, results in the order of the terms.

Each runs in a daemon thread; one that takes too long is given up, since Python cannot stop a
thread, while a coroutine is cancelled and a process ended. Main names: `Job`, `Outcome`,
`run_jobs`.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Cancelled", "Job", "Outcome", "Stop", "TimedOut", "call_and_wait", "run_jobs"]


class Cancelled(Exception):
    """The job was given up because another one failed."""


class TimedOut(Exception):
    """The job took longer than it may."""


class Stop:
    """How a running job is asked to end; the job sets what to call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._end: Callable[[], None] | None = None

    def on(self, end: Callable[[], None] | None) -> None:
        """Set what ends the job, or None when it has ended."""
        with self._lock:
            self._end = end
            is_late = self._is_set and end is not None
        if is_late and end is not None:
            end()

    def set(self) -> None:
        with self._lock:
            self._is_set = True
            end = self._end
        if end is not None:
            end()


@dataclass(frozen=True)
class Job:
    """One thing to run.

    Attributes:
        call: Gets its `Stop`.
        timeout_s: Counted from its own start.
        is_fatal: Whether its failure ends all the others.
    """

    call: Callable[[Stop], Any]
    timeout_s: float
    is_fatal: bool


@dataclass(frozen=True)
class Outcome:
    """A job's result, or its error: `TimedOut`, `Cancelled`, or what it raised."""

    result: Any = None
    error: BaseException | None = None
    duration_s: float = 0.0
    was_started: bool = True


def run_jobs(
    jobs: Sequence[Job], num_workers: int, on_start: Callable[[int], None]
) -> list[Outcome]:
    """Run all jobs, at most `num_workers` at once; the outcomes are in the order of the jobs.

    After the failure of a fatal job no other is started and those that run are asked to end.
    """
    return _Run(jobs, num_workers, on_start).outcomes()


def call_and_wait(call: Callable[[], Any], stop: Stop) -> Any:
    """Call a function; if it returns an awaitable, run that in an event loop of its own."""
    returned = call()
    if not inspect.isawaitable(returned):
        return returned

    async def drive() -> Any:
        task = asyncio.ensure_future(returned)
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            try:
                loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the loop has closed: it is over already
                pass

        stop.on(cancel)
        try:
            return await task
        finally:
            stop.on(None)

    return asyncio.run(drive())


class _Run:
    def __init__(
        self, jobs: Sequence[Job], num_workers: int, on_start: Callable[[int], None]
    ) -> None:
        self._jobs = jobs
        self._num_workers = num_workers
        self._on_start = on_start
        self._waiting = deque(range(len(jobs)))
        self._running: dict[int, tuple[float, Stop]] = {}
        self._finished: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        self._outcomes: dict[int, Outcome] = {}

    def outcomes(self) -> list[Outcome]:
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self._num_workers:
                self._start(self._waiting.popleft())
            self._wait()
            if any(self._is_fatal(index) for index in self._outcomes):
                self._give_up_the_rest()
        return [self._outcomes[index] for index in range(len(self._jobs))]

    def _is_fatal(self, index: int) -> bool:
        return self._jobs[index].is_fatal and self._outcomes[index].error is not None

    def _start(self, index: int) -> None:
        self._on_start(index)
        stop = Stop()
        self._running[index] = (time.monotonic(), stop)
        threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._work, index, stop),
            name=f"tinsmith-regularizer-{index}",
            daemon=True,
        ).start()

    def _work(self, index: int, stop: Stop) -> None:
        started = time.perf_counter()
        try:
            result, error = self._jobs[index].call(stop), None
        except BaseException as raised:  # noqa: BLE001 - handed to the thread that waits
            result, error = None, raised
        self._finished.put((index, Outcome(result, error, time.perf_counter() - started)))

    def _wait(self) -> None:
        """Take the next outcome, or the time-outs that are due."""
        now = time.monotonic()
        due = {i: since + self._jobs[i].timeout_s for i, (since, _) in self._running.items()}
        try:
            index, outcome = self._finished.get(timeout=max(min(due.values()) - now, 0.0))
        except queue.Empty:
            now = time.monotonic()
            for index in [index for index, at in due.items() if at <= now]:
                self._end(index, TimedOut())
            return
        if index in self._running:  # else it was given up before
            del self._running[index]
            self._outcomes[index] = outcome

    def _end(self, index: int, error: BaseException) -> None:
        since, stop = self._running.pop(index)
        stop.set()
        self._outcomes[index] = Outcome(error=error, duration_s=time.monotonic() - since)

    def _give_up_the_rest(self) -> None:
        for index in list(self._running):
            self._end(index, Cancelled())
        while self._waiting:
            self._outcomes[self._waiting.popleft()] = Outcome(error=Cancelled(), was_started=False)
