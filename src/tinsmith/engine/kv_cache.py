"""Keys and values of the sequences being decoded.

`SlotCache` has one slot a row; rows are dense from 0, since a decode step reads slots [0, B) as
they lie. Slots and positions grow in buckets, so that memory and attention follow what is live
rather than what is allowed. `PromptBlock` holds one prompt's keys and values between its prefill
and the moment its samples have entered slots; samples that share a long prompt keep reading the
block instead of copying it.

Shapes: L layers, S slots, G key/value heads, P positions, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CacheShape", "PromptBlock", "SlotCache", "bucket"]

_MIN_POSITIONS = 64


def bucket(count: int, minimum: int) -> int:
    """The least `minimum` * 2**n that holds `count`, with a step at three quarters.

    Example:
        >>> [bucket(count, 64) for count in (1, 65, 97, 130)]
        [64, 96, 128, 192]
    """
    size = minimum
    while size < count:
        if size * 3 // 2 >= count and size * 3 % 2 == 0:
            return size * 3 // 2
        size *= 2
    return size


@dataclass(frozen=True)
class CacheShape:
    """What one position of one sequence takes."""

    num_layers: int
    num_heads: int
    """Key/value heads."""
    head_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_position(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.num_layers * self.num_heads * self.head_size * self.dtype.itemsize

    def allocate(self, slots: int, positions: int) -> Tensor:
        """[L, 2, S, G, P, D], zeros: what attention masks must still be finite."""
        size = (self.num_layers, 2, slots, self.num_heads, positions, self.head_size)
        return torch.zeros(size, dtype=self.dtype, device=self.device)


@dataclass(frozen=True)
class PromptBlock:
    """Keys and values of one prompt (or of several of one length being prefilled together)."""

    data: Tensor
    """[L, 2, S, G, P, D]."""

    @property
    def length(self) -> int:
        """Positions held."""
        return self.data.shape[4]

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self.data.numel() * self.data.dtype.itemsize

    def row(self, index: int, length: int) -> PromptBlock:
        """One prompt's own copy, cut to its length."""
        return PromptBlock(self.data[:, :, index : index + 1, :, :length].clone())


class SlotCache:
    """Keys and values of all rows, and the additive mask of positions that rows have."""

    def __init__(self, shape: CacheShape) -> None:
        self.shape = shape
        self.data = shape.allocate(0, 0)
        """[L, 2, S, G, P, D]."""
        self.mask = torch.empty(0, 0, dtype=shape.dtype, device=shape.device)
        """[S, P]: 0 where a slot has a position, -inf where not."""

    @property
    def num_slots(self) -> int:
        """Slots allocated."""
        return self.data.shape[2]

    @property
    def num_positions(self) -> int:
        """Positions allocated a slot."""
        return self.data.shape[4]

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return self.data.numel() * self.data.dtype.itemsize

    def reserve(self, slots: int, positions: int, *, max_slots: int) -> None:
        """Make room, keeping what is there."""
        if slots <= self.num_slots and positions <= self.num_positions:
            return
        old, old_mask = self.data, self.mask
        slots = max(self.num_slots, min(bucket(slots, 1), max(slots, max_slots)))
        positions = max(self.num_positions, bucket(positions, _MIN_POSITIONS))
        self.data = self.shape.allocate(slots, positions)
        self.mask = old_mask.new_full((slots, positions), -torch.inf)
        self.data[:, :, : old.shape[2], :, : old.shape[4]] = old
        self.mask[: old.shape[2], : old.shape[4]] = old_mask

    def clear(self) -> None:
        """Give the memory back."""
        self.data = self.shape.allocate(0, 0)
        self.mask = self.mask.new_empty(0, 0)

    def write(self, slot: int, block: PromptBlock | None) -> None:
        """Copy a prompt into a slot, which then holds it and nothing else; None empties it."""
        self.mask[slot] = -torch.inf
        if block is not None:
            self.data[:, :, slot, :, : block.length] = block.data[:, :, 0]
            self.mask[slot, : block.length] = 0

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy slots to other slots, as if all at once."""
        if not sources:
            return
        source = torch.tensor(sources, device=self.data.device)
        target = torch.tensor(targets, device=self.data.device)
        used = self._used_positions(source)
        self.data[:, :, target, :, :used] = self.data[:, :, source, :, :used]
        self.mask[target] = self.mask[source]

    def erase(self, slot: int) -> None:
        """Zero a slot whose numbers are not finite: masked positions are multiplied by 0."""
        self.data[:, :, slot] = 0

    def _used_positions(self, slots: Tensor) -> int:
        """Positions up to the last one that any of the slots has."""
        held = (self.mask[slots] == 0).any(0)
        return int(held.nonzero().max()) + 1 if bool(held.any()) else 0
