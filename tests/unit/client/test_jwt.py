"""Services that want short-lived tokens: the exchange, renewals, refusals."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.client.recording_server import RecordingServer, Reply
from tests.unit.client.tokens import make_token
from tinsmith.client import AuthenticationError, InternalServerError, RestClient, ServiceClient
from tinsmith.client.errors import APIConnectionError, APIResponseValidationError
from tinsmith.client.jwt import ExchangedToken, claims_of, is_expired, whoami_of_token
from tinsmith.core.errors import UserError

INVALID = {"WWW-Authenticate": 'Bearer error="invalid_token"'}


def wants_tokens(server: RecordingServer, *tokens: str, **config: Any) -> None:
    server.config = {"pjwt_auth_enabled": True, **config}
    server.script("auth/token", *(Reply(body={"jwt": token}) for token in tokens))


def keys(server: RecordingServer) -> list[tuple[str, str]]:
    return [(request.path, request.headers["x-api-key"]) for request in server.requests]


def test_the_key_is_sent_for_the_exchange_only(server: RecordingServer) -> None:
    token = make_token(lifetime_s=3600, n=1)
    wants_tokens(server, token)
    with ServiceClient(base_url=server.url, api_key="tml-key") as service:
        service.create_lora_training_client("tinsmith/tiny").result(5)
    found = keys(server)
    assert found[:2] == [("client/config", "tml-key"), ("auth/token", "tml-key")]
    assert {key for _, key in found[2:]} == {token}
    assert server.of("auth/token")[0].json == {}


def test_many_requests_at_once_cost_one_exchange(server: RecordingServer) -> None:
    wants_tokens(server, make_token(lifetime_s=3600))
    with RestClient(base_url=server.url, api_key="tml-key") as rest:
        for future in [rest.get_server_capabilities() for _ in range(20)]:
            future.result(5)
    assert len(server.of("auth/token")) == 1


def test_a_refused_token_is_renewed_and_the_request_sent_once_more(
    server: RecordingServer,
) -> None:
    first, second = (make_token(lifetime_s=3600, n=n) for n in range(2))
    wants_tokens(server, first, second)
    refused = [Reply(401, {"detail": "gone"}, headers=INVALID) for _ in range(3)]
    server.script("get_server_capabilities", refused[0])
    with RestClient(base_url=server.url, api_key="tml-key") as rest:
        rest.get_server_capabilities().result(5)
        assert keys(server)[2:] == [
            ("get_server_capabilities", first),
            ("auth/token", "tml-key"),
            ("get_server_capabilities", second),
        ]
        server.script("get_server_capabilities", *refused[1:])
        server.script("auth/token", Reply(body={"jwt": make_token(lifetime_s=3600, n=3)}))
        with pytest.raises(AuthenticationError, match="gone"):
            rest.get_server_capabilities().result(5)


def test_a_key_that_the_exchange_refuses_is_an_authentication_error(
    server: RecordingServer,
) -> None:
    wants_tokens(server)
    server.script("auth/token", Reply(401, {"detail": "unknown key"}))
    with (
        RestClient(base_url=server.url, api_key="tml-key") as rest,
        pytest.raises(AuthenticationError, match="unknown key"),
    ):
        rest.get_server_capabilities().result(5)


@pytest.mark.parametrize(
    "token",
    ["", "x.y.z", make_token(lifetime_s=-5), make_token(lifetime_s=0)],
    ids=["empty", "not a token", "run out", "runs out now"],  # a token holds the time: no name
)
def test_a_token_that_says_no_lifetime_is_refused(server: RecordingServer, token: str) -> None:
    wants_tokens(server, token)
    with (
        RestClient(base_url=server.url, api_key="tml-key") as rest,
        pytest.raises(APIResponseValidationError, match="how long it holds"),
    ):
        rest.get_server_capabilities().result(5)


def test_a_service_may_want_the_commands_key(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = make_token(lifetime_s=3600)
    wants_tokens(server, token, credential_default_source="credential_cmd")
    with (
        RestClient(base_url=server.url, api_key="tml-key") as rest,
        pytest.raises(UserError, match="a key that a command prints"),
    ):
        rest.get_server_capabilities().result(5)
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", "echo tml-printed")
    with RestClient(base_url=server.url, api_key="tml-key") as rest:
        rest.get_server_capabilities().result(5)
    assert keys(server)[-2:] == [
        ("auth/token", "tml-printed"),
        ("get_server_capabilities", token),
    ]


def test_a_token_given_as_the_key_goes_before_the_command(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, exchanged = (make_token(lifetime_s=3600, n=n) for n in range(2))
    wants_tokens(server, exchanged, credential_default_source="credential_cmd")
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", "false")
    with RestClient(base_url=server.url, api_key=given) as rest:
        rest.get_server_capabilities().result(5)
    assert dict(keys(server))["auth/token"] == given


def test_whoami_reads_the_exchanged_token(server: RecordingServer) -> None:
    wants_tokens(server, make_token(lifetime_s=3600, sub="u", org_id="o", email="e@x"))
    with RestClient(base_url=server.url, api_key="tml-key") as rest:
        who = rest.whoami().result(5)
    assert (who.user_urn, who.org_urn, who.email) == ("u", "tml:organization:o", "e@x")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("tinsmith.client.jwt.time.monotonic", lambda: self.now_s)


def exchanging(*outcomes: str | Exception) -> tuple[ExchangedToken, Callable[[], int]]:
    left = list(outcomes)

    async def exchange() -> str:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return ExchangedToken(exchange), lambda: len(outcomes) - len(left)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_renewal_begins_at_half_of_the_life_in_the_background(clock: Clock) -> None:
    first, second = (make_token(lifetime_s=3600, n=n) for n in range(2))
    token, num_asked = exchanging(first, second)
    assert await token.token() == first
    clock.now_s += 1600
    assert await token.token() == first
    assert num_asked() == 1
    clock.now_s += 400  # past 0.55 of the life
    assert await token.token() == first, "the old one still holds and nobody waits"
    await asyncio.sleep(0)
    assert await token.token() == second
    assert num_asked() == 2


async def test_a_failed_renewal_keeps_the_token_while_it_holds_and_waits_before_the_next(
    clock: Clock,
) -> None:
    first, second = (make_token(lifetime_s=3600, n=n) for n in range(2))
    token, num_asked = exchanging(
        first, APIConnectionError("away"), APIConnectionError("away"), second
    )
    await token.token()
    clock.now_s += 2000
    for _ in range(5):
        assert await token.token() == first
        await asyncio.sleep(0)
    assert num_asked() == 2
    clock.now_s += 61
    await token.token()
    await asyncio.sleep(0)
    assert num_asked() == 3
    clock.now_s += 1545  # less than a minute before its end, it is waited for
    assert await token.token() == second


async def test_without_a_token_that_holds_the_failure_is_raised(clock: Clock) -> None:
    token, _ = exchanging(make_token(lifetime_s=100), InternalServerError("broken"))
    await token.token()
    clock.now_s += 101
    with pytest.raises(InternalServerError):
        await token.token()


async def test_a_wrong_clock_does_no_harm(clock: Clock) -> None:
    skewed = make_token(lifetime_s=3600, age_s=-100_000)
    token, num_asked = exchanging(skewed)
    assert await token.token() == skewed
    assert await token.token() == skewed
    assert num_asked() == 1


async def test_one_callers_cancellation_is_not_the_others(clock: Clock) -> None:
    gate = asyncio.Event()
    made = make_token(lifetime_s=3600)

    async def exchange() -> str:
        await gate.wait()
        return made

    token = ExchangedToken(exchange)
    callers = [asyncio.create_task(token.token()) for _ in range(2)]
    await asyncio.sleep(0)
    callers[0].cancel()
    gate.set()
    assert await callers[1] == made


@pytest.mark.parametrize("text", ["", "tml-key", "a.b", "a.b.c", "eyJ.!!.x", "a.W10.c"])
def test_what_is_no_token_says_nothing(text: str) -> None:
    assert claims_of(text) is None
    assert whoami_of_token(text) is None
    assert not is_expired(text)


def test_the_sdks_thread_is_not_blocked_by_a_slow_command(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv(
        "TINSMITH_CREDENTIAL_CMD", f"while [ ! -e {gate} ]; do sleep 0.01; done; echo tml-slow"
    )
    with RestClient(base_url=server.url) as slow:
        waiting = slow.get_server_capabilities()
        with RestClient(base_url=server.url, api_key="tml-key") as other:
            other.get_server_capabilities().result(5)
        assert not waiting.done()
        gate.touch()
        waiting.result(5)
