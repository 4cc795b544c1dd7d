"""Which work the engine does next: a pure function from queue state to batch.

`next_batch` sees a snapshot of every model's ordered lane and returns one batch, or None when
nothing is ready. It holds no state and knows no processes, so its rules are tested alone:

* order inside a lane is never changed, and a lane gives a batch one request: which of a model's
  requests share a pass would otherwise depend on when they arrived, and so would the last bits of
  its numbers; alone on a service, a model computes the same to the bit whatever the timing;
* requests of different lanes meet in one batch: every forward / forward_backward head together,
  every optim_step head together, control work (create, save, load) one at a time;
* short work goes first, since it opens its lane for the next large batch and brings lanes that
  drifted apart back together; after `max_short_streak` short batches a waiting large one goes;
* sessions take turns, the one not served for longest first, oldest request first within it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

WorkKind = Literal["forward_backward", "optim_step", "control"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """One ready request, as far as scheduling cares."""

    request_id: str
    kind: WorkKind
    num_tokens: int
    arrived_s: float


@dataclass(frozen=True, slots=True)
class LaneState:
    """The ready requests of one model, in execution order; the first may be all that is given."""

    lane_id: str
    session_id: str
    tickets: tuple[Ticket, ...]


@dataclass(frozen=True, slots=True)
class QueueState:
    """Everything `next_batch` looks at.

    `turns` maps a session to the number of the last large batch it had a part in; `short_streak`
    counts the short batches since the last large one.
    """

    lanes: tuple[LaneState, ...]
    turns: Mapping[str, int] = field(default_factory=dict[str, int])
    short_streak: int = 0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one batch; a single request above `max_batch_tokens` travels alone."""

    max_batch_tokens: int = 16_384
    max_batch_requests: int = 256
    max_short_streak: int = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests for one engine call, all of one kind, as (lane id, ticket) pairs."""

    kind: WorkKind
    entries: tuple[tuple[str, Ticket], ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all requests together."""
        return sum(ticket.num_tokens for _, ticket in self.entries)


def next_batch(state: QueueState, limits: BatchLimits) -> Batch | None:
    """Returns the batch to run next, or None when no lane has ready work."""
    lanes = [lane for lane in state.lanes if lane.tickets]
    large = [lane for lane in lanes if lane.tickets[0].kind == "forward_backward"]
    short = [lane for lane in lanes if lane.tickets[0].kind != "forward_backward"]
    if short and (not large or state.short_streak < limits.max_short_streak):
        return _short_batch(short, limits)
    if large:
        return _large_batch(large, state.turns, limits)
    return None


def _short_batch(lanes: list[LaneState], limits: BatchLimits) -> Batch:
    lanes = sorted(lanes, key=_head_arrival)
    oldest = lanes[0].tickets[0]
    if oldest.kind == "control":
        return Batch("control", ((lanes[0].lane_id, oldest),))
    steps = [lane for lane in lanes if lane.tickets[0].kind == "optim_step"]
    entries = tuple((lane.lane_id, lane.tickets[0]) for lane in steps[: limits.max_batch_requests])
    return Batch("optim_step", entries)


def _large_batch(lanes: list[LaneState], turns: Mapping[str, int], limits: BatchLimits) -> Batch:
    entries: list[tuple[str, Ticket]] = []
    num_tokens = 0
    queues = _session_queues(lanes, turns)
    while queues and len(entries) < limits.max_batch_requests:
        still_open: list[list[tuple[str, Ticket]]] = []
        for queue in queues:
            ticket = queue[-1][1]
            if entries and num_tokens + ticket.num_tokens > limits.max_batch_tokens:
                continue  # this session is done for the batch: a later ticket may not overtake
            if len(entries) == limits.max_batch_requests:
                break
            entries.append(queue.pop())
            num_tokens += ticket.num_tokens
            if queue:
                still_open.append(queue)
        queues = still_open
    return Batch("forward_backward", tuple(entries))


def _session_queues(
    lanes: list[LaneState], turns: Mapping[str, int]
) -> list[list[tuple[str, Ticket]]]:
    """One stack a session (next ticket last), in the order in which sessions take turns."""
    by_session: dict[str, list[LaneState]] = {}
    for lane in sorted(lanes, key=_head_arrival):
        by_session.setdefault(lane.session_id, []).append(lane)
    order = sorted(by_session, key=lambda session: turns.get(session, -1))
    return [_stack(by_session[session]) for session in order]


def _stack(lanes: list[LaneState]) -> list[tuple[str, Ticket]]:
    """The head of each of a session's lanes, next one last."""
    return [(lane.lane_id, lane.tickets[0]) for lane in lanes][::-1]


def _head_arrival(lane: LaneState) -> float:
    return lane.tickets[0].arrived_s
