"""Where a key comes from, what is sent with a request, and what is done when it is refused."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.recording_server import RecordingServer, Reply
from tests.unit.client.tokens import make_token
from tinsmith.client import RestClient, ServiceClient
from tinsmith.client.credentials import (
    StoredKey,
    credentials_file,
    find_credential,
    forget_key,
    store_key,
    stored_key,
)
from tinsmith.core.errors import ConfigError, UserError

HERE = "http://box:8000"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "tinsmith"))
    return tmp_path / "person"


def keep_tinker_key(home: Path, text: str | None = None) -> None:
    file = home / ".tinker" / "credentials.json"
    file.parent.mkdir(parents=True)
    saved = {"version": 1, "default": "k", "keys": {"k": {"type": "manual", "key": "tml-theirs"}}}
    file.write_text(json.dumps(saved) if text is None else text)


def test_an_argument_goes_before_a_variable_before_a_command_before_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_credential(HERE, None).source == "nowhere"
    store_key(HERE, StoredKey("tml-file"))
    assert find_credential(HERE, None).key == "tml-file"
    monkeypatch.setenv("TINKER_CREDENTIAL_CMD", "echo tml-command")
    assert find_credential(HERE, None).source == "command"
    monkeypatch.setenv("TINKER_API_KEY", "tml-variable")
    monkeypatch.setenv("TINSMITH_API_KEY", "tml-own-variable")
    assert find_credential(HERE, None).key == "tml-own-variable"
    assert find_credential(HERE, "tml-argument").key == "tml-argument"


def test_a_kept_key_belongs_to_its_address() -> None:
    store_key(HERE + "/", StoredKey("tml-one", "ada"))
    store_key("HTTPS://Other/prefix", StoredKey("tml-two"))
    assert stored_key("http://BOX:8000") == StoredKey("tml-one", "ada")
    assert stored_key("https://other/prefix") == StoredKey("tml-two")
    assert stored_key("https://other/Prefix") is None
    assert stored_key("http://box:8001") is None
    assert forget_key(HERE)
    assert not forget_key(HERE)
    assert stored_key("https://other/prefix") == StoredKey("tml-two")


def test_only_the_owner_can_read_the_file_whatever_the_umask() -> None:
    old = os.umask(0)
    try:
        store_key(HERE, StoredKey("tml-one"))
    finally:
        os.umask(old)
    assert stat.S_IMODE(credentials_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(credentials_file().parent.stat().st_mode) == 0o700
    assert [path.name for path in credentials_file().parent.iterdir()] == ["credentials.json"]


def test_a_file_that_others_can_read_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    store_key(HERE, StoredKey("tml-one"))
    credentials_file().chmod(0o644)
    assert stored_key(HERE) == StoredKey("tml-one")
    assert "chmod 600" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", '{"services": 3}', '{"services": {"x": {}}}'])
def test_a_damaged_file_is_named_and_not_overwritten(text: str) -> None:
    store_key(HERE, StoredKey("tml-one"))
    credentials_file().write_text(text)
    for call in (
        lambda: stored_key(HERE),
        lambda: store_key(HERE, StoredKey("tml-two")),
        lambda: ServiceClient(base_url=HERE),
    ):
        with pytest.raises(ConfigError, match=r"credentials\.json: is no file of keys"):
            call()
    assert credentials_file().read_text() == text


def test_the_tinker_sdks_key_goes_where_that_sdk_would_send_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_tinker_key(home)
    assert stored_key(HERE) is None
    assert stored_key("https://evil.thinkingmachines.dev.example") is None
    assert stored_key("https://tinker.thinkingmachines.dev/services/tinker-prod") is not None
    monkeypatch.setenv("TINKER_BASE_URL", HERE + "/")
    found = stored_key(HERE)
    assert found is not None
    assert found.key == "tml-theirs"
    store_key(HERE, StoredKey("tml-ours"))
    assert stored_key(HERE) == StoredKey("tml-ours")


@pytest.mark.parametrize("text", ["", "[1]", '{"keys": {}}', '{"keys": [], "default": "k"}'])
def test_a_damaged_tinker_file_is_passed_over(
    home: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    keep_tinker_key(home, text)
    monkeypatch.setenv("TINKER_BASE_URL", HERE)
    assert stored_key(HERE) is None


def test_the_kept_key_is_sent(server: RecordingServer) -> None:
    store_key(server.url, StoredKey("tml-kept"))
    with RestClient(base_url=server.url) as rest:
        rest.get_server_capabilities().result(5)
    assert {request.headers["x-api-key"] for request in server.requests} == {"tml-kept"}


def test_the_command_runs_once_and_again_when_its_key_is_refused(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    monkeypatch.setenv(
        "TINSMITH_CREDENTIAL_CMD", f"echo run >> {count}; echo tml-$(wc -l < {count})"
    )
    with RestClient(base_url=server.url) as rest:
        rest.get_server_capabilities().result(5)
        server.script("get_server_capabilities", Reply(401, {"detail": "expired"}))
        rest.get_server_capabilities().result(5)
    keys = [request.headers["x-api-key"] for request in server.requests]
    assert keys == ["tml-1", "tml-1", "tml-1", "tml-2"]


def test_a_refusal_that_no_other_key_helps_against_is_raised(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_CREDENTIAL_CMD", "echo tml-same")
    server.script("get_server_capabilities", Reply(401, {"detail": "no"}))
    with (
        RestClient(base_url=server.url) as rest,
        pytest.raises(Exception, match=r"no \[status 401\]"),
    ):
        rest.get_server_capabilities().result(5)
    assert len(server.of("get_server_capabilities")) == 1


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("exit 3", "ended with status 3"),
        ("true", "printed nothing"),
        ("printf 'tml-a\\ntml-b'", "not one line of plain text"),
        (f"echo {make_token(lifetime_s=10, age_s=20)}", "a token that has expired"),
    ],
)
def test_a_command_that_gives_no_key_is_an_error_without_its_output(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, command: str, what: str
) -> None:
    monkeypatch.setenv("TINSMITH_CREDENTIAL_CMD", f"echo tml-hidden >&2; {command}")
    with (
        RestClient(base_url=server.url) as rest,
        pytest.raises(UserError, match=what) as caught,
    ):
        rest.get_server_capabilities().result(5)
    assert "tml-" not in str(caught.value)
    assert server.requests == []


def test_a_token_that_has_expired_is_not_sent(server: RecordingServer) -> None:
    token = make_token(lifetime_s=10, age_s=20)
    with (
        RestClient(base_url=server.url, api_key=token) as rest,
        pytest.raises(UserError, match="has expired") as caught,
    ):
        rest.get_server_capabilities().result(5)
    assert token not in str(caught.value)
    assert server.requests == []


def test_headers_of_the_callers_own_go_before_the_key(server: RecordingServer) -> None:
    overrides = {"X-API-Key": "tml-override"}
    with ServiceClient(
        base_url=server.url, api_key="tml-key", default_headers_overrides=overrides
    ) as service:
        service.get_server_capabilities().result(5)
    assert server.requests[0].headers["x-api-key"] == "tml-override"


@pytest.mark.parametrize("key", ["tml-hidden\n", "tml-hidden\r", " tml-hidden", "tml-hidd\u00fc"])
def test_a_key_that_no_header_carries_is_refused_at_once_without_being_shown(key: str) -> None:
    with pytest.raises(UserError, match="api_key: the argument is not one line") as caught:
        RestClient(base_url=HERE, api_key=key)
    assert "hidd" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("headers", [{"a b": "hidden"}, {"X-A": "hidden\n"}, {"X-A": 3}, {"": "x"}])
def test_a_header_that_cannot_be_sent_is_refused_at_once(headers: Any) -> None:
    with pytest.raises(UserError, match="default_headers_overrides: ") as caught:
        ServiceClient(base_url=HERE, default_headers_overrides=headers)
    assert "hidden" not in str(caught.value)
