"""Lines in the terminal: one row of blocks, or a chart of Braille dots with its axes."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["number_text", "sparkline", "terminal_chart"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_NONFINITE = "×"
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of a Braille cell


def number_text(value: float | None, digits: int = 4) -> str:
    """Say a number in few characters.

    Example:
        >>> [number_text(x) for x in (0.123456, 1234567.0, math.nan, None)]
        ['0.1235', '1.235e+06', 'nan', '-']
    """
    if value is None:
        return "-"
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.{digits}g}"


def sparkline(values: NDArray[np.float64], width: int = 24) -> str:
    """Draw values in one row; a cell shows the extreme of its values that lies furthest off.

    A cell with a value that is not finite is a cross: it must be seen.

    Example:
        >>> sparkline(np.array([0.0, 1.0, 2.0, math.nan]), width=4)
        '▁▅█×'
    """
    if len(values) == 0:
        return ""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return _NONFINITE * min(width, len(values))
    low, spread = float(finite.min()), float(np.ptp(finite)) or 1.0
    middle = float(np.median(finite))
    cells = np.array_split(values, min(width, len(values)))
    drawn: list[str] = []
    for cell in cells:
        if not np.isfinite(cell).all():
            drawn.append(_NONFINITE)
            continue
        height = (float(cell[np.abs(cell - middle).argmax()]) - low) / spread
        drawn.append(_BLOCKS[round(height * (len(_BLOCKS) - 1))])
    return "".join(drawn)


def terminal_chart(
    steps: NDArray[np.int64], values: NDArray[np.float64], *, width: int = 72, height: int = 10
) -> list[str]:
    """Draw a line over steps: lines of text, `width` cells of dots wide and `height` high.

    Every column shows its whole range, so that no spike is lost; values that are not finite are
    crosses on the top line, and the line is broken there.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return [f"{len(values)} values, none of them finite"]
    shown = values[finite]
    low, high = float(shown.min()), float(shown.max())
    first, last = int(steps[0]), int(steps[-1])
    span, spread = (last - first) or 1, (high - low) or 1.0
    columns = ((steps - first) / span * (2 * width - 1)).round().astype(int)
    dots = np.zeros((4 * height, 2 * width), dtype=np.bool_)
    for piece in np.split(np.arange(len(values)), np.flatnonzero(np.diff(finite)) + 1):
        if finite[piece[0]]:
            rows = ((values[piece] - low) / spread * (4 * height - 1)).round().astype(int)
            _draw(dots, columns[piece], rows)
    crosses = {int(column) // 2 for column in columns[~finite]}
    labels = {0: number_text(high), height - 1: number_text(low)}
    margin = max(map(len, labels.values()))
    lines: list[str] = []
    for row in range(height):
        cells = _cells(dots[4 * row : 4 * row + 4])
        if row == 0:
            cells = [_NONFINITE if at in crosses else cell for at, cell in enumerate(cells)]
        lines.append(f"{labels.get(row, ''):>{margin}} ┤{''.join(cells)}")
    left, right = f"step {first}", str(last)
    lines.append(f"{'':>{margin}} └{'─' * width}")
    lines.append(f"{'':>{margin}}  {left}{right:>{max(width - len(left), len(right) + 1)}}")
    return lines


def _draw(dots: NDArray[np.bool_], columns: NDArray[np.intp], rows: NDArray[np.intp]) -> None:
    """Set the dots of a line: each column from its lowest to its highest value, joined up."""
    top = len(dots) - 1
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(columns)], strict=True):
        column, here = int(columns[start]), rows[start:end]
        dots[top - int(here.max()) : top - int(here.min()) + 1, column] = True
        if start:
            before = int(columns[start - 1])
            count = max(column - before, abs(int(rows[start]) - int(rows[start - 1]))) + 1
            across = np.linspace(before, column, count).round().astype(int)
            along = np.linspace(int(rows[start - 1]), int(rows[start]), count).round().astype(int)
            dots[top - along, across] = True


def _cells(dots: NDArray[np.bool_]) -> list[str]:
    """Return one row of Braille cells of four rows of dots."""
    pairs = dots.reshape(4, -1, 2).astype(np.int32)
    codes = (pairs * np.array(_DOTS)[:, None, :]).sum(axis=(0, 2))
    return [chr(0x2800 + code) for code in codes.tolist()]
