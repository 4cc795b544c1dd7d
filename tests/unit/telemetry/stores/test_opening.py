"""A store opens by its address, and by the one that it says itself."""

from pathlib import Path

import pytest

from tests.unit.telemetry.records import stored_run
from tinsmith.core.errors import ConfigError, UnknownNameError
from tinsmith.telemetry.stores import MemoryStore, SqliteStore, open_store


def test_a_folder_and_its_url_are_the_same_store(tmp_path: Path) -> None:
    folder = tmp_path / "my runs 100%41"
    store = open_store(folder)
    run_id = stored_run(store)
    for address in (str(folder), store.url):
        assert open_store(address).get_run(run_id).run_id == run_id
    assert isinstance(open_store("memory:"), MemoryStore)


def test_the_environment_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
    monkeypatch.delenv("TINSMITH_RECORD")
    default = open_store()
    assert isinstance(default, SqliteStore)
    assert default.root == tmp_path / "telemetry"
    monkeypatch.setenv("TINSMITH_RECORD", str(tmp_path / "elsewhere"))
    chosen = open_store()
    assert isinstance(chosen, SqliteStore)
    assert chosen.root == tmp_path / "elsewhere"
    for said in ("off", "0", "No", "FALSE"):
        monkeypatch.setenv("TINSMITH_RECORD", said)
        with pytest.raises(ConfigError, match="the recorder is off"):
            open_store()


def test_an_address_that_names_no_store_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match=r"store='sqlit': unknown; .*did you mean 'sqlite'"):
        open_store("sqlit:///tmp/x")
    with pytest.raises(ConfigError, match="must be 'sqlite:///' and the whole path of a folder"):
        open_store("sqlite:x")
    with pytest.raises(ConfigError, match="memory has no place"):
        open_store("memory://x")
    for word in ("postgres", "sqlit", "ets"):
        with pytest.raises(UnknownNameError, match=rf"a folder is \./{word}"):
            open_store(word)
