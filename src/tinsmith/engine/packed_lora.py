"""Adapter snapshots laid out for fused projections.

A `Site` is one matrix product of the lean decoder, of one or several of the model's linear layers
side by side (query, key and value; gate and up). A snapshot's pairs become, for each site, one A
(the layers' A on top of each other) and one B (block-diagonal, scale folded in). Decoding rows of
several snapshots at once stacks these, padded to the widest rank, so that a step costs two batched
products a site however many adapters are live.

Shapes: N rows, I in features, O out features, R ranks of a site's layers together, A adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tinsmith.engine.lora import LoraLinear, LoraPair

__all__ = [
    "AdapterRows",
    "PackedPair",
    "PackedSnapshot",
    "Site",
    "SiteLora",
    "StackCache",
    "pack_snapshot",
    "stack_rows",
]


@dataclass(frozen=True)
class Site:
    """Frozen layers whose products are computed as one."""

    names: tuple[str, ...]
    weight: Tensor
    """[O, I], the layers' weights on top of each other."""
    bias: Tensor | None
    """[O]."""
    sizes: tuple[int, ...]
    """Out features of each layer."""

    @classmethod
    def fuse(cls, layers: Sequence[LoraLinear]) -> Site:
        """Join layers; their own weights become views of the joint one, so nothing is doubled."""
        names = tuple(layer.name for layer in layers)
        sizes = tuple(layer.out_features for layer in layers)
        if len(layers) == 1:
            return cls(names, layers[0].weight, layers[0].bias, sizes)
        weight = torch.cat([layer.weight for layer in layers])
        biases = [layer.bias for layer in layers]
        bias = None
        if any(bias is not None for bias in biases):
            bias = torch.cat(
                [
                    weight.new_zeros(size) if bias is None else bias
                    for bias, size in zip(biases, sizes, strict=True)
                ]
            )
        start = 0
        for layer, size in zip(layers, sizes, strict=True):
            parameter = layer.base.weight
            assert isinstance(parameter, torch.nn.Parameter)
            parameter.data = weight[start : start + size]
            start += size
        return cls(names, weight, bias, sizes)


class PackedPair(NamedTuple):
    """What a snapshot adds at one site: `x @ a.T @ b.T`."""

    a: Tensor
    """[R, I]."""
    b: Tensor
    """[O, R], scale folded in."""


PackedSnapshot = Mapping[str, PackedPair]
"""By the site's first name; a site that is absent stays as the base model has it."""


def pack_snapshot(sites: Sequence[Site], weights: Mapping[str, LoraPair]) -> PackedSnapshot:
    """Lay out one snapshot's pairs for the sites, in the sites' dtype."""
    packed: dict[str, PackedPair] = {}
    for site in sites:
        pairs = [weights.get(name) for name in site.names]
        rank = sum(pair.a.shape[0] for pair in pairs if pair is not None)
        if rank == 0:
            continue
        a = site.weight.new_empty(rank, site.weight.shape[1])
        b = site.weight.new_zeros(site.weight.shape[0], rank)
        row = column = 0
        for pair, size in zip(pairs, site.sizes, strict=True):
            if pair is not None:
                width = pair.a.shape[0]
                a[column : column + width] = pair.a
                b[row : row + size, column : column + width] = pair.b * pair.scale
                column += width
            row += size
        packed[site.names[0]] = PackedPair(a, b)
    return packed


class AdapterRows(NamedTuple):
    """Neighbouring rows of a batch and the snapshot that acts on them."""

    start: int
    stop: int
    packed: PackedSnapshot


_Owned = tuple[int, int, PackedPair]
"""Rows [start, stop) and what acts on them at one site."""


