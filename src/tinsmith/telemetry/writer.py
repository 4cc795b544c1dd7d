"""The writer thread: takes what `Run` puts down and commits it to the store, in batches.

`Run.log` appends one tuple to a queue and returns. The thread sleeps until there is something,
waits 20 ms for more to come, and commits everything in one transaction. Where it falls behind,
because the disk stalls or calls rush in, a caller waits until nothing is older than 30 ms. So a
process that is killed loses the calls of the last 50 ms at most. With durability "commit" the
thread gathers nothing, and `log` returns when its transaction is done.

A store that fails is tried again with growing pauses. A caller waits for it a second (once, as long
as nothing gets better); from then on the queue fills up, and when it is full points are dropped and
counted. So are the oldest events and texts. Nothing here raises into the training loop.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias, get_args

from tinsmith.core.errors import unknown_name
from tinsmith.telemetry.errors import StoreError
from tinsmith.telemetry.gathering import Call, Gatherer
from tinsmith.telemetry.health import Health, never_raise_here
from tinsmith.telemetry.model import (
    Alert,
    Artifact,
    Attempt,
    Batch,
    Event,
    Interval,
    KeyInfo,
    PointColumns,
    RunRecord,
    SampleText,
)
from tinsmith.telemetry.stores.base import Store

__all__ = ["Durability", "Writer", "WriterOptions"]

Durability = Literal["async", "commit"]
Notice: TypeAlias = KeyInfo | RunRecord
"""What is known of a key, or of the run."""
Record: TypeAlias = Event | SampleText | Artifact | Alert | Notice
Watcher: TypeAlias = Callable[[Batch], None]

_MAX_RECORDS = 1_000
_MAX_BYTES = 16 * 1024 * 1024
_MAX_PAUSE_S = 5.0
_NEVER_NS = 2**63


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterOptions:
    """How much may wait, and for how long."""

    durability: Durability = "async"
    max_calls: int = 100_000
    """Calls of `log` that may wait to be written."""
    max_records: int = 10_000
    """Events and texts that may wait; beyond it the oldest are dropped."""
    max_record_bytes: int = 64 * 1024 * 1024
    """Bytes of waiting texts; beyond it the oldest are dropped."""
    gather_s: float = 0.02
    """How long the thread waits for more before it commits."""
    max_age_s: float = 0.03
    """How old the oldest waiting call may be before the next one waits for the thread."""
    heartbeat_s: float = 5.0
    block_s: float = 1.0
    """How long `log` waits for a thread that has fallen behind, before it goes on without it."""
    commit_s: float = 5.0
    """How long `log` waits for its transaction with durability "commit"."""
    finish_s: float = 5.0
    """How long `finish` may take."""

    def __post_init__(self) -> None:
        if self.durability not in get_args(Durability):
            raise unknown_name("durability", self.durability, get_args(Durability))


@dataclass(slots=True)
class _Ticket:
    """Somebody waits for everything so far to be written."""

    done: threading.Event
    is_ok: bool = False


class Writer:
    """Queue and thread of one run in this process.

    Args:
        store: Where to write.
        run_id: The run.
        state: Returns the attempt and intervals to write with each heartbeat.
        health: Counts what could not be kept.
        options: Bounds and times.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        state: Callable[[], tuple[Attempt, list[Interval]]],
        health: Health,
        options: WriterOptions,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._state = state
        self._health = health
        self.options = options
        self._max_age_ns = int(options.max_age_s * 1e9)
        self.watchers: tuple[Watcher, ...] = ()
        self.trouble: str | None = None
        """What the store last failed with; None while it works."""
        attempt, _ = state()
        self._gatherer = Gatherer(attempt.rank, attempt.attempt, health)
        self.is_child = False
        self._start_over()
        _writers.add(self)

    def become_child(self) -> None:
        """Forget what the parent does: in a forked child the queues begin empty, without thread."""
        was_closed = self._closing.is_set()
        self.is_child = True
        self.trouble = None
        self._health.forget_locks()
        self._start_over()
        if was_closed:
            self._closing.set()

    def _start_over(self) -> None:
        self.calls: deque[Call] = deque()
        self._loose: deque[Event | SampleText] = deque()
        self._firm: deque[Artifact | Alert | Notice] = deque()
        self._loose_bytes = 0
        self._tickets: deque[_Ticket] = deque()
        # Not an Event: putting into this queue is safe in a signal handler and in a finalizer.
        self._alarm: SimpleQueue[Literal["some", "now"]] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._num_batches = 0
        self._gave_up_at = -1
        self._num_settled = 0
        self._num_in_flight = 0
        self._is_state_due = False
        self.is_awake = False
        """Whether the thread will look at the queues again without being woken."""
        self.late_ns = _NEVER_NS
        """When the oldest call that waits gets too old; who comes later waits in `catch_up`."""

    # ------------------------------------------------------------------------ the caller's side

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self._thread is None and not self._closing.is_set():
                name = f"tinsmith-telemetry-{self._run_id[-6:]}"
                thread = threading.Thread(target=self._main, name=name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the interpreter is ending, or out of threads
                    self._fail(str(error))
                    return
                self._thread = thread
                if self.is_child:
                    _close_when_a_worker_ends(self)

    def wake(self, how: Literal["some", "now"] = "some") -> None:
        """Make the thread look at the queues: soon, or at once."""
        self.is_awake = True
        self.late_ns = min(self.late_ns, time.time_ns() + self._max_age_ns)
        if self._thread is None:
            self.start()
        self._alarm.put(how)

    def catch_up(self) -> bool:
        """Wait until no call that waits is older than it may be; False where the queue is full.

        Waits `block_s` at most, and not again before something was written.
        """
        if self._gave_up_at != self._num_batches and not self._closing.is_set():
            self._alarm.put("now")
            until = time.monotonic() + self.options.block_s
            while time.time_ns() > self.late_ns:
                if time.monotonic() >= until:
                    self._gave_up_at = self._num_batches
                    break
                time.sleep(0.001)
        return len(self.calls) < self.options.max_calls

    def put(self, record: Record) -> None:
        """Queue an event, text, artifact, alert, or what is known of a key or the run."""
        with self._lock:
            if self._closing.is_set():
                self._health.count("after_finish")
                return
            if isinstance(record, Event | SampleText):
                self._put_loose(record)
            elif len(self._firm) < self.options.max_records:
                self._firm.append(record)
            else:
                self._health.count("dropped_records")
        if not self.is_awake:
            self.wake()

    def _put_loose(self, record: Event | SampleText) -> None:
        self._loose.append(record)
        self._loose_bytes += size_of(record)
        while len(self._loose) > 1 and (
            len(self._loose) > self.options.max_records
            or self._loose_bytes > self.options.max_record_bytes
        ):
            oldest = self._loose.popleft()
            self._loose_bytes -= size_of(oldest)
            kind = "dropped_events" if isinstance(oldest, Event) else "dropped_samples"
            self._health.count(kind)
            self._health.warn_once(
                "dropped records",
                "events or texts come faster than they can be written: the oldest are dropped and "
                "counted in run.health",
            )

    def state_changed(self) -> None:
        """Have the attempt and its intervals written soon."""
        self._is_state_due = True
        self.wake()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything put down so far is committed; False where it is not in time."""
        if self._closing.is_set():
            return False
        ticket = _Ticket(threading.Event())
        self._tickets.append(ticket)
        self.wake("now")
        return ticket.done.wait(timeout_s) and ticket.is_ok

    def close(self) -> bool:
        """Write what waits and the last state, within `finish_s`; False where that failed."""
        with self._lock:
            if self._closing.is_set():
                return True
            self._deadline = time.monotonic() + 0.9 * self.options.finish_s
            if self._thread is None and not self.is_child:
                self.start()
            self._closing.set()
        if self._thread is None:
            return True
        self.wake("now")
        # A thread may be stuck in the store; it is left behind then, and ends with the process.
        self._thread.join(0.95 * self.options.finish_s)
        return not self._thread.is_alive() and self.trouble is None

    def num_waiting(self) -> int:
        """Number of calls and records, and of points in the store's hands, not committed yet."""
        return len(self.calls) + len(self._loose) + len(self._firm) + self._num_in_flight

    # ------------------------------------------------------------------------ the thread's side

    def _main(self) -> None:
        never_raise_here()
        next_beat = time.monotonic() + self.options.heartbeat_s
        while True:
            self._sleep(next_beat)
            is_last = self._closing.is_set()
            tickets = [self._tickets.popleft() for _ in range(len(self._tickets))]
            self.is_awake = False  # from here on who puts something down wakes us
            try:
                is_ok = self._write_queues()
                if is_last or self._is_state_due or time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + self.options.heartbeat_s
                    self._write_state()
            except Exception as error:  # noqa: BLE001 - the thread's boundary: it must live on
                is_ok = False
                self._fail(f"{type(error).__name__}: {error}")
            for ticket in tickets:
                ticket.is_ok = is_ok
                ticket.done.set()
            if is_last:
                self._release_late_tickets()
                return

    def _release_late_tickets(self) -> None:
        while self._tickets:
            self._tickets.popleft().done.set()

    def _sleep(self, until: float) -> None:
        """Wait for an alarm or a time; after "some" for more to come."""
        if self._closing.is_set():
            return
        with contextlib.suppress(Empty):
            how = self._alarm.get(timeout=max(until - time.monotonic(), 0.0))
            if how == "some" and not self._tickets:
                self._alarm.get(timeout=self.options.gather_s)

    def _write_queues(self) -> bool:
        """Write what was there when this began; True where all of it is committed."""
        num_calls, num_records = len(self.calls), len(self._loose) + len(self._firm)
        is_ok = True
        while num_calls or num_records > 0:
            points, num_taken = self._gatherer.take(self.calls, num_calls)
            batch, notices = self._take_records(points)
            num_calls -= num_taken
            if num_taken:
                self.late_ns = int(points.ts_ns[0]) + self._max_age_ns if len(points) else _NEVER_NS
            num_records -= len(batch) - len(points) + len(notices)
            if not num_taken and not len(batch) and not notices:
                break
            self._num_in_flight = len(batch) + len(notices)
            is_ok = self._append(batch, notices) and is_ok
            self._num_in_flight = 0
            self._count_age_anew()
        self._count_age_anew()  # what woke us may have put nothing down
        return is_ok

    def _count_age_anew(self) -> None:
        """Say when the oldest call that still waits gets too old."""
        self.late_ns = _NEVER_NS
        # A call that comes after this line wakes us, and says it by itself.
        with contextlib.suppress(IndexError):
            self.late_ns = self.calls[0][0] + self._max_age_ns

    def _take_records(self, points: PointColumns) -> tuple[Batch, list[Notice]]:
        taken: list[Record] = []
        with self._lock:
            num_bytes = 0
            while self._loose and len(taken) < _MAX_RECORDS and num_bytes < _MAX_BYTES:
                num_bytes += size_of(self._loose[0])
                taken.append(self._loose.popleft())
            self._loose_bytes -= num_bytes
            while self._firm and len(taken) < 2 * _MAX_RECORDS:
                taken.append(self._firm.popleft())
        notices = [one for one in taken if isinstance(one, KeyInfo | RunRecord)]
        return replace(_batch_of(taken), points=points), notices

    def _append(self, batch: Batch, notices: list[Notice]) -> bool:
        """Commit a batch, trying again while there is hope; False where it was given up."""
        pause_s = 0.05
        while True:
            try:
                self._put_notices(notices)
                if len(batch):
                    self._store.append(self._run_id, batch)
            except StoreError as error:
                self._fail(str(error))
                if error.is_permanent:
                    return self._salvage(batch)
                if time.monotonic() + pause_s >= self._deadline:
                    return self._lose(batch)
            except Exception as error:  # noqa: BLE001 - foreign stores; the thread must live on
                self._fail(f"{type(error).__name__}: {error}")
                return self._salvage(batch)
            else:
                self.trouble = None
                self._num_batches += 1
                self._tell(batch)
                return True
            if self._closing.is_set():
                time.sleep(pause_s)
            else:
                self._closing.wait(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def _put_notices(self, notices: list[Notice]) -> None:
        infos = [one for one in notices if isinstance(one, KeyInfo)]
        records = [one for one in notices if isinstance(one, RunRecord)]
        if infos:
            self._store.put_keys(self._run_id, infos)
        for record in records[-1:]:
            self._store.put_run(record)

    def _salvage(self, batch: Batch) -> bool:
        """Write a batch piece by piece, since one record in it cannot be written."""
        records = (*batch.events, *batch.samples, *batch.artifacts, *batch.alerts)
        pieces = [Batch(points=batch.points), *(_batch_of([one]) for one in records)]
        for piece in pieces:
            try:
                if len(piece) and time.monotonic() < self._deadline:
                    self._store.append(self._run_id, piece)
                    continue
            except Exception:  # noqa: BLE001 - as in `_append`, and told there
                pass
            self._lose(piece)
        return False

    def _lose(self, batch: Batch) -> bool:
        self._health.count("lost_points", len(batch.points))
        self._health.count("lost_records", len(batch) - len(batch.points))
        return False

    def _fail(self, reason: str) -> None:
        self.trouble = reason
        self._health.count("failed_writes")
        self._health.warn_once("store", f"the recorder cannot write; training goes on: {reason}")

    def _tell(self, batch: Batch) -> None:
        for watcher in self.watchers:
            try:
                watcher(batch)
            except Exception as error:  # noqa: BLE001 - other people's code; it stays subscribed
                self._health.count("failed_watchers")
                self._health.warn_once(
                    f"watcher {watcher!r}", f"a subscriber raised {type(error).__name__}: {error}"
                )

    def _write_state(self) -> None:
        if self.is_child:
            return
        self._is_state_due = False
        attempt, intervals = self._state()
        try:
            for interval in intervals[self._num_settled :]:
                self._store.put_interval(self._run_id, interval)
            self._store.put_attempt(self._run_id, replace(attempt, heartbeat_ns=time.time_ns()))
        except StoreError as error:
            self._fail(str(error))
        else:
            self._num_settled = sum(one.ended_ns is not None for one in intervals)


def _batch_of(records: Sequence[Record]) -> Batch:
    return Batch(
        events=tuple(one for one in records if isinstance(one, Event)),
        samples=tuple(one for one in records if isinstance(one, SampleText)),
        artifacts=tuple(one for one in records if isinstance(one, Artifact)),
        alerts=tuple(one for one in records if isinstance(one, Alert)),
    )


def size_of(record: Event | SampleText) -> int:
    """Return about how many bytes a record keeps in memory."""
    if isinstance(record, SampleText):
        num_logprobs = len(record.token_logprobs or ())
        return len(record.prompt) + len(record.completion) + 32 * num_logprobs
    texts = sum(len(value) for value in record.metadata.values() if isinstance(value, str))
    return 500 + texts


# ---------------------------------------------------------------------------------------- forks

_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in list(_writers):
        writer.become_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _close_when_a_worker_ends(writer: Writer) -> None:
    # Workers of multiprocessing leave without running what `atexit` was given.
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, writer.close, exitpriority=100)
