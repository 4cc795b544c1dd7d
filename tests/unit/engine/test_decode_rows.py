"""Rows enter and leave any time; those of one snapshot, and of one shared prompt, lie together."""

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.engine.decode_rows import DecodeRows, Entry, Start
from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.kv_cache import CacheShape, PromptBlock, SlotCache, bucket
from tinsmith.engine.sample_state import JobState
from tinsmith.engine.stopping import StopRules
from tinsmith.types import LoraConfig, SamplingParams

CAPACITY = 7


def make_state(number: int, group: int, *, shares: bool) -> JobState:
    from tinsmith.engine.adapters import AdapterSnapshot

    snapshot = None
    if group:
        snapshot = AdapterSnapshot(f"s{group}", LoraConfig(rank=1), "base", {})
    job = SampleJob(f"j{number}", None, [1] * 5, CAPACITY, SamplingParams(max_tokens=9))
    return JobState(
        job=job,
        snapshot=snapshot,
        prompt=np.ones(5, np.int64),
        max_new=9,
        seed=number,
        rules=StopRules(frozenset(), None),
        sequences=[],
        shares_block=shares,
        block=PromptBlock(torch.zeros(1, 2, 1, 1, 5, 1)) if shares else None,
    )


changes = st.lists(
    st.tuples(
        st.sets(st.integers(0, CAPACITY - 1)),  # slots to leave
        st.lists(st.integers(0, 5), max_size=CAPACITY),  # jobs whose samples enter
    ),
    min_size=1,
    max_size=12,
)


@given(changes=changes)
def test_rows_stay_grouped_and_moves_say_where_they_went(changes: Any) -> None:
    states = [make_state(n, n % 3, shares=n >= 3) for n in range(6)]
    rows = DecodeRows(CAPACITY)
    contents: list[tuple[str, int] | None] = [None] * CAPACITY  # what each slot of a cache holds
    number = 0
    for leaving, entering in changes:
        leaving = {slot for slot in leaving if slot < len(rows)}
        entering = entering[: rows.num_free + len(leaving)]
        starts = []
        for job in entering:
            starts.append(Start(Entry(states[job], number), None, 1, -1.0))
            number += 1
        kept = {
            (e.state.job.job_id, e.sample) for s, e in enumerate(rows.live()) if s not in leaving
        }
        moves = rows.change(leaving, starts)
        assert len(set(moves.targets)) == len(moves.targets)
        moved = [contents[source] for source in moves.sources]
        for target, what in zip(moves.targets, moved, strict=True):
            contents[target] = what
        for start, slot in zip(starts, moves.entered, strict=True):
            contents[slot] = (start.entry.state.job.job_id, start.entry.sample)
        live = [(entry.state.job.job_id, entry.sample) for entry in rows.live()]
        assert live == contents[: len(live)]
        assert set(live) == kept | {(s.entry.state.job.job_id, s.entry.sample) for s in starts}
        groups = [entry.state.group for entry in rows.live()]
        assert len(rows.groups()) == len(set(groups)), "each snapshot's rows lie side by side"
        shared = [entry.state for entry in rows.live() if entry.state.shares_block]
        assert len(rows.shared_prompts()) == len({id(state) for state in shared})
        covered = sum(run.stop - run.start for run in rows.shared_prompts())
        assert covered == len(shared)


def test_rows_that_may_stay_do_not_move() -> None:
    state = make_state(0, 0, shares=False)
    rows = DecodeRows(CAPACITY)
    rows.change([], [Start(Entry(state, n), None, 1, -1.0) for n in range(6)])
    moves = rows.change([1], [])
    assert (moves.sources, moves.targets) == ([5], [1])


@given(count=st.integers(1, 10_000), minimum=st.sampled_from([1, 64]))
def test_buckets_hold_what_is_asked_and_waste_less_than_half(count: int, minimum: int) -> None:
    size = bucket(count, minimum)
    assert size >= count
    assert size == minimum or size < 2 * count


def test_a_cache_that_grows_keeps_what_it_holds() -> None:
    cache = SlotCache(CacheShape(2, 3, 4, torch.float32, torch.device("cpu")))
    cache.reserve(2, 5, max_slots=8)
    block = PromptBlock(torch.randn(2, 2, 1, 3, 5, 4))
    cache.write(1, block)
    cache.reserve(7, 500, max_slots=8)
    assert cache.num_slots >= 7
    assert cache.num_positions >= 500
    cache.move([1], [6])
    assert torch.equal(cache.data[:, :, 6, :, :5], block.data[:, :, 0])
    assert (cache.mask[6] == 0).sum() == 5
    assert torch.isinf(cache.mask[2]).all()
    cache.write(6, None)
    assert torch.isinf(cache.mask[6]).all()


def test_moves_happen_as_if_all_at_once() -> None:
    cache = SlotCache(CacheShape(1, 1, 1, torch.float32, torch.device("cpu")))
    cache.reserve(3, 4, max_slots=4)
    for slot in range(3):
        cache.write(slot, PromptBlock(torch.full((1, 2, 1, 1, slot + 1, 1), float(slot))))
    cache.move([0, 1, 2], [1, 2, 0])
    assert cache.data[0, 0, :3, 0, 0, 0].tolist() == [2.0, 0.0, 1.0]
    assert (cache.mask[:3] == 0).sum(1).tolist() == [3, 1, 2]
