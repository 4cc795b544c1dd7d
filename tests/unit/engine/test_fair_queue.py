"""Owners take turns, by the cost of what they ask."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.engine.fair_queue import FairQueue

ITEMS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), max_size=40)


def filled(items: list[tuple[str, int]]) -> FairQueue[tuple[int, str, int]]:
    queue: FairQueue[tuple[int, str, int]] = FairQueue()
    for number, (owner, cost) in enumerate(items):
        queue.append((number, owner, cost), owner=owner, cost=cost)
    return queue


@given(ITEMS)
def test_everything_comes_out_once_and_each_owners_items_in_their_order(
    items: list[tuple[str, int]],
) -> None:
    queue = filled(items)
    taken = [queue.take() for _ in range(len(queue))]
    assert sorted(taken) == [(n, *item) for n, item in enumerate(items)]
    for owner in "abc":
        numbers = [number for number, whose, _ in taken if whose == owner]
        assert numbers == sorted(numbers)


@given(ITEMS)
def test_while_two_owners_wait_neither_gets_much_more_than_the_other(
    items: list[tuple[str, int]],
) -> None:
    queue = filled(items)
    left = {owner: sum(whose == owner for whose, _ in items) for owner in "abc"}
    served = dict.fromkeys("abc", 0)
    while len(queue):
        waiting = [owner for owner in "abc" if left[owner]]
        # The bound of the paper: one turn of the largest cost on either side.
        assert max(served[o] for o in waiting) - min(served[o] for o in waiting) <= 2 * 5
        _, owner, cost = queue.take()
        served[owner] += cost
        left[owner] -= 1


def test_one_who_comes_late_waits_one_turn_and_has_no_credit_for_the_past() -> None:
    queue = filled([("a", 1)] * 100)
    for _ in range(50):
        queue.take()
    for number in range(10):
        queue.append((1000 + number, "b", 1), owner="b")
    owners = [queue.take()[1] for _ in range(20)]
    assert owners[:2].count("b") == 1
    assert 9 <= owners.count("b") <= 10


def test_what_was_shown_stays_first() -> None:
    queue = filled([("a", 1), ("a", 1)])
    queue.take()
    shown = queue.first
    queue.append((9, "b", 1), owner="b")
    assert queue.first == shown == queue.take()
    assert queue.take()[1] == "b"


def test_removed_items_never_come() -> None:
    queue = filled([("a", 1), ("b", 1), ("a", 1)])
    assert queue.first[0] == 0
    queue.remove(lambda item: item[1] == "a")
    assert (len(queue), queue.take()[0]) == (1, 1)
    with pytest.raises(IndexError):
        queue.take()
