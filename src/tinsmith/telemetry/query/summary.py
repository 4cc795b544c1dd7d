"""What a run's events say in numbers: latency, cost, reliability, tokens; and runs side by side.

Definitions, the same everywhere:

- A *request* is an event that tells an outcome: a span (`duration_ns`), or a moment whose metadata
  say `success`, `status`, `error` or `exception`. What only announces one (`...start`,
  `...started`) is no request, so rates have the right denominator.
- It failed if `error` or `exception` is there, `success` is false, `status` is "error", or its name
  ends in `.exception` or `.failed`; it succeeded if `success` is true, `status` is "ok", or it is a
  span without any of that. Otherwise its outcome is unknown, and enters no rate.
- A standard deviation is the sample's (ddof=1), a percentile interpolates linearly (numpy's
default). - An event kept by sampling with probability p stands for 1 / p events: totals and rates
are weighted
  with it, and `num_effective` says how many events of full weight the estimate is worth.
- A request without a price has no cost; `num_unpriced` counts them. No price is guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinsmith.telemetry.model import Event, Json

__all__ = [
    "Comparison",
    "Cost",
    "Distribution",
    "Reliability",
    "RunSummary",
    "Tokens",
    "compare",
    "filter_events",
    "is_request",
    "outcome",
    "summarize",
]

_ANNOUNCING = (".start", ".started")
_FAILING = (".exception", ".failed")
_TOLD = ("success", "status", "error", "exception")
_PERCENTILES = (50, 90, 95, 99)
_AVAILABILITIES = (0.99, 0.999, 0.9999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Descriptive statistics of finite numbers; all but `count` are None where there are none."""

    count: int
    mean: float | None = None
    std: float | None = None
    """Sample standard deviation; None below two values."""
    min: float | None = None
    max: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Distribution:
        array = np.array([value for value in values if math.isfinite(value)], dtype=np.float64)
        if len(array) == 0:
            return cls(count=0)
        told = dict(
            zip(("p50", "p90", "p95", "p99"), np.percentile(array, _PERCENTILES), strict=True)
        )
        return cls(
            count=len(array),
            mean=float(array.mean()),
            std=float(array.std(ddof=1)) if len(array) > 1 else None,
            min=float(array.min()),
            max=float(array.max()),
            **{name: float(value) for name, value in told.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """US dollars of the requests that have a price."""

    total_usd: float
    per_request: Distribution
    num_unpriced: int
    """Requests without a price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Outcomes of requests, weighted."""

    num_requests: float
    num_succeeded: float
    num_failed: float
    num_unknown: float
    success_rate: float | None
    """Of the requests with a known outcome; None where there are none."""
    num_effective: float
    """Kish's effective sample size, (sum w)^2 / sum w^2: equals the count without sampling."""

    def reaches(self, availability: float) -> bool | None:
        """Whether the success rate is at least so much; None where it is unknown."""
        return None if self.success_rate is None else self.success_rate >= availability

    @property
    def service_levels(self) -> dict[str, bool | None]:
        """Whether 99, 99.9 and 99.99 % are reached."""
        return {f"{100 * level:g}%": self.reaches(level) for level in _AVAILABILITIES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of the requests that say them, weighted totals and the distribution a request."""

    input_tokens: float
    output_tokens: float
    cached_tokens: float
    per_request: Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Summary of events.

    Attributes:
        num_events: As recorded, every kind.
        first_ns, last_ns: Times of the first and last event; None without events.
        duration_s: From the first event to the last; 0 below two.
        counts: Events by name, the most frequent first.
        latency_ms: Durations of requests.
    """

    num_events: int
    first_ns: int | None
    last_ns: int | None
    duration_s: float
    counts: Mapping[str, int]
    latency_ms: Distribution
    cost: Cost
    reliability: Reliability
    tokens: Tokens


class Comparison(NamedTuple):
    """One run against the baseline; None where either side is unknown."""

    run_id: str
    latency_change: float | None
    """Of the mean, relative: 0.1 is 10 % slower."""
    cost_change_usd: float
    success_rate_change: float | None
    """Difference of rates, in [-1, 1]."""
    num_events_change: int


def is_request(event: Event) -> bool:
    """Whether an event tells an outcome (see the module)."""
    if event.name.endswith(_ANNOUNCING):
        return False
    ends = event.name.endswith(_FAILING)
    return event.duration_ns is not None or ends or any(key in event.metadata for key in _TOLD)


def outcome(event: Event) -> bool | None:
    """Return whether a request succeeded; None where that is not known."""
    said = event.metadata
    failed = said.get("error") or said.get("exception") or event.name.endswith(_FAILING)
    if failed or said.get("success") is False or said.get("status") == "error":
        return False
    if said.get("success") is True or said.get("status") == "ok":
        return True
    told = any(said.get(key) is not None for key in ("success", "status"))
    return True if event.duration_ns is not None and not told else None


def latency_ms(event: Event) -> float | None:
    """Return how long a request took: the span's length, or the measurement that says it."""
    if event.duration_ns is not None:
        return event.duration_ns / 1e6
    for name, to_ms in (("duration_ms", 1.0), ("duration_s", 1e3), ("duration_ns", 1e-6)):
        if name in event.measurements:
            return event.measurements[name] * to_ms
    return None


def summarize(events: Iterable[Event]) -> RunSummary:
    """Summarize events of one run, in any order."""
    listed = list(events)
    requests = [event for event in listed if is_request(event)]
    times = [event.ts_ns for event in listed]
    first, last = (min(times), max(times)) if times else (None, None)
    latencies = [latency_ms(event) for event in requests]
    return RunSummary(
        num_events=len(listed),
        first_ns=first,
        last_ns=last,
        duration_s=0.0 if first is None or last is None else (last - first) / 1e9,
        counts=dict(Counter(event.name for event in listed).most_common()),
        latency_ms=Distribution.of([value for value in latencies if value is not None]),
        cost=_cost(requests),
        reliability=_reliability(requests),
        tokens=_tokens(requests),
    )


def _weight(event: Event) -> float:
    return 1.0 / event.inclusion_p


def _cost(requests: Sequence[Event]) -> Cost:
    priced = [event for event in requests if "cost_usd" in event.measurements]
    costs = [event.measurements["cost_usd"] for event in priced]
    weighted = (cost * _weight(event) for cost, event in zip(costs, priced, strict=True))
    return Cost(
        total_usd=math.fsum(weighted),
        per_request=Distribution.of(costs),
        num_unpriced=len(requests) - len(priced),
    )


def _reliability(requests: Sequence[Event]) -> Reliability:
    weights: dict[bool | None, float] = {True: 0.0, False: 0.0, None: 0.0}
    squares = 0.0
    for event in requests:
        weights[outcome(event)] += _weight(event)
        squares += _weight(event) ** 2
    total, known = sum(weights.values()), weights[True] + weights[False]
    return Reliability(
        num_requests=total,
        num_succeeded=weights[True],
        num_failed=weights[False],
        num_unknown=weights[None],
        success_rate=weights[True] / known if known else None,
        num_effective=total**2 / squares if squares else 0.0,
    )


def _tokens(requests: Sequence[Event]) -> Tokens:
    def total(name: str) -> float:
        told = (event.measurements.get(name, 0.0) * _weight(event) for event in requests)
        return math.fsum(told)

    kinds = ("input_tokens", "output_tokens")
    per_request = [
        sum(event.measurements.get(name, 0.0) for name in kinds)
        for event in requests
        if any(name in event.measurements for name in kinds)
    ]
    return Tokens(
        input_tokens=total("input_tokens"),
        output_tokens=total("output_tokens"),
        cached_tokens=total("cached_tokens"),
        per_request=Distribution.of(per_request),
    )


def compare(summaries: Mapping[str, RunSummary]) -> list[Comparison]:
    """Compare runs with the first one.

    Raises:
        ValueError: fewer than two runs.
    """
    if len(summaries) < 2:
        raise ValueError(f"{len(summaries)} runs: a comparison needs a baseline and another")
    (_, base), *others = summaries.items()
    return [
        Comparison(
            run_id,
            _relative(base.latency_ms.mean, one.latency_ms.mean),
            one.cost.total_usd - base.cost.total_usd,
            _difference(base.reliability.success_rate, one.reliability.success_rate),
            one.num_events - base.num_events,
        )
        for run_id, one in others
    ]


def _relative(base: float | None, other: float | None) -> float | None:
    return other / base - 1.0 if base and other is not None else None


def _difference(base: float | None, other: float | None) -> float | None:
    return None if base is None or other is None else other - base


def filter_events(
    events: Iterable[Event],
    predicate: Callable[[Event], bool] | None = None,
    *,
    success: bool | None = None,
    **equal: Json,
) -> list[Event]:
    """Return the events that satisfy every condition, in their order.

    Args:
        events: Any; a store selects by name pattern, time and trace itself (`Store.events`).
        predicate: A test of your own.
        success: Only requests with this outcome.
        **equal: Values looked up in the metadata, then in the measurements, then in the event's own
            fields: `model="qwen3"`, `rank=0`. Absent is unequal.
    """
    return [
        event
        for event in events
        if (predicate is None or predicate(event))
        and (success is None or (is_request(event) and outcome(event) is success))
        and all(_look_up(event, name) == value for name, value in equal.items())
    ]


_ABSENT = object()


def _look_up(event: Event, name: str) -> Any:  # Any: whatever was recorded
    for said in (event.metadata, event.measurements):
        if name in said:
            return said[name]
    return getattr(event, name, _ABSENT)
