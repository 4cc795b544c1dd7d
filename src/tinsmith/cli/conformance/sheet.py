"""Running the checks, and the score sheet they end in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tinsmith.cli.conformance.registry import Check, CheckFailed, NotAsked
from tinsmith.cli.conformance.server import Server

__all__ = ["Line", "Sheet", "print_sheet", "run_checks"]

Outcome = Literal["passed", "failed", "not asked"]


@dataclass(frozen=True)
class Line:
    """How one check went."""

    check: Check
    outcome: Outcome
    detail: str
    seconds: float


@dataclass(frozen=True)
class Sheet:
    """How all of them went."""

    url: str
    base_model: str
    lines: Sequence[Line]

    @property
    def score(self) -> int:
        """Points of the checks that passed."""
        return sum(line.check.points for line in self.lines if line.outcome == "passed")

    @property
    def possible(self) -> int:
        """Points of the checks that were asked."""
        return sum(line.check.points for line in self.lines if line.outcome != "not asked")

    @property
    def is_full(self) -> bool:
        """Whether nothing failed."""
        return self.score == self.possible

    def as_json(self) -> dict[str, object]:
        """The sheet as data."""
        return {
            "url": self.url,
            "base_model": self.base_model,
            "score": self.score,
            "possible": self.possible,
            "checks": [
                {
                    "name": line.check.name,
                    "title": line.check.title,
                    "proves": line.check.proves,
                    "points": line.check.points,
                    "outcome": line.outcome,
                    "detail": line.detail,
                    "seconds": round(line.seconds, 3),
                }
                for line in self.lines
            ],
        }


def run_checks(
    server: Server, checks: Sequence[Check], *, on_start: Callable[[Check], None]
) -> Sheet:
    """Run checks one after the other; a check that breaks has failed, and the next one runs."""
    lines = []
    for check in checks:
        on_start(check)
        start_s = time.monotonic()
        outcome, detail = _run(server, check)
        lines.append(Line(check, outcome, detail, time.monotonic() - start_s))
    return Sheet(server.url, server.base_model, lines)


def _run(server: Server, check: Check) -> tuple[Outcome, str]:
    try:
        check.run(server)
    except NotAsked as reason:
        return "not asked", str(reason)
    except CheckFailed as failure:
        return "failed", str(failure)
    except Exception as error:  # noqa: BLE001 - the boundary of a check: a foreign server may do anything
        return "failed", f"{type(error).__name__}: {error}"[:500]
    return "passed", ""


SIGNS = {"passed": "[green]ok  [/]", "failed": "[red]FAIL[/]", "not asked": "[dim]-   [/]"}


def print_sheet(sheet: Sheet) -> None:
    """Print the score sheet for people."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{escape(sheet.url)}, base model {escape(sheet.base_model)}")
    group = ""
    for line in sheet.lines:
        if line.check.group != group:
            group = line.check.group
            console.print(f"\n[bold]{group}[/]")
        points = "-" if line.outcome == "not asked" else str(line.check.points)
        got = "0" if line.outcome == "failed" else points
        console.print(f"{SIGNS[line.outcome]} {got:>2}/{points:2} {escape(line.check.title)}")
        if line.outcome == "failed":
            console.print(f"           {escape(line.check.name)}: {escape(line.detail)}")
            console.print(f"           not proved: {escape(line.check.proves)}")
        elif line.detail:
            console.print(f"           {escape(line.detail)}")
    console.print(f"\nscore {sheet.score} of {sheet.possible}")
