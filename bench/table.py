"""Showing a report: a table for the terminal, and one for the README.

Main names: `print_report`, `write_readme`.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.results import Report, Row

__all__ = ["print_report", "write_readme"]

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
COLUMNS = ("", "model", "ours", "peer", "ratio", "target", "")


def print_report(report: Report, console: Console) -> None:
    """Print the table, and what ran where."""
    table = Table(title="Tinsmith against its peers", title_justify="left", show_lines=False)
    for index, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="right" if 2 <= index <= 5 else "left")
    for row in report.rows:
        style = {True: "green", False: "red", None: None}[row.met]
        *cells, verdict = _cells(row)
        table.add_row(*cells, f"[{style}]{verdict}[/]" if style else verdict)
    console.print(table)
    console.print(_where(report), highlight=False)
    for row in report.rows:
        if row.error is not None:
            console.print(f"failed: {row.name}, {row.model}: {row.error}", markup=False)


def write_readme(report: Report, readme: Path) -> None:
    """Put the table between the README's markers.

    Raises:
        ValueError: the markers are not there.
    """
    text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: holds no {BEGIN} ... {END}")
    lines = [
        "| | " + " | ".join(COLUMNS[1:6]) + " | |",
        "|---|---|--:|--:|--:|--:|---|",
        *("| " + " | ".join(_cells(row)) + " |" for row in report.rows),
        "",
        f"`make bench` measures this table: {_where(report)}",
    ]
    readme.write_text(
        before + "\n".join([BEGIN, *lines, END]) + after, encoding="utf-8", newline="\n"
    )


def _cells(row: Row) -> list[str]:
    verdict = "failed" if row.error else {True: "met", False: "missed", None: ""}[row.met]
    return [
        row.name,
        row.model,
        _quantity(row.ours, row.unit),
        _quantity(row.peer, row.unit),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.target is None else str(row.target),
        verdict,
    ]


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{number} {unit}"


def _where(report: Report) -> str:
    machine = report.machine
    versions = ", ".join(
        f"{name} {version}" for name, version in machine["versions"].items() if name != "tinsmith"
    )
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {versions}, "
        f"{machine['date']}, revision {machine['revision']}, {report.duration_s / 60:.1f} min."
    )
