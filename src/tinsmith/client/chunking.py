"""Splits the datums of one call into requests of bounded size: pure.

Main names: `ChunkLimits`, `chunk_datums`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tinsmith.types import Datum
from tinsmith.types.codec import datum_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkLimits:
    """Bounds of one forward or forward_backward request."""

    max_datums: int = 1024
    max_bytes: int = 5_000_000
    """Estimated bytes; a single datum above it travels alone."""
    max_positions: int | None = None
    """Positions of the inputs, where the answer grows with them; a longer datum travels alone."""


def chunk_datums(data: Sequence[Datum], limits: ChunkLimits) -> list[list[Datum]]:
    """Consecutive chunks, each as full as the limits allow; order is kept, none is empty."""
    chunks: list[list[Datum]] = []
    chunk: list[Datum] = []
    chunk_bytes = num_positions = 0
    max_positions = math.inf if limits.max_positions is None else limits.max_positions
    for datum in data:
        num_bytes, length = datum_bytes(datum), datum.model_input.length
        is_full = (
            len(chunk) >= limits.max_datums
            or chunk_bytes + num_bytes > limits.max_bytes
            or num_positions + length > max_positions
        )
        if chunk and is_full:
            chunks.append(chunk)
            chunk, chunk_bytes, num_positions = [], 0, 0
        chunk.append(datum)
        chunk_bytes += num_bytes
        num_positions += length
    if chunk:
        chunks.append(chunk)
    return chunks
