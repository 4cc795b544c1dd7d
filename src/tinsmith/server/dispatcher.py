"""Feeds one engine: lanes of accepted work in, batches out, results to their futures.

`Dispatcher` holds the queue state, asks `scheduler.next_batch` what to run whenever something
changed, and keeps at most two batches with the engine: the one it works on and, when the next is
large enough or short work, one ahead, so that the engine does not wait for the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tinsmith.core.errors import ServerError, TinsmithError, UserError
from tinsmith.engine.jobs import ForwardBackwardJob, OptimStepJob
from tinsmith.server.config import ServerLimits
from tinsmith.server.errors import GoneError, OverloadedError, RequestError
from tinsmith.server.futures import FutureStore, Outcome
from tinsmith.server.lanes import Lane
from tinsmith.server.messages import (
    Command,
    RunForwardBackward,
    RunOptimStep,
    SaveExternal,
    SaveSamplerWeights,
    SaveState,
)
from tinsmith.server.recording import Done
from tinsmith.server.scheduler import (
    Batch,
    BatchLimits,
    LaneState,
    QueueState,
    Ticket,
    WorkKind,
    next_batch,
)
from tinsmith.telemetry import events

logger = logging.getLogger(__name__)

_SAVES = {SaveState: "training", SaveSamplerWeights: "sampler", SaveExternal: "external"}

MAX_AHEAD = 2
"""Batches handed to the engine and not answered."""

Job = ForwardBackwardJob | OptimStepJob | Command


@dataclass(frozen=True, slots=True)
class Work:
    """One accepted request: what the engine gets, and how its answer becomes a result."""

    kind: WorkKind
    job: Job
    encode: Callable[[object], Outcome]
    num_tokens: int = 0
    on_failure: Callable[[TinsmithError], None] | None = None


@dataclass(frozen=True, slots=True)
class _Queued:
    work: Work
    ticket: Ticket


class CallsEngine(Protocol):
    """What the dispatcher needs of an engine client."""

    def call(self, command: Command, on_reply: Callable[[object], None]) -> None:
        """Sends a command; `on_reply` gets its answer or a `TinsmithError`."""
        ...


@dataclass(slots=True)
class _ModelLane:
    lane: Lane[_Queued]
    gap_timer: asyncio.TimerHandle | None = None
    gap_seq_id: int | None = None
    closed: RequestError | None = None
    last_request_id: str | None = None
    """Of the request that closed it."""


class Dispatcher:
    """The queues in front of one engine. Lives on the event loop."""

    def __init__(self, engine: CallsEngine, futures: FutureStore, limits: ServerLimits) -> None:
        self._engine = engine
        self._futures = futures
        self._limits = limits
        self._batch_limits = BatchLimits(limits.max_batch_tokens, limits.max_batch_requests)
        self._lanes: dict[str, _ModelLane] = {}
        self._turns: dict[str, int] = {}
        self._num_batches = 0
        self._short_streak = 0
        self._in_flight = 0

    @property
    def lane_ids(self) -> list[str]:
        """Models that live, or lived, behind this engine."""
        return list(self._lanes)

    def open_lane(self, lane_id: str, session_id: str) -> None:
        """Adds a model's lane; sequence number 0 is its creation."""
        self._lanes[lane_id] = _ModelLane(Lane(lane_id, session_id, first_seq_id=0))

    def submit(self, lane_id: str, seq_id: int, work: Work, *, digest: str) -> str:
        """Accepts a request and returns its id, the first one's if this is a repetition.

        Raises:
            RequestError: the sequence number cannot be used, or the lane is closed.
            OverloadedError: too much work is pending.
        """
        model = self._lanes[lane_id]
        known = self.find(lane_id, seq_id, digest)
        if known is not None:
            return known
        if model.closed is not None:
            raise model.closed
        if self._futures.num_pending >= self._limits.max_pending_requests:
            raise OverloadedError(
                f"{self._futures.num_pending} requests are pending; must be below "
                f"{self._limits.max_pending_requests}",
                hint="wait for results before submitting more",
            )
        request_id = self._futures.create(owner_id=lane_id)
        ticket = Ticket(request_id, work.kind, work.num_tokens, time.monotonic())
        model.lane.put(seq_id, _Queued(work, ticket), request_id=request_id, digest=digest)
        self._watch_gap(model)
        self.pump()
        return request_id

    def find(self, lane_id: str, seq_id: int, digest: str) -> str | None:
        """The id of an earlier equal submission; raises as `Lane.find` does."""
        return self._lanes[lane_id].lane.find(seq_id, digest)

    def closed_error(self, lane_id: str) -> RequestError | None:
        """Why the lane takes no more requests, or None while it does."""
        return self._lanes[lane_id].closed

    def skip(self, lane_id: str, seq_id: int) -> None:
        """Counts the number of a refused request as consumed."""
        model = self._lanes.get(lane_id)
        if model is not None:
            model.lane.skip(seq_id)
            self._watch_gap(model)
            self.pump()

    def submit_last(self, lane_id: str, work: Work) -> str:
        """Runs work after everything accepted for the lane, which closes; for unloading."""
        model = self._lanes[lane_id]
        self._fail(model.lane.give_up(), _closed_error(lane_id))
        model.closed = _closed_error(lane_id)
        self._watch_gap(model)
        request_id = model.last_request_id = self._futures.create(owner_id=lane_id)
        ticket = Ticket(request_id, work.kind, work.num_tokens, time.monotonic())
        model.lane.ready.append(_Queued(work, ticket))
        self.pump()
        return request_id

    def last_request_id(self, lane_id: str) -> str | None:
        """The request that `submit_last` gave the lane, if it did."""
        return self._lanes[lane_id].last_request_id

    def close_lane(self, lane_id: str, error: RequestError) -> None:
        """Fails what the lane still holds and refuses what comes later."""
        model = self._lanes[lane_id]
        model.closed = model.closed or error
        self._fail(model.lane.clear(), error)
        self._watch_gap(model)

    def forget_lane(self, lane_id: str) -> None:
        """Drops a closed lane; its sequence numbers are not remembered any longer."""
        model = self._lanes.pop(lane_id)
        if model.gap_timer is not None:
            model.gap_timer.cancel()
        sessions = {other.lane.session_id for other in self._lanes.values()}
        if model.lane.session_id not in sessions:
            self._turns.pop(model.lane.session_id, None)

    def pump(self) -> None:
        """Hands over batches as long as the engine should have more; call after any change."""
        while self._in_flight < MAX_AHEAD:
            batch = next_batch(self._state(), self._batch_limits)
            if batch is None or (self._in_flight and not self._may_go_ahead(batch)):
                return
            self._send(batch)

    def _may_go_ahead(self, batch: Batch) -> bool:
        is_large = batch.num_tokens >= self._limits.ahead_min_tokens
        return batch.kind != "forward_backward" or is_large

    def _state(self) -> QueueState:
        lanes = tuple(
            LaneState(model.lane.lane_id, model.lane.session_id, (model.lane.ready[0].ticket,))
            for model in self._lanes.values()
            if model.lane.ready
        )
        return QueueState(lanes, self._turns, self._short_streak)

    def _send(self, batch: Batch) -> None:
        queued = [self._lanes[lane_id].lane.ready.popleft() for lane_id, _ in batch.entries]
        self._num_batches += 1
        self._in_flight += 1
        if batch.kind == "forward_backward":
            self._short_streak = 0
            for lane_id, _ in batch.entries:
                self._turns[self._lanes[lane_id].lane.session_id] = self._num_batches
        else:
            self._short_streak += 1
        jobs = [item.work.job for item in queued]
        command, is_single = _command(batch.kind, jobs)
        sent_s = time.monotonic()

        def on_reply(answer: object) -> None:
            self._in_flight -= 1
            self.pump()  # before encoding results: the engine comes first
            answers = _answers(answer, len(queued), is_single=is_single)
            for item, result in zip(queued, answers, strict=True):
                self._complete(item, result, sent_s)

        self._engine.call(command, on_reply)

    def _complete(self, item: _Queued, answer: object, sent_s: float) -> None:
        if isinstance(answer, TinsmithError):
            self._fail([item], answer)
            return
        try:
            outcome = item.work.encode(answer)
        except Exception as exc:
            logger.error("a result could not be encoded", exc_info=exc)
            error = exc if isinstance(exc, TinsmithError) else ServerError(f"bad result: {exc}")
            self._fail([item], error)
        else:
            self._futures.complete(item.ticket.request_id, outcome, _done(item, sent_s))

    def _fail(self, items: Sequence[_Queued], error: TinsmithError) -> None:
        for item in items:
            if item.work.on_failure is not None:
                item.work.on_failure(error)
            self._futures.fail(item.ticket.request_id, error)

    def _watch_gap(self, model: _ModelLane) -> None:
        """Keeps one timer for the number that the lane waits for, if any."""
        missing = model.lane.missing_seq_id
        if missing == model.gap_seq_id:
            return
        if model.gap_timer is not None:
            model.gap_timer.cancel()
            model.gap_timer = None
        model.gap_seq_id = missing
        if missing is not None:
            delay_s = self._limits.seq_gap_timeout_s
            loop = asyncio.get_running_loop()
            model.gap_timer = loop.call_later(delay_s, self._give_up, model)

    def _give_up(self, model: _ModelLane) -> None:
        missing = model.lane.missing_seq_id
        error = UserError(
            f"seq_id={missing}: did not arrive within {self._limits.seq_gap_timeout_s:g} s, so "
            f"the requests behind it were not run (model_id={model.lane.lane_id!r})",
            field="seq_id",
            hint="submit them again with new sequence numbers",
        )
        self._fail(model.lane.give_up(), error)
        model.gap_timer = None
        self._watch_gap(model)
        self.pump()


