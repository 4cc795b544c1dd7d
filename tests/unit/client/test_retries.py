from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.client.retries import RetryConfig, RetryPolicy, is_retryable, retry_after_s

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_delays_double_up_to_the_longest_and_jitter_only_shortens(
    num_failures: int, uniform: float
) -> None:
    policy = RetryPolicy(delay_base_s=0.5, delay_max_s=10.0, jitter=0.25)
    full = min(0.5 * 2.0 ** min(num_failures - 1, 30), 10.0)
    delay = policy.delay_s(num_failures, uniform=uniform, retry_after=None)
    assert 0.75 * full <= delay <= full


def test_the_servers_pause_replaces_the_back_off() -> None:
    assert RetryPolicy().delay_s(5, uniform=0.9, retry_after=3.0) == 3.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after-ms": "100"}, 0.1),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}, None),
        ({"retry-after": "3600"}, None),
        ({"retry-after": "0"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], expected: object) -> None:
    assert retry_after_s(headers, now=NOW) == expected


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 504])
def test_passing_failures_are_retried(status: int) -> None:
    assert is_retryable(status, {})
    assert not is_retryable(status, {"x-should-retry": "false"})


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 410, 422])
def test_refusals_are_not_retried(status: int) -> None:
    assert not is_retryable(status, {})
    assert is_retryable(status, {"x-should-retry": "true"})


def test_a_retry_config_keeps_the_bounds_of_the_service_client() -> None:
    policy = RetryConfig(retry_delay_base=0.1).policy(RetryPolicy(max_retries=3))
    assert (policy.max_retries, policy.delay_base_s) == (3, 0.1)
    assert policy.is_backpressure_free


def test_retries_can_be_switched_off() -> None:
    assert RetryConfig(enable_retry_logic=False).policy(RetryPolicy()).max_retries == 0


def test_a_retry_config_out_of_range_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="max_connections=0: must be positive"):
        RetryConfig(max_connections=0)
    with pytest.raises(ValueError, match="jitter_factor"):
        RetryConfig(jitter_factor=2.0)
