import asyncio
import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from tests.unit.client.recording_server import DROP, TRY_AGAIN, RecordingServer, Reply
from tinsmith.client.errors import (
    APIConnectionError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    ClientClosedError,
    InternalServerError,
    RateLimitError,
    RequestFailedError,
    ResultExpiredError,
)
from tinsmith.client.loop import loop_thread
from tinsmith.client.polling import ResultKind, await_result
from tinsmith.client.retries import RetryPolicy
from tinsmith.client.transport import Reply as Answer
from tinsmith.client.transport import Request, Transport, is_loopback
from tinsmith.core.errors import UserError

FAST = RetryPolicy(max_retries=3, delay_base_s=0.01, delay_max_s=0.02)
POST = Request("save_weights", b'{"path":"x","model_id":"M"}')
BUSY = Reply(503, {"message": "busy"})


class Caller:
    """A transport whose coroutines are waited for from the test's thread."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def start(self, request: Request) -> Future[Answer]:
        return loop_thread().start(lambda: self.transport.send(request))

    def send(self, request: Request) -> Answer:
        return self.start(request).result(10)

    def poll(self, kind: ResultKind | None = None) -> Answer:
        kind = kind or ResultKind("OptimStep")
        return loop_thread().start(lambda: await_result(self.transport, "r1", kind)).result(10)

    def close(self) -> None:
        loop_thread().start(self.transport.close).result(10)


@pytest.fixture
def caller(server: RecordingServer) -> Iterator[Caller]:
    caller = Caller(Transport(server.url + "/", "tml-key", timeout_s=5.0, policy=FAST))
    yield caller
    caller.close()


def test_requests_carry_the_protocols_headers(server: RecordingServer, caller: Caller) -> None:
    caller.send(POST)
    headers = server.requests[0].headers
    assert headers["x-api-key"] == "tml-key"
    assert headers["user-agent"].startswith("tinsmith/")
    assert headers["content-type"] == headers["accept"] == "application/json"
    assert headers["x-idempotency-key"]
    caller.send(Request("healthz", method="GET"))
    assert "x-idempotency-key" not in server.requests[1].headers


def test_a_busy_service_is_asked_again_with_the_same_idempotency_key(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("save_weights", BUSY, BUSY)
    caller.send(POST)
    assert len({request.headers["x-idempotency-key"] for request in server.requests}) == 1
    assert [r.headers["x-stainless-retry-count"] for r in server.requests] == ["0", "1", "2"]
    caller.send(POST)
    assert len({request.headers["x-idempotency-key"] for request in server.requests}) == 2


def test_a_dropped_connection_is_tried_again(server: RecordingServer, caller: Caller) -> None:
    server.script("save_weights", DROP, DROP)
    assert caller.send(POST).status == 200
    assert len({request.headers["x-idempotency-key"] for request in server.requests}) == 1
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [408, 409, 429, 500])
def test_passing_statuses_are_tried_again(
    server: RecordingServer, caller: Caller, status: int
) -> None:
    server.script("save_weights", Reply(status))
    assert caller.send(POST).status == 200


def test_the_servers_pause_is_kept(server: RecordingServer, caller: Caller) -> None:
    server.script("save_weights", Reply(429, headers={"Retry-After": "0.3"}))
    caller.send(POST)
    first, second = server.requests
    assert 0.3 <= second.time_s - first.time_s < 2.0


def test_retries_are_bounded_and_the_last_failure_is_raised(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("save_weights", *[BUSY] * 10)
    with pytest.raises(InternalServerError, match=r"POST save_weights: busy \[status 503\]"):
        caller.send(POST)
    assert len(server.requests) == 4


def test_retries_are_bounded_in_time(server: RecordingServer, caller: Caller) -> None:
    server.script("save_weights", *[Reply(429, headers={"Retry-After": "30"})] * 2)
    caller.transport.policy = RetryPolicy(max_elapsed_s=1.0)
    with pytest.raises(RateLimitError):
        caller.send(POST)
    assert len(server.requests) == 1


def test_backpressure_does_not_use_up_retries(server: RecordingServer, caller: Caller) -> None:
    server.script("save_weights", *[Reply(429, headers={"retry-after-ms": "5"})] * 20)
    policy = RetryPolicy(max_retries=1, is_backpressure_free=True)
    assert caller.send(Request("save_weights", POST.body, policy=policy)).status == 200


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_refusals_are_raised_at_once(server: RecordingServer, caller: Caller, status: int) -> None:
    server.script("save_weights", Reply(status, {"message": "no", "field": "path"}))
    with pytest.raises(Exception, match="no") as caught:
        caller.send(POST)
    assert caught.value.status_code == status  # type: ignore[attr-defined]
    assert caught.value.field == "path"  # type: ignore[attr-defined]
    assert len(server.requests) == 1


def test_a_redirect_is_not_followed_and_says_where_to(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("save_weights", Reply(307, headers={"Location": "http://other.example"}))
    with pytest.raises(APIStatusError, match=r"use http://other.example as base_url"):
        caller.send(POST)
    assert len(server.requests) == 1


def test_an_address_that_is_none_is_refused_by_name() -> None:
    caller = Caller(Transport("http://x:port", "", timeout_s=1.0, policy=FAST))
    with pytest.raises(UserError, match=r"base_url='http://x:port': not an address"):
        caller.send(POST)


def test_the_http_librarys_log_is_quiet_unless_somebody_wants_it(
    server: RecordingServer, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpx_logger = logging.getLogger("httpx")
    monkeypatch.setattr(httpx_logger, "level", logging.NOTSET)
    caller.send(POST)
    assert httpx_logger.level == logging.WARNING
    httpx_logger.setLevel(logging.INFO)
    again = Caller(Transport(server.url, "", timeout_s=1.0, policy=FAST))
    again.send(POST)
    again.close()
    assert httpx_logger.level == logging.INFO


def test_a_service_that_is_not_there_is_a_connection_error_with_the_address() -> None:
    caller = Caller(Transport("http://127.0.0.1:9", "", timeout_s=1.0, policy=FAST))
    with pytest.raises(APIConnectionError, match=r"no answer from http://127.0.0.1:9: .*running"):
        caller.send(POST)
    caller.close()


def test_a_slow_answer_is_a_timeout(server: RecordingServer, caller: Caller) -> None:
    server.script("save_weights", Reply(delay_s=0.5))
    request = Request("save_weights", b"{}", timeout_s=0.1, policy=RetryPolicy(max_retries=0))
    with pytest.raises(APITimeoutError, match=r"no answer within 0.1 s"):
        caller.send(request)


def test_a_dead_embedded_service_is_not_tried_again() -> None:
    asked: list[str] = []

    def explain() -> str:
        asked.append("x")
        return "it has died; see its log"

    transport = Transport(
        "http://127.0.0.1:9", "", timeout_s=1.0, policy=RetryPolicy(), explain_failure=explain
    )
    caller = Caller(transport)
    with pytest.raises(APIConnectionError, match="it has died; see its log"):
        caller.send(POST)
    assert len(asked) == 1
    caller.close()


def test_closing_fails_what_is_under_way_and_what_comes_later(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("save_weights", Reply(delay_s=1.0), *[BUSY] * 3)
    waiting = caller.start(POST)
    server.wait_for("save_weights")
    caller.close()
    with pytest.raises(ClientClosedError, match="ServiceClient is closed"):
        waiting.result(5)
    with pytest.raises(ClientClosedError):
        caller.send(POST)


def test_a_cancelled_request_is_cancelled_not_closed(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("save_weights", Reply(delay_s=0.3))
    waiting = caller.start(POST)
    server.wait_for("save_weights")
    assert waiting.cancel()
    assert caller.send(POST).status == 200


def test_a_path_prefix_is_kept(server: RecordingServer) -> None:
    caller = Caller(Transport(f"{server.url}/services/x", "", timeout_s=1.0, policy=FAST))
    caller.send(POST)
    assert server.paths() == ["save_weights"]
    assert "x-api-key" not in server.requests[0].headers
    caller.close()


def test_not_yet_polls_again_at_once(server: RecordingServer, caller: Caller) -> None:
    again = Reply(200, {"type": "try_again", "request_id": "r1", "queue_state": "active"})
    server.script("retrieve_future", TRY_AGAIN, again, TRY_AGAIN, Reply(body={"metrics": {}}))
    start_s = time.monotonic()
    assert caller.poll().json() == {"metrics": {}}
    assert time.monotonic() - start_s < 0.5
    iterations = [r.headers["x-tinker-request-iteration"] for r in server.requests]
    assert iterations == ["0", "1", "2", "3"]
    assert server.requests[0].json == {"request_id": "r1", "allow_metadata_only": False}


def test_a_server_that_does_not_hold_polls_is_not_hammered(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("retrieve_future", *[TRY_AGAIN] * 6, Reply(body={}))
    start_s = time.monotonic()
    caller.poll()
    assert time.monotonic() - start_s >= 0.5


def test_broken_polls_back_off_and_go_on(server: RecordingServer, caller: Caller) -> None:
    server.script("retrieve_future", Reply(500), DROP, TRY_AGAIN, Reply(502), Reply(body={"a": 1}))
    assert caller.poll().json() == {"a": 1}


def test_a_poll_that_stays_broken_fails(server: RecordingServer, caller: Caller) -> None:
    server.script("retrieve_future", *[Reply(500)] * 10)
    with pytest.raises(InternalServerError):
        caller.poll()


@pytest.mark.parametrize(("said", "category"), [("user", "user"), (None, "server")])
def test_an_error_result_is_a_failed_request(
    server: RecordingServer, caller: Caller, said: str | None, category: str
) -> None:
    payload = {"error": "Prompt too long", "category": said, "hint": "shorten it"}
    server.script("retrieve_future", Reply(body=payload))
    with pytest.raises(RequestFailedError, match="Prompt too long; shorten it") as caught:
        caller.poll(ResultKind("Sample", is_protobuf=True))
    assert (caught.value.category, caught.value.request_id) == (category, "r1")


def test_a_lost_result_says_so(server: RecordingServer, caller: Caller) -> None:
    server.script("retrieve_future", Reply(410, {"detail": "gone"}))
    with pytest.raises(ResultExpiredError, match="no longer has this result"):
        caller.poll()


def test_a_refused_poll_is_the_status_error(server: RecordingServer, caller: Caller) -> None:
    server.script("retrieve_future", Reply(400, {"detail": "bad id"}))
    with pytest.raises(BadRequestError, match="bad id"):
        caller.poll()


def test_json_where_protobuf_must_come_is_refused(server: RecordingServer, caller: Caller) -> None:
    server.script("retrieve_future", Reply(body={"metrics": {}}))
    with pytest.raises(APIResponseValidationError, match="must be application/x-protobuf"):
        caller.poll(ResultKind("Sample", is_protobuf=True))


def test_invalid_json_is_refused_with_its_beginning(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("retrieve_future", Reply(body=b'{"a": NaN}'))
    with pytest.raises(APIResponseValidationError, match="NaN"):
        caller.poll().json()


def test_many_waiting_samples_do_not_hold_up_a_submission(
    server: RecordingServer, caller: Caller
) -> None:
    server.script("retrieve_future", *[Reply(body={}, delay_s=0.5)] * 30)
    kind = ResultKind("Sample", lane="sampling_polls")

    async def poll_all() -> None:
        await asyncio.gather(*(await_result(caller.transport, "r", kind) for _ in range(30)))

    polls = loop_thread().start(poll_all)
    server.wait_for("retrieve_future", 30)
    start_s = time.monotonic()
    caller.send(POST)
    assert time.monotonic() - start_s < 0.4
    polls.result(10)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost:1/x", True),
        ("http://[::1]:1", True),
        ("https://example.org", False),
        ("http://10.0.0.1", False),
    ],
)
def test_this_machines_addresses_are_known(url: str, expected: bool) -> None:
    assert is_loopback(url) == expected


def test_an_outage_is_told_of_once_and_a_passing_failure_not_at_all(
    server: RecordingServer, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    def told() -> list[str]:
        return [r.message for r in caplog.records if r.name == "tinsmith.client.transport"]

    server.script("save_weights", BUSY, BUSY)
    caller.send(POST)
    assert told() == []
    server.script("save_weights", *[BUSY] * 8)
    for _ in range(2):
        with pytest.raises(InternalServerError):
            caller.send(POST)
    assert len(told()) == 1
    assert "still trying: POST save_weights" in told()[0]
