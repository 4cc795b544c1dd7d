"""Points that are collected one at a time, with what could not be a point counted."""

from __future__ import annotations

from collections import Counter

from tinsmith.telemetry.exchange.table import NONFINITE, Cell
from tinsmith.telemetry.model import PointColumns

__all__ = ["PointCollector"]


class PointCollector:
    """Collects points of one run; lists of plain numbers, so that a million fits in memory."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._key: list[int] = []
        self._step: list[int] = []
        self._ts_ns: list[int] = []
        self._value: list[float] = []
        self.skipped: Counter[str] = Counter()

    def add(self, key: str, step: int, ts_ns: int, value: float) -> None:
        """Add one point."""
        self._key.append(self._codes.setdefault(key, len(self._codes)))
        self._step.append(step)
        self._ts_ns.append(ts_ns)
        self._value.append(value)

    def add_cell(self, key: str, step: int, ts_ns: int, cell: Cell) -> None:
        """Add a cell of a log: numbers become points, mappings of numbers points `key/name`.

        Truth values become 0 and 1. Texts, lists and media are counted by kind, not kept.
        """
        if isinstance(cell, str) and cell in NONFINITE:
            cell = NONFINITE[cell]
        if isinstance(cell, (bool, int, float)):
            self.add(key, step, ts_ns, float(cell))
        elif isinstance(cell, dict) and "_type" not in cell:
            for name, inner in cell.items():  # pyright: ignore[reportUnknownVariableType] - a cell is what JSON can say
                self.add_cell(f"{key}/{name}", step, ts_ns, inner)
        elif cell is not None:
            self.skipped[_kind(cell)] += 1

    def columns(self) -> PointColumns:
        """Return the points."""
        return PointColumns.of(
            tuple(self._codes), self._key, self._step, self._value, ts_ns=self._ts_ns
        )


def _kind(cell: Cell) -> str:
    if isinstance(cell, dict):
        return str(cell["_type"])  # pyright: ignore[reportUnknownArgumentType] - as above
    return {"str": "text"}.get(type(cell).__name__, type(cell).__name__)
