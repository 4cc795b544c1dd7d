"""The command's edges that need no server; tests/interop runs the checks."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from tinsmith.cli import main
from tinsmith.cli.conformance.closed_forms import CLOSED_FORMS
from tinsmith.cli.conformance.registry import (
    Check,
    CheckFailed,
    NotAsked,
    add,
    all_checks,
    expect_close,
)
from tinsmith.cli.conformance.sheet import Line, Sheet, print_sheet, run_checks
from tinsmith.cli.conformance.wire import Wire
from tinsmith.core.errors import ConfigError


def test_without_the_official_client_the_line_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tinker" else found(name)
    )
    assert main(["conformance", "http://127.0.0.1:9"]) == 1
    assert 'pip install "tinsmith[conformance]"' in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "ftp://127.0.0.1", "127.0.0.1:8000"])
def test_an_address_where_nobody_answers_is_refused_at_once(url: str) -> None:
    # The official client would try for minutes.
    with pytest.raises(ConfigError, match=f"url='{url}': no answer: ") as caught:
        Wire(url, "tml-key", timeout_s=5).check_reachable()
    assert "http://127.0.0.1:8000" in (caught.value.hint or "")


def test_the_list_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--list", "--json", "--only", "losses.*"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {each["name"].split(".")[0] for each in listed} == {"losses"}
    assert main(["conformance", "--list"]) == 0
    assert "tenants.keep_their_weights" in capsys.readouterr().out


def test_a_pattern_that_names_no_check_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--list", "--only", "loses.*"]) == 2
    assert "--list" in capsys.readouterr().err


@pytest.mark.parametrize("loss_fn", sorted(CLOSED_FORMS))
def test_the_weights_are_the_derivative_of_the_losses(loss_fn: str) -> None:
    rng = np.random.default_rng(1)
    config = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2, "beta": 0.3}
    lp, h = -rng.random(40) * 5, 1e-6
    inputs = {
        "weights": rng.normal(size=40),
        "advantages": rng.normal(size=40),
        "logprobs": lp + 0.4 * rng.normal(size=40),
        "sequence_ratio_mask": np.ones(40),
    }
    form = CLOSED_FORMS[loss_fn]
    slope = (form(lp + h, inputs, config).losses - form(lp - h, inputs, config).losses) / (2 * h)
    # cispo's ratio is a constant of its gradient, which a difference quotient cannot see; gspo's
    # moves as it should when all tokens move at once.
    expected = form(lp, inputs, config).weights
    if loss_fn == "cispo":
        ratio = np.clip(np.exp(lp - inputs["logprobs"]), 0.8, 1.2)
        np.testing.assert_allclose(expected, ratio * inputs["advantages"])
    else:
        np.testing.assert_allclose(-slope, expected, atol=1e-5)


def test_differences_name_the_worst_value() -> None:
    expect_close([1.0, 2.0], [1.0, 2.05], atol=0.1, what="x")
    for found in ([1.0, 2.5], [1.0, np.nan], [1.0]):
        with pytest.raises(CheckFailed, match="x: "):
            expect_close(found, [1.0, 2.0], atol=0.1, what="x")


class FakeServer:
    url, base_model = "http://here", "m"


def _raises(error: Exception) -> Check:
    def run(_: object) -> None:
        raise error

    return Check("losses.x", "Title", "proof", 3, run)


def test_the_sheet_counts_what_passed_of_what_was_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checks = [
        Check("losses.good", "Good", "proof", 2, lambda _: None),
        _raises(CheckFailed("too large")),
        _raises(NotAsked("give more")),
        _raises(OSError("gone")),
    ]
    sheet = run_checks(FakeServer(), checks, on_start=lambda _: None)  # type: ignore[arg-type]
    assert [line.outcome for line in sheet.lines] == ["passed", "failed", "not asked", "failed"]
    assert (sheet.score, sheet.possible, sheet.is_full) == (2, 8, False)
    assert json.loads(json.dumps(sheet.as_json()))["score"] == 2
    print_sheet(sheet)
    shown = capsys.readouterr().out
    for text in ("too large", "not proved: proof", "give more", "OSError: gone", "score 2 of 8"):
        assert text in shown
    assert Sheet("u", "m", [Line(checks[0], "passed", "", 0.1)]).is_full


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        add(all_checks()[0])
