"""The scheduler's rules, without processes: order, barriers, bounds, turns, nothing lost."""

from __future__ import annotations

import itertools
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from tinsmith.server.scheduler import (
    Batch,
    BatchLimits,
    LaneState,
    QueueState,
    Ticket,
    WorkKind,
    next_batch,
)

FB: WorkKind = "forward_backward"
OPTIM: WorkKind = "optim_step"
CONTROL: WorkKind = "control"


def ticket(name: str, kind: WorkKind = FB, *, tokens: int = 10, arrived: float = 0.0) -> Ticket:
    return Ticket(name, kind, tokens if kind == FB else 0, arrived)


def names(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [entry.request_id for _, entry in batch.entries]


def test_nothing_ready_means_no_batch() -> None:
    assert next_batch(QueueState(()), BatchLimits()) is None
    assert next_batch(QueueState((LaneState("m", "s", ()),)), BatchLimits()) is None


def test_forward_backward_heads_of_several_models_share_a_batch() -> None:
    lanes = tuple(LaneState(f"m{i}", f"s{i}", (ticket(f"r{i}"),)) for i in range(3))
    assert sorted(names(next_batch(QueueState(lanes), BatchLimits()))) == ["r0", "r1", "r2"]


def test_a_model_gives_a_batch_one_request_so_that_timing_decides_no_bits() -> None:
    tickets = (ticket("a"), ticket("b"), ticket("step", OPTIM), ticket("c"))
    other = LaneState("n", "t", (ticket("x"), ticket("y")))
    batch = next_batch(QueueState((LaneState("m", "s", tickets), other)), BatchLimits())
    assert sorted(names(batch)) == ["a", "x"]


def test_optim_steps_of_several_models_share_a_batch_and_control_goes_alone() -> None:
    lanes = (
        LaneState("a", "s", (ticket("a1", OPTIM, arrived=2),)),
        LaneState("b", "s", (ticket("b1", OPTIM, arrived=1),)),
        LaneState("c", "s", (ticket("c1", CONTROL, arrived=3),)),
    )
    assert names(next_batch(QueueState(lanes), BatchLimits())) == ["b1", "a1"]
    older = LaneState("d", "s", (ticket("d1", CONTROL, arrived=0),))
    assert names(next_batch(QueueState((*lanes, older)), BatchLimits())) == ["d1"]


def test_short_work_goes_first_but_not_for_ever() -> None:
    lanes = (
        LaneState("a", "s", (ticket("large", arrived=0),)),
        LaneState("b", "t", (ticket("short", OPTIM, arrived=1),)),
    )
    limits = BatchLimits(max_short_streak=3)
    assert names(next_batch(QueueState(lanes, {}, 2), limits)) == ["short"]
    assert names(next_batch(QueueState(lanes, {}, 3), limits)) == ["large"]


def test_tokens_bound_a_batch_and_a_larger_request_travels_alone() -> None:
    lanes = (
        LaneState("a", "s1", (ticket("a1", tokens=60, arrived=0),)),
        LaneState("b", "s2", (ticket("b1", tokens=60, arrived=1),)),
        LaneState("c", "s3", (ticket("c1", tokens=30, arrived=2),)),
    )
    assert names(next_batch(QueueState(lanes), BatchLimits(max_batch_tokens=100))) == ["a1", "c1"]
    huge = (LaneState("h", "s0", (ticket("h1", tokens=500, arrived=-1),)), *lanes)
    assert names(next_batch(QueueState(huge), BatchLimits(max_batch_tokens=100))) == ["h1"]


def test_the_session_served_longest_ago_comes_first() -> None:
    flood = tuple(ticket(f"f{i}", tokens=50, arrived=0) for i in range(10))
    lanes = (
        LaneState("flood", "s1", flood),
        LaneState("small", "s2", (ticket("small", tokens=50, arrived=9),)),
    )
    limits = BatchLimits(max_batch_tokens=100)
    assert names(next_batch(QueueState(lanes, {"s1": 4, "s2": 1}), limits)) == ["small", "f0"]


kinds = st.sampled_from([FB, FB, FB, OPTIM, CONTROL])
lane_contents = st.lists(st.tuples(kinds, st.integers(1, 80), st.integers(0, 50)), max_size=8)


@given(
    st.lists(st.tuples(st.integers(0, 3), lane_contents), max_size=6),
    st.integers(1, 120),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_draining_any_queue_loses_nothing_doubles_nothing_and_keeps_order(
    lanes: list[tuple[int, list[tuple[WorkKind, int, int]]]],
    max_tokens: int,
    max_requests: int,
    max_streak: int,
) -> None:
    counter = itertools.count()
    queues = {
        f"m{index}": [
            ticket(f"r{next(counter)}", kind, tokens=tokens, arrived=float(arrived))
            for kind, tokens, arrived in contents
        ]
        for index, (_, contents) in enumerate(lanes)
    }
    sessions = {f"m{index}": f"s{session}" for index, (session, _) in enumerate(lanes)}
    expected = {lane: [t.request_id for t in queue] for lane, queue in queues.items()}
    limits = BatchLimits(max_tokens, max_requests, max_streak)
    done: dict[str, list[str]] = defaultdict(list)
    turns: dict[str, int] = {}
    streak = 0
    for number in itertools.count():
        state = QueueState(
            tuple(LaneState(lane, sessions[lane], tuple(q)) for lane, q in queues.items()),
            turns,
            streak,
        )
        batch = next_batch(state, limits)
        if batch is None:
            break
        check_batch(batch, limits)
        large_waits = any(q and q[0].kind == FB for q in queues.values())
        assert batch.kind == FB or not large_waits or streak < max_streak
        streak = 0 if batch.kind == FB else streak + 1
        for lane, entry in batch.entries:
            assert queues[lane].pop(0) == entry  # the head, so order inside a lane is kept
            done[lane].append(entry.request_id)
            turns[sessions[lane]] = number
    assert {lane: done[lane] for lane in expected} == expected


def check_batch(batch: Batch, limits: BatchLimits) -> None:
    assert batch.entries
    assert all(entry.kind == batch.kind for _, entry in batch.entries)
    assert len(batch.entries) <= limits.max_batch_requests
    assert len(batch.entries) == 1 or batch.num_tokens <= limits.max_batch_tokens
    if batch.kind == CONTROL:
        assert len(batch.entries) == 1
    if batch.kind == OPTIM:
        assert len({lane for lane, _ in batch.entries}) == len(batch.entries)


@given(st.integers(2, 5), st.integers(1, 6))
def test_a_waiting_session_is_served_within_one_round(num_sessions: int, depth: int) -> None:
    """However much the others queue, each session has a part in every `num_sessions` batches."""
    queues = {
        f"m{i}": [ticket(f"r{i}.{j}", tokens=100, arrived=float(i)) for j in range(depth)]
        for i in range(num_sessions)
    }
    turns: dict[str, int] = {}
    served: list[str] = []
    for number in range(num_sessions):
        lanes = tuple(LaneState(m, f"s{m}", tuple(q)) for m, q in queues.items())
        batch = next_batch(QueueState(lanes, turns), BatchLimits(max_batch_tokens=100))
        assert batch is not None
        for lane, _ in batch.entries:
            queues[lane].pop(0)
            turns[f"s{lane}"] = number
            served.append(lane)
    assert sorted(served) == sorted(queues)
