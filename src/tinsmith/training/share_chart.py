"""What each term of the loss contributes and measures over a run, as a page: `shares.html`.

The data is what regularizers record: `reg/NAME/share`, the term's part of the total loss,
`reg/NAME/grad_norm_share`, the norm of its weighted gradient by that of the whole, and then
`reg/NAME/value` and the term's own metrics (an entropy, a KL), each on a chart of its own. Parts of
a loss may be negative (an entropy bonus) or above 1, and norms do not add up, so these are lines,
not stacked areas. Main names: `Panel`, `share_panels`, `share_page`, `ShareChartRecorder`.
"""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tinsmith.core.paths import atomic_write_text
from tinsmith.telemetry import read_metrics
from tinsmith.telemetry.charts import chart_points
from tinsmith.training.names import REGULARIZER_PREFIX

__all__ = ["Panel", "ShareChartRecorder", "share_page", "share_panels"]

LOSS = "loss_fn"
"""The line of the loss that the terms are added to."""

_SOURCES = (
    ("Part of the loss", "share", ("base/value", "total/loss")),
    (
        "Norm of the gradient, by that of the whole",
        "grad_norm_share",
        ("base/grad_norm", "total/grad_norm"),
    ),
)
"""Title of a chart, the metric of each term, and the two whose ratio is the loss's own."""
_BESIDES = ("base", "total")
"""Under the prefix, and no terms."""
_ABOUT_WEIGHTS = (
    "weight",
    "contribution",
    "share",
    "grad_norm",
    "grad_norm_weighted",
    "grad_norm_share",
)
"""Of each term; the rest is its value and what it measures by itself."""

