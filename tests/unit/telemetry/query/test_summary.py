"""Summaries: right denominators, one definition of each number, weights, no invented price."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.telemetry.model import Event
from tinsmith.telemetry.query.summary import (
    Distribution,
    compare,
    filter_events,
    is_request,
    outcome,
    summarize,
)


def event(name: str = "llm.request", at: int = 0, ms: float | None = None, **told: object) -> Event:
    measurements = {k: v for k, v in told.items() if isinstance(v, float)}
    metadata = {k: v for k, v in told.items() if not isinstance(v, float)}
    p = measurements.pop("inclusion_p", 1.0)
    return Event(
        event_id=f"{name}-{at}",
        name=name,
        ts_ns=at,
        mono_ns=at,
        duration_ns=None if ms is None else round(ms * 1e6),
        inclusion_p=p,
        measurements=measurements,
        metadata=metadata,
    )


def test_starts_are_not_requests() -> None:
    events = [event("inference.start", 0), event("inference.stop", 1, ms=2.0)]
    told = summarize(events)
    assert told.num_events == 2
    assert told.reliability.num_requests == 1
    assert told.reliability.success_rate == 1.0


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (event(ms=1.0), True),
        (event(success=True), True),
        (event(status="ok"), True),
        (event(ms=1.0, success=False), False),
        (event(ms=1.0, error="timeout"), False),
        (event(exception="ValueError", success=True), False),
        (event(status="error"), False),
        (event("train.exception"), False),
        (event(ms=1.0, status="cancelled"), None),
        (event(ms=1.0, error=None), True),
    ],
)
def test_outcomes(one: Event, expected: bool | None) -> None:
    assert is_request(one)
    assert outcome(one) is expected


def test_an_unknown_outcome_enters_no_rate() -> None:
    told = summarize([event(ms=1.0), event(ms=1.0, error="x"), event(status="cancelled")])
    assert told.reliability.num_unknown == 1
    assert told.reliability.success_rate == 0.5
    assert told.reliability.service_levels == {"99%": False, "99.9%": False, "99.99%": False}
    nothing = summarize([]).reliability
    assert nothing.success_rate is None
    assert nothing.service_levels == {"99%": None, "99.9%": None, "99.99%": None}


@given(values=st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_a_distribution_is_numpys_with_the_sample_deviation(values: list[float]) -> None:
    told = Distribution.of(values)
    assert told.count == len(values)
    if not values:
        assert told.mean is told.p50 is told.std is None
        return
    assert told.mean == np.mean(values)
    assert [told.p50, told.p90, told.p95, told.p99] == [
        np.percentile(values, p) for p in (50, 90, 95, 99)
    ]
    if len(values) > 1:
        assert told.std == np.std(values, ddof=1)
    else:
        assert told.std is None


def test_latency_is_in_milliseconds_whatever_the_unit_it_was_measured_in() -> None:
    events = [
        event(ms=3.0),
        event(duration_ms=3.0, success=True),
        event(duration_s=0.003, success=True),
        event(duration_ns=3e6, success=True),
    ]
    told = summarize(events).latency_ms
    assert told.count == 4
    assert told.min == told.max == pytest.approx(3.0)


def test_a_request_without_a_price_costs_nothing_and_is_counted() -> None:
    told = summarize([event(ms=1.0, cost_usd=0.25), event(ms=1.0), event("llm.start")]).cost
    assert told.total_usd == 0.25
    assert told.num_unpriced == 1
    assert told.per_request.count == 1


def test_sampled_events_are_weighted() -> None:
    kept = [event(ms=1.0, cost_usd=0.5, input_tokens=10.0, inclusion_p=0.1)]
    full = [event(ms=1.0, cost_usd=0.5, input_tokens=10.0, error="x", inclusion_p=1.0)]
    told = summarize(kept + full)
    assert told.num_events == 2
    assert told.reliability.num_requests == pytest.approx(11)
    assert told.reliability.success_rate == pytest.approx(10 / 11)
    assert told.reliability.num_effective == pytest.approx(121 / 101)
    assert told.cost.total_usd == pytest.approx(5.5)
    assert told.tokens.input_tokens == pytest.approx(110)
    assert told.tokens.per_request.count == 2


def test_times_and_counts() -> None:
    told = summarize([event("b", 5_000_000_000), event("a", 2_000_000_000), event("a", 3)])
    assert (told.first_ns, told.last_ns) == (3, 5_000_000_000)
    assert told.duration_s == pytest.approx(4.999999997)
    assert list(told.counts.items()) == [("a", 2), ("b", 1)]
    assert summarize([event(at=7)]).duration_s == 0.0


def test_runs_are_compared_with_the_first() -> None:
    slow = summarize([event(ms=2.0, cost_usd=1.0), event(ms=2.0, error="x")])
    base = summarize([event(ms=1.0, cost_usd=0.25)])
    [told] = compare({"base": base, "slow": slow})
    assert told.run_id == "slow"
    assert told.latency_change == pytest.approx(1.0)
    assert told.cost_change_usd == 0.75
    assert told.success_rate_change == -0.5
    assert told.num_events_change == 1
    [unknown] = compare({"base": summarize([]), "slow": slow})
    assert unknown.latency_change is None
    assert unknown.success_rate_change is None
    with pytest.raises(ValueError, match="1 runs: a comparison needs a baseline and another"):
        compare({"base": base})


def test_filters_are_a_conjunction() -> None:
    events = [
        event(at=1, ms=1.0, model="a", cost_usd=1.0),
        event(at=2, ms=1.0, model="a", error="x"),
        event(at=3, model="b"),
    ]
    assert [e.ts_ns for e in filter_events(events, model="a")] == [1, 2]
    assert [e.ts_ns for e in filter_events(events, success=True)] == [1]
    assert [e.ts_ns for e in filter_events(events, success=False, model="a")] == [2]
    assert [e.ts_ns for e in filter_events(events, cost_usd=1.0)] == [1]
    assert [e.ts_ns for e in filter_events(events, rank=0, ts_ns=3)] == [3]
    assert filter_events(events, absent=None) == []
    assert [e.ts_ns for e in filter_events(events, lambda e: e.ts_ns > 1, model="a")] == [2]


def test_nan_latencies_do_not_spoil_the_mean() -> None:
    told = summarize([event(duration_ms=math.nan, success=True), event(ms=4.0)])
    assert told.latency_ms.mean == 4.0
    assert dataclasses.asdict(told)["reliability"]["num_succeeded"] == 2
