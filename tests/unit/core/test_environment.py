"""What the environment says, and what a computing child is given."""

import pytest

from tinsmith.core import environment


def test_tinsmith_variables_come_before_their_tinker_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", "http://one:1/")
    monkeypatch.delenv("TINSMITH_BASE_URL", raising=False)
    assert environment.base_url() == "http://one:1"
    monkeypatch.setenv("TINSMITH_BASE_URL", "http://two:2/prefix/")
    assert environment.base_url() == "http://two:2/prefix"
    monkeypatch.setenv("TINSMITH_BASE_URL", " ")
    assert environment.base_url() == "http://one:1"


def test_a_computing_child_spins_shortly_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("SOMETHING_ELSE", "kept")
    assert environment.compute_process()["GOMP_SPINCOUNT"] == "2000"
    assert environment.compute_process()["SOMETHING_ELSE"] == "kept"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert environment.compute_process()["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "GOMP_SPINCOUNT" not in environment.compute_process()