def _done(item: _Queued, sent_s: float) -> Done | None:
    """What the recorder is told of a request that the engine has done."""
    job, ticket = item.work.job, item.ticket
    queue_ms = (sent_s - ticket.arrived_s) * 1e3
    if isinstance(job, ForwardBackwardJob):
        measured = {"tokens": float(ticket.num_tokens), "queue_ms": queue_ms}
        return Done(events.TRAIN_FORWARD_BACKWARD, measured, {"model_id": job.adapter_id})
    if isinstance(job, OptimStepJob):
        return Done(events.TRAIN_OPTIM, {"queue_ms": queue_ms}, {"model_id": job.adapter_id})
    if isinstance(job, SaveState | SaveSamplerWeights | SaveExternal):
        told = {"path": str(job.directory), "kind": _SAVES[type(job)], "model_id": job.adapter_id}
        return Done(events.CHECKPOINT_SAVED, {"queue_ms": queue_ms}, told)
    return None


def _command(kind: WorkKind, jobs: list[Job]) -> tuple[Command, bool]:
    """The engine command of a batch, and whether its answer is for a single request."""
    if kind == "forward_backward":
        return RunForwardBackward([j for j in jobs if isinstance(j, ForwardBackwardJob)]), False
    if kind == "optim_step":
        return RunOptimStep([j for j in jobs if isinstance(j, OptimStepJob)]), False
    (command,) = jobs
    assert not isinstance(command, ForwardBackwardJob | OptimStepJob)
    return command, True


def _answers(answer: object, count: int, *, is_single: bool) -> Sequence[object]:
    if isinstance(answer, TinsmithError) or is_single:
        return [answer] * count
    if isinstance(answer, list) and len(answer) == count:
        return answer
    return [ServerError("the engine answered with the wrong number of results")] * count


def _closed_error(lane_id: str) -> RequestError:
    return GoneError(
        f"model_id={lane_id!r}: was unloaded",
        field="model_id",
        hint="load one of its checkpoints into a new model",
    )
