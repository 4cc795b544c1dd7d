"""A measurement before it is made: its name, and how.

Main names: `Measurement`, `Setting`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.models import BenchModel
from bench.results import Row

__all__ = ["Measurement", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What a group of measurements may use."""

    models: list[BenchModel]
    scratch: Path
    """A directory that is deleted at the end."""
    quick: bool
    """Fewer and smaller rounds: checks that everything runs, and gives no usable figures."""


@dataclass(frozen=True)
class Measurement:
    """One row of the table to be."""

    name: str
    model: str
    measure: Callable[[], Row]
    """May raise: the row then says why, and the run goes on."""
