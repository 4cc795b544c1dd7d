"""The chart of shares: its data is what was recorded, its page needs nothing and escapes text."""

import html.parser
import json
import math
import re
from pathlib import Path

import pytest

from tests.unit.training.conftest import MakeConfig
from tests.unit.training.fakes import FakeService
from tinsmith.cli.app import main
from tinsmith.telemetry import JsonlRecorder, read_metrics
from tinsmith.training import run_supervised
from tinsmith.training.share_chart import LOSS, Panel, ShareChartRecorder, share_page, share_panels


def row(step: int, l1: float, loss: float, **norms: float) -> dict[str, float]:
    """Of a loss of 1 and a term."""
    return {
        "step": step,
        "train/nll": 1.0,
        "reg/base/value": loss - l1,
        "reg/total/loss": loss,
        "reg/l1/value": 10 * l1,
        "reg/l1/share": l1 / loss,
        **{f"reg/{name.replace('__', '/')}": value for name, value in norms.items()},
    }


def test_lines_are_the_recorded_shares_and_the_losss_own() -> None:
    norms = {"base__grad_norm": 3.0, "total__grad_norm": 4.0, "l1__grad_norm_share": 0.5}
    rows = [
        {"step": 0, "eval/nll": 2.0},
        row(1, 1.0, 4.0),
        row(2, -2.0, 4.0, **norms),
        row(3, math.nan, math.nan),
    ]
    contributions, gradients, *_ = share_panels(rows)
    assert contributions.lines["l1"][:2] == [(1, 0.25), (2, -0.5)]
    assert math.isnan(contributions.lines["l1"][2][1])
    assert contributions.lines[LOSS][:2] == [(1, 0.75), (2, 1.5)]
    assert gradients.lines == {LOSS: [(2, 0.75)], "l1": [(2, 0.5)]}
    assert share_panels([{"step": 1, "train/nll": 1.0}]) == []
    total_of_zero = {"step": 1, "reg/base/value": 1.0, "reg/total/loss": 0.0, "reg/l1/share": 0.5}
    assert list(share_panels([total_of_zero])[0].lines) == ["l1"]  # 1 / 0 is no share


def test_values_and_metrics_of_each_term_have_charts_of_their_own() -> None:
    """Of different units: an entropy of 7 nats beside a KL of 0.01 would hide it."""
    rows = [
        row(1, 1.0, 4.0, l1__weight=0.1, entropy__value=-7.0, entropy__entropy=7.0),
        row(2, 2.0, 4.0, l1__weight=0.1, entropy__value=-7.25, entropy__entropy=7.25),
        row(3, 3.0, 4.0, l1__contribution=3.0, total__regularizers=3.0),
    ]
    panels = {panel.title: panel for panel in share_panels(rows)[1:]}
    assert {title: dict(panel.lines) for title, panel in panels.items()} == {
        "entropy/entropy": {"entropy": [(1, 7.0), (2, 7.25)]},
        "entropy/value": {"entropy": [(1, -7.0), (2, -7.25)]},
        "l1/value": {"l1": [(1, 10.0), (2, 20.0), (3, 30.0)]},
    }
    page = share_page([panels["entropy/entropy"]], "run")
    assert polylines(page) == [[(40, 220), (760, 20)]]  # the axis is that of the values alone
    assert ">7.25<" in page


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ([2.0, 2.0], (0.0, 4.0)),
        ([0.0], (-1.0, 1.0)),
        ([math.nan, math.inf], (-1.0, 1.0)),
        ([-3.0, math.nan, 1e-9], (-3.0, 1e-9)),
    ],
)
def test_the_axis_of_values_is_never_empty(
    values: list[float], bounds: tuple[float, float]
) -> None:
    panel = Panel("l1/value", {"l1": list(enumerate(values))}, ())
    assert panel.bounds() == bounds
    assert "nan," not in share_page([panel], "run")


def polylines(page: str) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in points.split()]  # type: ignore[misc]
        for points in re.findall(r'<polyline points="([^"]*)"', page)
    ]