class StackCache:
    """The stacked pairs of each site, kept while the same snapshots are live."""

    def __init__(self) -> None:
        self._stacks: dict[str, tuple[tuple[PackedPair, ...], Tensor, Tensor]] = {}

    def find(self, name: str, pairs: tuple[PackedPair, ...]) -> tuple[Tensor, Tensor]:
        """A [A, I, R], zero beyond each adapter's rank, and B [A, R, O]."""
        kept = self._stacks.get(name)
        if kept is not None and _are_same(kept[0], pairs):
            return kept[1], kept[2]
        rank = max(pair.a.shape[0] for pair in pairs)
        a = pairs[0].a.new_zeros(len(pairs), pairs[0].a.shape[1], rank)
        b = pairs[0].b.new_zeros(len(pairs), rank, pairs[0].b.shape[0])
        for index, pair in enumerate(pairs):
            a[index, :, : pair.a.shape[0]] = pair.a.t()
            b[index, : pair.a.shape[0]] = pair.b.t()
        self._stacks[name] = (pairs, a, b)
        return a, b


def _are_same(ours: tuple[PackedPair, ...], theirs: tuple[PackedPair, ...]) -> bool:
    same = (one is other for one, other in zip(ours, theirs, strict=False))
    return len(ours) == len(theirs) and all(same)


class SiteLora:
    """What the live snapshots add at one site, for one fixed assignment of rows to snapshots."""

    def __init__(self, name: str, owned: Sequence[_Owned], num_rows: int) -> None:
        self._name = name
        self._owned = owned
        self._num_rows = num_rows
        self._places: _Places | None = None

    def add_(self, out: Tensor, x: Tensor, stacks: StackCache) -> None:
        """Add the low-rank products of x [N, I] to out [N, O], one position a row."""
        if len(self._owned) == 1:
            self.add_long_(out, x, 1)
            return
        if self._places is None:
            self._places = _Places.of(self._owned, self._num_rows)
        a, b = stacks.find(self._name, tuple(pair for _, _, pair in self._owned))
        rows, is_real = self._places
        if rows is None:
            low = torch.bmm(x.view(a.shape[0], -1, x.shape[1]), a)
            out.view(a.shape[0], -1, out.shape[1]).baddbmm_(low, b)
            return
        padded = x.index_select(0, rows).view(a.shape[0], -1, x.shape[1])
        added = torch.bmm(torch.bmm(padded, a), b).view(-1, out.shape[1])
        out.index_add_(0, rows, added if is_real is None else added.mul_(is_real))

    def add_long_(self, out: Tensor, x: Tensor, positions: int) -> None:
        """The same for rows of several positions each, an adapter at a time."""
        for start, stop, (a, b) in self._owned:
            rows = slice(start * positions, stop * positions)
            out[rows].addmm_(x[rows] @ a.t(), b.t())


def stack_rows(rows: Sequence[AdapterRows], num_rows: int) -> dict[str, SiteLora]:
    """Every touched site's products for one assignment of rows to snapshots."""
    names = dict.fromkeys(name for entry in rows for name in entry.packed)
    return {
        name: SiteLora(
            name,
            [
                (entry.start, entry.stop, entry.packed[name])
                for entry in rows
                if name in entry.packed
            ],
            num_rows,
        )
        for name in names
    }


class _Places(NamedTuple):
    """Where the rows of a stack's adapters are, padded to the longest run of M rows."""

    rows: Tensor | None
    """[A * M]: row of each place; None where rows lie as the stack wants them."""
    is_real: Tensor | None
    """[A * M, 1]: 1, or 0 for padding, which repeats a row; None without padding."""

    @classmethod
    def of(cls, owned: Sequence[_Owned], num_rows: int) -> _Places:
        width = max(stop - start for start, stop, _ in owned)
        is_even = all(stop - start == width for start, stop, _ in owned)
        if is_even and width * len(owned) == num_rows:
            return cls(None, None)
        rows: list[int] = []
        is_real: list[float] = []
        for start, stop, _ in owned:
            padding = width - (stop - start)
            rows += [*range(start, stop), *[start] * padding]
            is_real += [1.0] * (stop - start) + [0.0] * padding
        a = owned[0][2].a
        mask = None if all(is_real) else a.new_tensor(is_real)[:, None]
        return cls(torch.tensor(rows, device=a.device), mask)
