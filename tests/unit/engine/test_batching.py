"""Micro-batches conserve datums, keep to the token budget, and waste little."""

from hypothesis import given
from hypothesis import strategies as st

from tinsmith.engine.batching import plan_microbatches

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(LENGTHS, st.integers(1, 1000), st.integers(0, 200))
def test_every_item_is_in_one_batch_in_order(lengths: list[int], budget: int, cut: int) -> None:
    plan = plan_microbatches(lengths, budget, cut_cost_tokens=cut)
    assert sorted(index for batch in plan for index in batch) == list(range(len(lengths)))
    for batch in plan:
        assert batch == sorted(batch)


@given(LENGTHS, st.integers(1, 1000), st.integers(0, 200))
def test_budget_and_padding_are_bounded(lengths: list[int], budget: int, cut: int) -> None:
    for batch in plan_microbatches(lengths, budget, cut_cost_tokens=cut):
        longest = max(lengths[index] for index in batch)
        assert longest * len(batch) <= budget or len(batch) == 1
        assert sum(longest - lengths[index] for index in batch) <= cut


@given(st.integers(1, 200), st.integers(1, 50), st.integers(200, 1000))
def test_equal_lengths_fill_every_batch(length: int, count: int, budget: int) -> None:
    plan = plan_microbatches([length] * count, budget)
    assert len(plan) == -(-count // (budget // length))


def test_the_plan_is_deterministic_and_longest_first() -> None:
    lengths = [5, 100, 6, 98, 5, 100]
    assert plan_microbatches(lengths, 256, cut_cost_tokens=4) == [[1, 5], [3], [0, 2, 4]]
    assert plan_microbatches([], 256) == []
