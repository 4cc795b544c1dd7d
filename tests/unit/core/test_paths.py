import os
from pathlib import Path

import pytest

from tinsmith.core import environment, paths
from tinsmith.core.errors import AlreadyExistsError


@pytest.fixture
def plain_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("TINSMITH_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_without_variables_the_xdg_defaults_hold(plain_home: Path) -> None:
    assert paths.home_dir() == plain_home / ".local/share/tinsmith"
    assert paths.runs_dir() == plain_home / ".local/share/tinsmith/runs"
    assert paths.state_dir() == plain_home / ".local/share/tinsmith/state"
    assert paths.config_dir() == plain_home / ".config/tinsmith"
    assert paths.cache_dir() == plain_home / ".cache/tinsmith"


def test_xdg_variables_move_them_and_relative_ones_are_ignored(
    plain_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(plain_home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert paths.home_dir() == plain_home / "data/tinsmith"
    assert paths.cache_dir() == plain_home / ".cache/tinsmith"


def test_tinsmith_home_holds_everything(plain_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_HOME", "~/elsewhere")
    home = plain_home / "elsewhere"
    assert [paths.home_dir(), paths.runs_dir(), paths.state_dir()] == [
        home,
        home / "runs",
        home / "state",
    ]
    assert [paths.config_dir(), paths.cache_dir()] == [home / "config", home / "cache"]


def test_our_variables_come_before_their_twins_and_empty_means_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://twin/")
    monkeypatch.setenv("TINSMITH_BASE_URL", " ")
    assert environment.base_url() == "http://twin"
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://own/prefix/")
    assert environment.base_url() == "http://own/prefix"
    monkeypatch.setenv("TINKER_API_KEY", "twin")
    assert environment.api_key() == "twin"
    monkeypatch.setenv("TINSMITH_API_KEY", "own")
    assert environment.api_key() == "own"
    monkeypatch.setenv("TINSMITH_LOG", "DEBUG")
    assert environment.log_level() == "debug"


def test_an_atomic_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    paths.atomic_write_text(target, "grüße")
    paths.atomic_write_bytes(target, b"second")
    assert target.read_bytes() == b"second"
    assert os.listdir(target.parent) == ["file.txt"]


def test_a_directory_appears_only_when_its_body_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"

    def fail_half_way() -> None:
        with paths.atomic_directory(target) as partial:
            (partial / "half").write_text("x")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_half_way()
    assert os.listdir(tmp_path) == []
    with paths.atomic_directory(target) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "whole").write_text("x")
        assert not target.exists()
    assert (target / "sub" / "whole").read_text() == "x"
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_an_existing_directory_is_kept_unless_overwriting_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "old").write_text("x")
    with pytest.raises(AlreadyExistsError), paths.atomic_directory(target):
        pytest.fail("the body must not run")
    with paths.atomic_directory(target, overwrite=True) as partial:
        (partial / "new").write_text("x")
    assert os.listdir(target) == ["new"]
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_a_directory_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    with pytest.raises(AlreadyExistsError), paths.atomic_directory(target):
        target.mkdir()
    assert os.listdir(tmp_path) == ["checkpoint"]


def test_the_bundled_model_is_in_the_package() -> None:
    assert paths.bundled_model_dir().parts[-3:] == ("tinsmith", "bundled", "tiny")
