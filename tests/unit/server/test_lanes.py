"""Lanes: execution in sequence order whatever the arrival, each number used once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.server.errors import RequestError
from tinsmith.server.lanes import Lane


def put(lane: Lane[str], seq_id: int, digest: str = "") -> None:
    lane.put(seq_id, f"item{seq_id}", request_id=f"req{seq_id}", digest=digest or f"d{seq_id}")


def test_requests_wait_for_smaller_numbers() -> None:
    lane: Lane[str] = Lane("m", "s")
    put(lane, 2)
    put(lane, 3)
    assert (list(lane.ready), lane.missing_seq_id) == ([], 1)
    put(lane, 1)
    assert (list(lane.ready), lane.missing_seq_id) == (["item1", "item2", "item3"], None)


def test_a_refused_number_counts_as_consumed() -> None:
    lane: Lane[str] = Lane("m", "s")
    put(lane, 2)
    lane.skip(1)
    assert list(lane.ready) == ["item2"]
    with pytest.raises(RequestError, match="seq_id=1: already consumed"):
        lane.find(1, "d1")


def test_equal_content_gets_the_first_request_id_and_other_content_is_refused() -> None:
    lane: Lane[str] = Lane("m", "s")
    put(lane, 1)
    assert lane.find(1, "d1") == "req1"
    with pytest.raises(RequestError, match="seq_id=1: already used") as caught:
        lane.find(1, "other")
    assert (caught.value.status, caught.value.field) == (400, "seq_id")


def test_skipping_a_number_in_use_changes_nothing() -> None:
    lane: Lane[str] = Lane("m", "s")
    put(lane, 2)
    lane.skip(2)
    put(lane, 1)
    assert list(lane.ready) == ["item1", "item2"]


def test_giving_up_drops_what_waits_and_goes_on_after_it() -> None:
    lane: Lane[str] = Lane("m", "s")
    for seq_id in (1, 3, 5):
        put(lane, seq_id)
    assert lane.give_up() == ["item3", "item5"]
    assert lane.missing_seq_id is None
    put(lane, 6)
    assert list(lane.ready) == ["item1", "item6"]
    with pytest.raises(RequestError, match="already consumed"):
        lane.find(2, "d2")


def test_a_number_far_ahead_is_refused() -> None:
    with pytest.raises(RequestError, match="at most 1000000 ahead"):
        Lane("m", "s").find(2_000_000, "d")


@given(st.data(), st.integers(0, 12))
def test_any_arrival_order_with_refusals_and_repetitions_runs_each_accepted_request_once(
    data: st.DataObject, count: int
) -> None:
    numbers = list(range(1, count + 1))
    refused = set(data.draw(st.lists(st.sampled_from(numbers), unique=True))) if numbers else set()
    arrivals = data.draw(st.permutations(numbers))
    lane: Lane[str] = Lane("m", "s")
    ran: list[str] = []
    for seq_id in arrivals:
        if seq_id in refused:
            lane.skip(seq_id)
        elif lane.find(seq_id, f"d{seq_id}") is None:
            put(lane, seq_id)
        if seq_id not in refused and data.draw(st.booleans()):
            assert lane.find(seq_id, f"d{seq_id}") == f"req{seq_id}"
        while lane.ready and data.draw(st.booleans()):
            ran.append(lane.ready.popleft())
    ran.extend(lane.ready)
    assert ran == [f"item{seq_id}" for seq_id in numbers if seq_id not in refused]
    assert lane.missing_seq_id is None
