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


class SiteLora:
    """What the live snapshots add at one site, for one fixed assignment of rows to snapshots."""

    def __init__(self, pairs: Sequence[tuple[int, int, PackedPair]], num_rows: int) -> None:
        self._pairs = [(start, stop, pair.a.t(), pair.b.t()) for start, stop, pair in pairs]
        self._whole = len(pairs) == 1 and pairs[0][:2] == (0, num_rows)
        self._sources = pairs
        self._num_rows = num_rows
        self._stack: _Stack | None = None

    def add_(self, out: Tensor, x: Tensor) -> None:
        """Add the low-rank products of x [N, I] to out [N, O], one position a row."""
        if self._whole:
            _, _, a, b = self._pairs[0]
            out.addmm_(x @ a, b)
        elif len(self._pairs) == 1:
            self.add_long_(out, x, 1)
        else:
            self._add_stacked(out, x)

    def add_long_(self, out: Tensor, x: Tensor, positions: int) -> None:
        """The same for rows of several positions each, an adapter at a time."""
        for start, stop, a, b in self._pairs:
            rows = slice(start * positions, stop * positions)
            out[rows].addmm_(x[rows] @ a, b)

    def _add_stacked(self, out: Tensor, x: Tensor) -> None:
        if self._stack is None:
            self._stack = _Stack.of(self._sources, self._num_rows)
        a, b, rows, is_real = self._stack
        count = a.shape[0]
        if rows is None:
            low = torch.bmm(x.view(count, -1, x.shape[1]), a)
            out.view(count, -1, out.shape[1]).baddbmm_(low, b)
            return
        padded = x.index_select(0, rows).view(count, -1, x.shape[1])
        added = torch.bmm(torch.bmm(padded, a), b).view(-1, out.shape[1])
        out.index_add_(0, rows, added if is_real is None else added.mul_(is_real))


def stack_rows(rows: Sequence[AdapterRows], num_rows: int) -> dict[str, SiteLora]:
    """Every touched site's products for one assignment of rows to snapshots."""
    names = dict.fromkeys(name for entry in rows for name in entry.packed)
    return {
        name: SiteLora(
            [
                (entry.start, entry.stop, entry.packed[name])
                for entry in rows
                if name in entry.packed
            ],
            num_rows,
        )
        for name in names
    }


class _Stack(NamedTuple):
    """Several adapters' pairs at one site, and the padded places of their rows."""

    a: Tensor
    """[A, I, R], zero beyond each adapter's rank."""
    b: Tensor
    """[A, R, O]."""
    rows: Tensor | None
    """[A * M]: row of each place; None where rows lie as the stack wants them."""
    is_real: Tensor | None
    """[A * M, 1]: 1, or 0 for padding, which repeats a row; None without padding."""

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int, PackedPair]], num_rows: int) -> _Stack:
        rank = max(pair.a.shape[0] for _, _, pair in pairs)
        first = pairs[0][2]
        a = first.a.new_zeros(len(pairs), first.a.shape[1], rank)
        b = first.b.new_zeros(len(pairs), rank, first.b.shape[0])
        for index, (_, _, pair) in enumerate(pairs):
            a[index, :, : pair.a.shape[0]] = pair.a.t()
            b[index, : pair.a.shape[0]] = pair.b.t()
        width = max(stop - start for start, stop, _ in pairs)
        is_even = all(stop - start == width for start, stop, _ in pairs)
        if is_even and width * len(pairs) == num_rows:
            return cls(a, b, None, None)
        rows: list[int] = []
        is_real: list[float] = []
        for start, stop, _ in pairs:
            padding = width - (stop - start)
            rows += [*range(start, stop), *[start] * padding]
            is_real += [1.0] * (stop - start) + [0.0] * padding
        mask = None if all(is_real) else a.new_tensor(is_real)[:, None]
        return cls(a, b, torch.tensor(rows, device=a.device), mask)
