"""tinsmith.auth: is there a key, and does the service take it."""

from pathlib import Path

import pytest

import tinsmith
from tests.unit.client.recording_server import Reply, recording_server
from tinsmith import auth
from tinsmith.client.credentials import StoredKey, credentials_file, store_key


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path / "tinsmith"))


def test_the_module_is_part_of_the_package() -> None:
    assert tinsmith.auth is auth


def test_the_token_is_looked_up_and_the_command_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://box:8000")
    assert auth.get_tinker_token() is None
    assert not auth.tinker_has_credentials()
    store_key("http://box:8000", StoredKey("tml-file"))
    assert auth.get_tinker_token() == "tml-file"
    assert auth.tinker_has_credentials()
    monkeypatch.setenv("TINSMITH_CREDENTIAL_CMD", f"touch {tmp_path}/ran")
    assert auth.get_tinker_token() is None
    assert auth.tinker_has_credentials()
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("TINKER_API_KEY", "tml-variable")
    assert auth.get_tinker_token() == "tml-variable"


def test_a_damaged_file_counts_as_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://box:8000")
    store_key("http://box:8000", StoredKey("tml-file"))
    credentials_file().write_text("{")
    assert auth.get_tinker_token() is None
    assert not auth.tinker_has_credentials()


def test_the_embedded_service_needs_no_key() -> None:
    assert auth.get_tinker_token() is None
    assert auth.tinker_has_credentials()


def test_access_is_tried_once_and_every_failure_is_a_tinsmith_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with recording_server() as server:
        monkeypatch.setenv("TINSMITH_BASE_URL", server.url)
        auth.raise_if_tinker_not_accessible()
        server.script("get_server_capabilities", Reply(401, {"detail": "who?"}))
        with pytest.raises(tinsmith.AuthenticationError):
            auth.raise_if_tinker_not_accessible()
        server.script("get_server_capabilities", Reply(503, {"detail": "later"}))
        with pytest.raises(tinsmith.InternalServerError):
            auth.raise_if_tinker_not_accessible()
        assert len(server.of("get_server_capabilities")) == 3
    with pytest.raises(tinsmith.APIConnectionError):
        auth.raise_if_tinker_not_accessible()
