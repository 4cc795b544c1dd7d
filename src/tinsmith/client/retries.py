"""When a request is sent again, and after how long: pure rules, no clock and no network.

Main names: `RetryPolicy` (one HTTP call), `RetryConfig` (what a user may set on a sampling client),
`is_retryable`, `retry_after_s`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER_S = 60.0
"""A server that asks for a longer pause than this is answered with our own back-off."""

_RETRYABLE_STATUSES = frozenset({408, 409, 429})


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Bounds and pace of the retries of one HTTP call.

    A call fails for good when either bound is reached, whichever comes first.
    """

    max_retries: int = 10
    """Retries after the first attempt; 0 sends once."""
    max_elapsed_s: float = 300.0
    """Seconds since the first attempt after which nothing is sent again."""
    delay_base_s: float = 0.5
    """Delay before the first retry; it doubles with each."""
    delay_max_s: float = 10.0
    """The longest delay between two attempts."""
    jitter: float = 0.25
    """Each delay is shortened by a random part of itself, up to this share."""
    is_backpressure_free: bool = False
    """A 429 does not count as one of `max_retries`: the service is busy, not broken."""
    is_busy_raised: bool = False
    """A 429 is the caller's to wait out, who knows what else is under way."""

    def delay_s(self, num_failures: int, *, uniform: float, retry_after: float | None) -> float:
        """Seconds to wait before the next attempt.

        Args:
            num_failures: attempts that have failed so far, at least 1.
            uniform: a random number in [0, 1).
            retry_after: what the server asked for, if it did.
        """
        if retry_after is not None:
            return retry_after
        doubled = self.delay_base_s * 2.0 ** min(num_failures - 1, 30)
        return min(doubled, self.delay_max_s) * (1.0 - self.jitter * uniform)


@dataclasses.dataclass(frozen=True, slots=True)
class RetryConfig:
    """How a sampling client retries and how much it keeps in flight.

    Example:
        >>> RetryConfig(max_connections=64).progress_timeout
        7200.0
    """

    max_connections: int = 2000
    """Samples of one client in flight at once, from submission to result; the rest wait."""
    progress_timeout: float = 7200.0
    """Seconds without any sample of the client finishing after which waiting ones fail."""
    retry_delay_base: float = 0.5
    """Seconds before the first retry; doubles with each."""
    retry_delay_max: float = 10.0
    """Longest delay between retries, in seconds."""
    jitter_factor: float = 0.25
    """Each delay is shortened by a random part of itself, up to this share."""
    enable_retry_logic: bool = True
    """False sends everything exactly once."""
    enable_stuck_detection: bool = True
    """False lets samples wait for as long as it takes, whatever `progress_timeout` says."""

    def __post_init__(self) -> None:
        for name in ("max_connections", "progress_timeout", "retry_delay_base", "retry_delay_max"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")
        if not 0.0 <= self.jitter_factor <= 1.0:
            raise ValueError(f"jitter_factor={self.jitter_factor}: must be 0..1")

    def policy(self, base: RetryPolicy) -> RetryPolicy:
        """The policy of one sampling request: this pace within the bounds of `base`."""
        if not self.enable_retry_logic:
            return dataclasses.replace(base, max_retries=0)
        return dataclasses.replace(
            base,
            delay_base_s=self.retry_delay_base,
            delay_max_s=self.retry_delay_max,
            jitter=self.jitter_factor,
            max_elapsed_s=max(base.max_elapsed_s, self.progress_timeout),
            is_backpressure_free=True,
        )


def is_retryable(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer may be different next time; `x-should-retry` overrides the status."""
    verdict = headers.get("x-should-retry", "").lower()
    if verdict in ("true", "false"):
        return verdict == "true"
    return status in _RETRYABLE_STATUSES or status >= 500


def retry_after_s(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """The pause a server asked for in seconds; None when it did not, or asked for nonsense.

    Reads `retry-after-ms` and `retry-after` (seconds or an HTTP date).
    """
    seconds = _number(headers.get("retry-after-ms"))
    seconds = seconds / 1000.0 if seconds is not None else None
    if seconds is None:
        text = headers.get("retry-after")
        seconds = _number(text)
        if seconds is None and text:
            seconds = _seconds_until(text, now or datetime.now(UTC))
    if seconds is None or not 0.0 < seconds <= MAX_RETRY_AFTER_S:
        return None
    return seconds


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _seconds_until(http_date: str, now: datetime) -> float | None:
    try:
        date = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp()
