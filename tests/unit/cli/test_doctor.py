"""The doctor says what works, and what to do where something does not."""

import importlib.util
import json
from pathlib import Path

import pytest

from tinsmith.cli import main
from tinsmith.cli.doctor import examine


def test_a_healthy_machine_passes_every_quick_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_HOME", str(tmp_path))
    checks = {check.name: check for check in examine(base_url=None, quick=True)}
    assert [name for name, check in checks.items() if not check.works] == []
    assert str(tmp_path) in checks["state folder"].detail


def test_missing_engine_packages_come_with_the_line_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    checks = {check.name: check for check in examine(base_url=None, quick=False)}
    packages = checks["engine packages"]
    assert not packages.works
    assert packages.detail == "not installed: uvicorn"
    assert 'pip install "tinsmith[engine]"' in str(packages.cure)
    assert "embedded service" not in checks, "what cannot start is not started"


def test_a_state_folder_that_cannot_be_written_fails_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("TINSMITH_HOME", str(blocked))
    assert main(["doctor", "--quick", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert not checks["state folder"]["works"]
    assert "TINSMITH_HOME" in checks["state folder"]["cure"]


def test_a_service_that_does_not_answer_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    checks = {c.name: c for c in examine(base_url="not-an-address", quick=False)}
    service = checks["service at not-an-address"]
    assert not service.works
    assert "must start with http" in service.detail


def test_a_machine_that_uses_another_service_needs_no_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://the-box:8000")
    names = [check.name for check in examine(base_url=None, quick=True)]
    assert "engine packages" not in names
    assert "device" not in names
