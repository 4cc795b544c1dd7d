"""The seam between the sampler and the ways to run a model over cached keys and values.

Shapes: B rows, T positions, N rows of any kind, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from tinsmith.engine.adapters import AdapterSnapshot
from tinsmith.engine.kv_cache import CacheShape, PromptBlock, SlotCache

__all__ = ["DecodeBatch", "Decoder", "SharedPrompt", "SnapshotRows"]


class SnapshotRows(NamedTuple):
    """Neighbouring rows of a batch that belong to one snapshot (None: the base model)."""

    start: int
    stop: int
    snapshot: AdapterSnapshot | None


class SharedPrompt(NamedTuple):
    """Neighbouring rows whose prompt is read from one block; their slots hold what follows it."""

    start: int
    stop: int
    block: PromptBlock


class DecodeBatch(NamedTuple):
    """One new token in each of slots [0, B)."""

    tokens: Tensor
    """[B]."""
    positions: Tensor
    """[B], in the sequence."""
    places: Tensor
    """[B], in the slot: less than the position by the length of a shared prompt."""
    length: int
    """Places of every slot to look at; the mask says which of them a row has."""
    prompts: Sequence[SharedPrompt]


class Decoder(Protocol):
    """Runs a model over prompts and over the rows of a slot cache."""

    shape: CacheShape
    shares_prompts: bool
    """Whether `decode` understands shared prompts."""

    def route(self, rows: Sequence[SnapshotRows], num_rows: int, *, steady: bool = False) -> Any:
        """What the three calls below need to know about who owns which row; reusable.

        With `steady` the results depend on the call alone, to the bit: nothing is used that comes
        and goes with what ran before.
        """
        ...

    def prefill(self, tokens_BT: Tensor, past: PromptBlock, start: int, routing: Any) -> Tensor:
        """Hidden states [B, T, H] of positions [start, start + T) of B prompts.

        Reads positions [0, start) of `past` and writes the new ones to it. Padding at the end
        of a row does no harm: nothing before it looks at it.
        """
        ...

    def decode(self, batch: DecodeBatch, cache: SlotCache, routing: Any) -> Tensor:
        """Hidden states [B, H] of the new tokens, whose keys and values enter the cache.

        The mask of the new places is 0 already.
        """
        ...

    def logits(self, hidden_NH: Tensor, routing: Any) -> Tensor:
        """Logits [N, V] of hidden states with one row a routed row."""
        ...
