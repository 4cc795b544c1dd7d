"""`Table` and `Histogram`: data of one step, kept in events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinsmith.core.errors import UserError

__all__ = ["Histogram", "Table"]

_MAX_BINS = 512


class Table:
    """Rows under named columns.

    Args:
        columns: Their names; those of a `dataframe` by default, else Input, Output, Expected.
        data: Rows, each with a cell a column.
        dataframe: A pandas frame in place of `columns` and `data`.
    """

    def __init__(
        self,
        columns: Sequence[str] | None = None,
        data: Sequence[Sequence[object]] | None = None,
        dataframe: Any = None,  # Any: a pandas frame, without pandas here
    ) -> None:
        if dataframe is not None:
            columns = [str(name) for name in dataframe.columns]
            data = dataframe.values.tolist()
        self.columns = list(columns or ("Input", "Output", "Expected"))
        self.data: list[list[object]] = []
        for row in data if data is not None else ():
            self.add_data(*row)

    def add_data(self, *row: object) -> None:
        """Add a row.

        Raises:
            UserError: it has not one cell a column.
        """
        if len(row) != len(self.columns):
            raise UserError(
                f"Table: row {len(self.data)} has {len(row)} cells for {len(self.columns)} columns"
                f" ({', '.join(self.columns)})"
            )
        self.data.append(list(row))

    def add_column(self, name: str, data: Sequence[object]) -> None:
        """Add a column with a cell a row; the first column of an empty table makes its rows.

        Raises:
            UserError: it has not one cell a row, or its name is there already.
        """
        if name in self.columns:
            raise UserError(f"Table: column {name!r} is there already")
        if self.data and len(data) != len(self.data):
            raise UserError(f"Table: {name!r} has {len(data)} cells for {len(self.data)} rows")
        rows = self.data or [[] for _ in data]
        self.columns = [*(self.columns if self.data else []), name]
        self.data = [[*row, cell] for row, cell in zip(rows, data, strict=True)]

    def get_column(self, name: str) -> list[object]:
        """Return the cells of a column."""
        place = self.columns.index(name)
        return [row[place] for row in self.data]

    def iterrows(self) -> Iterator[tuple[int, list[object]]]:
        """Yield each row with its number."""
        yield from enumerate(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Histogram:
    """How often values fall into which bins.

    Args:
        sequence: The values; those that are not finite are left out.
        np_histogram: Counts and edges as `numpy.histogram` returns them, in place of values.
        num_bins: Number of bins, 512 at most.
    """

    def __init__(
        self,
        sequence: Any = None,  # Any: numbers in any container, tensors included
        np_histogram: tuple[Any, Any] | None = None,  # Any: arrays or lists
        num_bins: int = 64,
    ) -> None:
        if (sequence is None) == (np_histogram is None):
            raise UserError("Histogram: give either a sequence or np_histogram=(counts, edges)")
        if np_histogram is None:
            if not 1 <= num_bins <= _MAX_BINS:
                raise UserError(f"num_bins={num_bins}: must be 1..{_MAX_BINS}", field="num_bins")
            values = np.asarray(getattr(sequence, "tolist", lambda: list(sequence))(), dtype=float)
            np_histogram = np.histogram(values[np.isfinite(values)], bins=num_bins)
        counts, edges = (np.asarray(part).tolist() for part in np_histogram)
        if len(edges) != len(counts) + 1 or len(counts) > _MAX_BINS:
            raise UserError(
                f"Histogram: {len(counts)} counts need {len(counts) + 1} edges, not {len(edges)}; "
                f"at most {_MAX_BINS} counts"
            )
        self.histogram: list[float] = counts
        self.bins: list[float] = edges
