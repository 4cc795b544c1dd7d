"""`tinsmith auth` and `tinsmith keys` against a recorded service."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.client.recording_server import RecordingServer, Reply, recording_server
from tinsmith.cli import main
from tinsmith.client.credentials import StoredKey, credentials_file, store_key, stored_key

ME = {
    "key_id": 3,
    "name": "Ada",
    "details": {"org_details": {"name": "lab"}, "user_details": {"email": "ada@lab"}},
}
RECORD = {
    "key_id": 4,
    "prefix": "tml-abc",
    "name": "Ben",
    "note": "",
    "created_at": "2026-01-01T00:00:00Z",
    "revoked_at": "2026-01-02T00:00:00Z",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RecordingServer]:
    with recording_server() as server:
        monkeypatch.setenv("TINSMITH_BASE_URL", server.url)
        monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
        monkeypatch.setattr("sys.stdin", io.StringIO())
        yield server


def test_login_tries_the_key_keeps_it_and_does_not_show_it(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("auth/apikey/me", Reply(body=ME))
    monkeypatch.setattr("sys.stdin", io.StringIO("tml-secret\nmore\n"))
    assert main(["auth", "login", "--key-stdin"]) == 0
    assert stored_key(server.url) == StoredKey("tml-secret", "ada@lab")
    shown = "".join(capsys.readouterr())
    assert str(credentials_file()) in shown
    assert "secret" not in shown


def test_login_asks_for_the_key_without_showing_it(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def prompt(text: str, *, hide_input: bool, err: bool) -> str:
        asked.append(hide_input)
        return " tml-typed "

    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    server.script("auth/apikey/me", Reply(404, {"detail": "no such route"}))
    assert main(["auth", "login"]) == 0
    assert asked == [True]
    assert stored_key(server.url) == StoredKey("tml-typed", "")


def test_login_without_a_terminal_says_how_to_give_the_key(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["auth", "login"]) == 1
    assert "--key-stdin" in capsys.readouterr().err
    assert server.requests == []


def test_a_refused_key_is_not_kept(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("get_server_capabilities", Reply(401, {"detail": "unknown key"}))
    monkeypatch.setattr("sys.stdin", io.StringIO("tml-bad\n"))
    assert main(["auth", "login", "--key-stdin"]) == 1
    assert "unknown key" in capsys.readouterr().err
    assert not credentials_file().exists()


@pytest.mark.parametrize("typed", ["", "\n", "tml-ü\n", "tml-\x07\n"])
def test_a_key_is_one_line_of_plain_text(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["auth", "login", "--key-stdin"]) == 1
    assert server.requests == []


def test_logout_forgets_and_says_so_when_there_was_nothing(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    store_key(server.url, StoredKey("tml-kept"))
    assert main(["auth", "logout"]) == 0
    assert stored_key(server.url) is None
    assert main(["auth", "logout"]) == 1
    assert "no key is kept" in capsys.readouterr().err
    assert server.requests == []


def test_the_embedded_service_needs_no_login(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TINSMITH_BASE_URL", raising=False)
    assert main(["auth", "login"]) == 1
    assert "needs no key" in capsys.readouterr().err


def test_status_says_where_the_key_comes_from_and_whether_it_works(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    store_key(server.url, StoredKey("tml-kept"))
    assert main(["auth", "status"]) == 0
    assert "file" in capsys.readouterr().out
    server.script("get_server_capabilities", Reply(401, {"detail": "unknown key"}))
    assert main(["auth", "status", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["source"], told["accessible"]) == ("file", False)
    assert "unknown key" in told["problem"]


def test_whoami_shows_the_record_of_the_key(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("auth/apikey/me", Reply(body=ME), Reply(body=ME))
    assert main(["auth", "whoami"]) == 0
    assert capsys.readouterr().out.split() == [
        *("Email", "ada@lab"),
        *("User", "apikey:3"),
        *("Organization", "lab"),
    ]
    assert main(["auth", "whoami", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["email"] == "ada@lab"


def test_a_new_key_is_the_only_thing_on_stdout(
    server: RecordingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script("ext/keys", *[Reply(body=RECORD | {"key": "tml-abcdef"})] * 2)
    assert main(["keys", "create", "Ben", "--note", "laptop"]) == 0
    assert capsys.readouterr().out == "tml-abcdef\n"
    assert server.of("ext/keys")[0].json == {"name": "Ben", "note": "laptop"}
    assert main(["keys", "create", "Ben", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == "tml-abcdef"


def test_keys_are_listed(server: RecordingServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.script("ext/keys", *[Reply(body={"keys": [RECORD]})] * 2)
    assert main(["keys", "list"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1 key\n")
    assert "tml-abc..." in shown
    assert main(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keys"][0]["key_id"] == 4


def test_revoking_asks_first(
    server: RecordingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "revoke", "4"]) == 1
    assert "no terminal to ask on" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["keys", "revoke", "4"]) == 1
    assert "nothing was revoked" in capsys.readouterr().err
    assert server.requests == []
    server.script("ext/keys/4", Reply(204, b""))
    assert main(["keys", "revoke", "4", "--yes"]) == 0
    assert server.of("ext/keys/4")[0].method == "DELETE"
