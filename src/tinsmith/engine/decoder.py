"""The seam between the sampler and the ways to run a model over cached keys and values.

Shapes: B rows, T positions, N rows of any kind, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from tinsmith.engine.adapters import AdapterSnapshot
from tinsmith.engine.kv_cache import CacheShape, PromptBlock, SlotCache

__all__ = ["Decoder", "SnapshotRows"]


class SnapshotRows(NamedTuple):
    """Neighbouring rows of a batch that belong to one snapshot (None: the base model)."""

    start: int
    stop: int
    snapshot: AdapterSnapshot | None


class Decoder(Protocol):
    """Runs a model over prompts and over the rows of a slot cache."""

    shape: CacheShape

    def route(self, rows: Sequence[SnapshotRows], num_rows: int) -> Any:
        """What the three calls below need to know about who owns which row; reusable."""
        ...

    def prefill(self, tokens_BT: Tensor, past: PromptBlock, start: int, routing: Any) -> Tensor:
        """Hidden states [B, T, H] of positions [start, start + T) of B prompts.

        Reads positions [0, start) of `past` and writes the new ones to it. Padding at the end
        of a row does no harm: nothing before it looks at it.
        """
        ...

    def decode(
        self, tokens_B: Tensor, positions_B: Tensor, cache: SlotCache, length: int, routing: Any
    ) -> Tensor:
        """Hidden states [B, H] of one new token in each of slots [0, B).

        Writes the token's keys and values at `positions_B`, whose mask is already 0, and attends to
        the first `length` positions of every slot.
        """
        ...

    def logits(self, hidden_NH: Tensor, routing: Any) -> Tensor:
        """Logits [N, V] of hidden states with one row a routed row."""
        ...
