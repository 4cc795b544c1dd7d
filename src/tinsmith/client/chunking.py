"""Splits the datums of one call into requests of bounded size: pure.

Main names: `ChunkLimits`, `chunk_datums`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tinsmith.types import Datum
from tinsmith.types.codec import datum_bytes


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkLimits:
    """Bounds of one forward or forward_backward request."""

    max_datums: int = 1024
    max_bytes: int = 5_000_000
    """Estimated bytes; a single datum above it travels alone."""


def chunk_datums(data: Sequence[Datum], limits: ChunkLimits) -> list[list[Datum]]:
    """Consecutive chunks, each as full as the limits allow; order is kept, none is empty."""
    chunks: list[list[Datum]] = []
    chunk: list[Datum] = []
    chunk_bytes = 0
    for datum in data:
        num_bytes = datum_bytes(datum)
        is_full = len(chunk) >= limits.max_datums or chunk_bytes + num_bytes > limits.max_bytes
        if chunk and is_full:
            chunks.append(chunk)
            chunk, chunk_bytes = [], 0
        chunk.append(datum)
        chunk_bytes += num_bytes
    if chunk:
        chunks.append(chunk)
    return chunks