def test_points_lie_where_the_values_are() -> None:
    panel = Panel("P", {LOSS: [(1, 0.0), (3, 1.0)], "l1": [(1, 1.0), (2, 0.5), (3, math.nan)]})
    page = share_page([panel], "run")
    # 800 wide with a margin of 40, 240 high with 20 above and below: 0 at 220, 1 at 20.
    assert polylines(page) == [[(40, 220), (760, 20)], [(40, 20), (400, 120)]]
    assert ">step 1<" in page
    assert ">step 3<" in page
    assert "<td>1<td>nan" in page
    (outside,) = polylines(share_page([Panel("P", {"l1": [(0, -1.0), (1, 3.0)]})], "run"))
    assert [y for _, y in outside] == [220, 20]  # the axis holds what is below 0 and above 1


def test_a_long_run_keeps_its_spike_in_a_page_of_bounded_size() -> None:
    values = [(step, 0.1) for step in range(20_000)]
    values[7777] = (7777, 0.9)
    page = share_page([Panel("P", {"l1": values})], "run")
    (line,) = polylines(page)
    assert min(y for _, y in line) == 40.0
    assert len(page) < 50_000


class Names(html.parser.HTMLParser):
    """Every tag and every piece of text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_names_are_escaped_and_nothing_is_fetched() -> None:
    evil = "<script>alert('x')</script>\"&"
    page = share_page([Panel(evil, {evil: [(1, 0.5)]})], evil)
    parsed = Names()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert parsed.texts.count(evil) >= 4  # title, heading, chart, line and table
    assert "default-src 'none'" in page
    assert not re.search(r"(https?:|src=|href=|url\()", page)


def test_an_empty_page_says_so() -> None:
    assert "No step with regularizers is recorded yet." in share_page([], "run")


def test_the_page_is_drawn_while_the_run_goes_on(tmp_path: Path) -> None:
    page = tmp_path / "shares.html"
    metrics = JsonlRecorder(tmp_path / "metrics.jsonl")
    often = ShareChartRecorder(metrics.path, page, "run", every_s=0)
    rarely = ShareChartRecorder(metrics.path, tmp_path / "other.html", "run", every_s=1e6)
    for step in (1, 2):
        metrics.log(step, row(step, 1.0, 4.0))
        often.log(step, {})
        rarely.log(step, {})
        assert f">step {step}<" in page.read_text()
    assert not (tmp_path / "other.html").exists()
    rarely.close()
    assert (tmp_path / "other.html").read_text() == page.read_text()


def test_a_run_with_terms_has_a_page_and_the_command_draws_it(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(
        regularizers=[{"kind": "l1", "weight": 0.5}], track_grad_norms=True, max_steps=3
    )
    run_dir = run_supervised(config, service=FakeService()).run_dir
    shares = [r["reg/l1_sparsity/share"] for r in read_metrics(run_dir / "metrics.jsonl")[1:4]]
    drawn = (run_dir / "shares.html").read_text()
    # The loss and the term, by share and by gradient; the term's value and own metric.
    assert len(polylines(drawn)) == 6
    assert main(["regularizers", "chart", str(run_dir), "--json"]) == 0
    panels = json.loads(capsys.readouterr().out)["panels"]
    assert [value for _, value in panels[0]["lines"]["l1_sparsity"]] == shares
    assert [panel["title"] for panel in panels[2:]] == [
        "l1_sparsity/l1_mean",
        "l1_sparsity/value",
    ]
    assert main(["regularizers", "chart", str(run_dir), "--out", str(tmp_path / "p.html")]) == 0
    assert (tmp_path / "p.html").read_text() == drawn
    plain = make_config(run_dir=tmp_path / "plain", max_steps=1)
    run_supervised(plain, service=FakeService())
    assert not (tmp_path / "plain" / "shares.html").exists()
    capsys.readouterr()
    assert main(["regularizers", "chart", str(tmp_path / "plain")]) == 1
    assert "holds no shares of regularizers" in capsys.readouterr().err


def test_the_kinds_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["regularizers", "list", "--json"]) == 0
    kinds = json.loads(capsys.readouterr().out)["regularizers"]
    assert {"entropy", "kl", "l1"} <= set(kinds)
    assert main(["regularizers", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == kinds