_HEAD = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
svg {{ width: 100%; height: auto }} svg text {{ font-size: 12px; fill: #555 }}
table {{ border-collapse: collapse }} td, th {{ padding: .1rem .8rem .1rem 0; text-align: left }}
td {{ font-variant-numeric: tabular-nums }} .key {{ width: 1rem; height: .25rem }}
</style>
<h1>{title}</h1>
"""
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#333333")
"""Told apart by people who see fewer colours. Source: Okabe and Ito, 2008."""
_WIDTH, _HEIGHT, _MARGIN = 800, 240, 40


@dataclass(frozen=True)
class Panel:
    """One chart: lines of the loss and the terms, or one of a term.

    Attributes:
        title: What is drawn.
        lines: `(step, value)` in the order of the steps, by name; NaN where it is not a number.
        marks: Values that the axis holds and marks, whatever the lines are.
    """

    title: str
    lines: Mapping[str, Sequence[tuple[int, float]]]
    marks: Sequence[float] = (0.0, 1.0)

    def bounds(self) -> tuple[float, float]:
        """Of the axis: of the marks and all finite values; never empty."""
        values = [y for line in self.lines.values() for _, y in line if math.isfinite(y)]
        held = [*self.marks, *values] or [0.0]
        low, high = min(held), max(held)
        if low < high:
            return low, high
        around = abs(low) or 1.0  # a line that is level lies in the middle
        return low - around, high + around


def share_panels(rows: Sequence[Mapping[str, float]]) -> list[Panel]:
    """The charts of a run's metrics: contributions, gradients where norms were recorded, values.

    Args:
        rows: Of `metrics.jsonl`; those without regularizers are passed over. A run without any has
            no panels.
    """
    panels = [Panel(title, _lines(rows, key, of_loss)) for title, key, of_loss in _SOURCES]
    values = [Panel(f"{term}/{metric}", {term: line}, ()) for term, metric, line in _values(rows)]
    return [panel for panel in [*panels, *values] if panel.lines]


def share_page(panels: Sequence[Panel], title: str) -> str:
    """The charts as HTML that needs nothing else; all names are escaped."""
    drawn = "".join(map(_panel, panels)) or "<p>No step with regularizers is recorded yet.</p>\n"
    return _HEAD.format(title=html.escape(title)) + drawn


class ShareChartRecorder:
    """Draws the page of a run anew now and then while rows come, and when it is closed.

    It draws what is in the run's metrics file, so that a resumed run has one page; the recorder
    that writes that file has to come before it.

    Args:
        metrics: The file.
        page: Where the page goes; it is replaced as a whole.
        title: Its title.
        every_s: Seconds between two drawings.
    """

    def __init__(self, metrics: Path, page: Path, title: str, *, every_s: float = 30.0) -> None:
        self._metrics, self._page, self._title = metrics, page, title
        self._every_s = every_s
        self._next_s = time.monotonic() + every_s

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Draw if it is time."""
        if time.monotonic() >= self._next_s:
            self.close()

    def close(self) -> None:
        """Draw what there is."""
        panels = share_panels(read_metrics(self._metrics))
        atomic_write_text(self._page, share_page(panels, self._title))
        self._next_s = time.monotonic() + self._every_s


def _lines(
    rows: Sequence[Mapping[str, float]], key: str, of_loss: tuple[str, str]
) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    part, whole = (f"{REGULARIZER_PREFIX}{name}" for name in of_loss)
    for row in rows:
        step = int(row["step"])
        if part in row and row.get(whole):
            found.setdefault(LOSS, []).append((step, row[part] / row[whole]))
        for term, last, value in _of_terms(row):
            if last == key:
                found.setdefault(term, []).append((step, value))
    return found if any(name != LOSS for name in found) else {}


def _values(
    rows: Sequence[Mapping[str, float]],
) -> list[tuple[str, str, list[tuple[int, float]]]]:
    """Term, metric and line of each term's value and of what it measures by itself."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        for term, metric, value in _of_terms(row):
            if metric not in _ABOUT_WEIGHTS:
                found.setdefault((term, metric), []).append((int(row["step"]), value))
    return [(*names, line) for names, line in sorted(found.items())]


def _of_terms(row: Mapping[str, float]) -> Iterator[tuple[str, str, float]]:
    """Term, metric and value of what terms recorded in a row."""
    for metric, value in row.items():
        term, _, last = metric.removeprefix(REGULARIZER_PREFIX).partition("/")
        if metric.startswith(REGULARIZER_PREFIX) and term not in _BESIDES:
            yield term, last, value


def _panel(panel: Panel) -> str:
    low, high = panel.bounds()
    steps = [step for line in panel.lines.values() for step, _ in line]
    first, last = min(steps), max(steps)

    def x(step: float) -> float:
        return _MARGIN + (step - first) / max(last - first, 1) * (_WIDTH - 2 * _MARGIN)

    def y(value: float) -> float:
        return _HEIGHT - _MARGIN / 2 - (value - low) / (high - low) * (_HEIGHT - _MARGIN)

    marks = "".join(
        f'<line x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y(at):.1f}" y2="{y(at):.1f}" '
        f'stroke="#ddd"/><text x="0" y="{y(at) + 4:.1f}">{at:.4g}</text>'
        for at in sorted({low, *panel.marks, high})
    )
    marks += (
        f'<text x="{_MARGIN}" y="{_HEIGHT - 4}">step {first}</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 4}" text-anchor="end">step {last}</text>'
    )
    table = ""
    for index, (name, line) in enumerate(panel.lines.items()):
        colour, shown = _COLOURS[index % len(_COLOURS)], html.escape(name)
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in _thinned(line))
        marks += (
            f'<polyline points="{points}" stroke="{colour}" fill="none" stroke-width="1.5" '
            f'stroke-linecap="round"><title>{shown}</title></polyline>'
        )
        key = f'<svg viewBox="0 0 4 1"><rect width="4" height="1" fill="{colour}"/></svg>'
        table += f'<tr><td class="key">{key}<th>{shown}<td>{line[0][1]:.4g}<td>{line[-1][1]:.4g}'
    title = html.escape(panel.title)
    return (
        f'<h2>{title}</h2>\n<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{marks}</svg>\n'
        f"<table><tr><td><th>Term<th>First<th>Last{table}</table>\n"
    )


def _thinned(line: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """About a point a pixel, spikes kept; what is not finite is left out."""
    newest = dict(line)  # of two rows of one step the later
    steps = np.array(sorted(newest), np.int64)
    values = np.array([newest[step] for step in steps.tolist()])
    drawn = chart_points(steps, values, width=_WIDTH).line
    chosen = list(zip(drawn.steps.tolist(), drawn.values.tolist(), strict=True))
    return chosen * 2 if len(chosen) == 1 else chosen  # a line of one point would not be seen
