"""How operational commands show things: tables, times and sizes for people, JSON for programs.

Main names: `Column`, `print_table`, `print_properties`, `print_json`, `relative_time`, `size_text`.
Text that came from a service is shown without its control characters, and never cut: it folds on a
terminal that is too narrow and stays on its line anywhere else.
"""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "print_json",
    "print_properties",
    "print_table",
    "relative_time",
    "safe_text",
    "size_text",
    "yes_or_no",
]

MINUTE_S, HOUR_S, DAY_S, WEEK_S = 60, 3_600, 86_400, 604_800
DAYS_SHOWN = 30
NOTHING = "-"
WIDE = 10_000
"""Columns of an output that is no terminal: no line is folded there."""


class _Unit(NamedTuple):
    seconds: int
    name: str


_UNITS = (
    _Unit(WEEK_S, "week"),
    _Unit(DAY_S, "day"),
    _Unit(HOUR_S, "hour"),
    _Unit(MINUTE_S, "minute"),
)


def print_json(value: object) -> None:
    """Print a value as JSON, indented."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their title; the first column names them."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, style="cyan" if number == 0 else None, overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe_text(cell)) for cell in row))
    console = _console()
    console.print(Text(safe_text(title)))
    if rows:
        console.print(table)


def print_properties(properties: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    from rich.text import Text

    console = _console()
    width = max(len(name) for name, _ in properties)
    for name, value in properties:
        line = Text.assemble((safe_text(name).ljust(width), "cyan"), "  ", safe_text(value))
        console.print(line, soft_wrap=True)


def relative_time(moment: datetime | None, now: datetime | None = None) -> str:
    """Say how long ago a moment was, or how far ahead it is; beyond 30 days, its date.

    Example:
        >>> start = datetime(2026, 11, 21, 12, tzinfo=UTC)
        >>> relative_time(start, start.replace(hour=15))
        '3 hours ago'
    """
    if moment is None:
        return NOTHING
    # A service that leaves out the zone means UTC.
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if abs(seconds) > DAYS_SHOWN * DAY_S:
        return moment.astimezone(UTC).strftime("%Y-%m-%d")
    unit = next((unit for unit in _UNITS if abs(seconds) >= unit.seconds), None)
    if unit is None:
        return "just now" if seconds >= 0 else "within a minute"
    count = int(abs(seconds) // unit.seconds)
    words = f"{count} {unit.name}{'' if count == 1 else 's'}"
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def size_text(num_bytes: int | None) -> str:
    """Say a size in steps of 1024.

    Example:
        >>> size_text(1_572_864)
        '1.5 MiB'
    """
    if num_bytes is None:
        return NOTHING
    if num_bytes < 1024:
        return f"{num_bytes} B"
    size = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if round(size, 1) < 1024:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} PiB"


def yes_or_no(value: object) -> str:
    """Say a truth value in a word."""
    return NOTHING if value is None else "yes" if value else "no"


def safe_text(text: str) -> str:
    """Return text with its control characters escaped: a name must not steer the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _console() -> "Console":
    from rich.console import Console

    return Console(
        highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else WIDE
    )
