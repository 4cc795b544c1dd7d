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

__all__ = ["AdapterRows", "PackedPair", "Site", "SiteLora", "pack_snapshot", "stack_rows"]


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
        first = pairs[0]
        self._whole = len(pairs) == 1 and (first[0], first[1]) == (0, num_rows)
        self._stack: tuple[Tensor, Tensor] | None = None
        counts = {stop - start for start, stop, _ in pairs}
        device = first[2].a.device
        if len(pairs) > 1:
            self._stack = _stack([pair for _, _, pair in pairs])
            width = max(counts)
            covers_all = len(counts) == 1 and width * len(pairs) == num_rows
            self._gather, self._scatter = (
                (None, None) if covers_all else _padding(pairs, width, num_rows, device)
            )

    def add_(self, out: Tensor, x: Tensor) -> None:
        """Add the low-rank products of x [N, I] to out [N, O], one position a row."""
        if self._whole:
            _, _, a, b = self._pairs[0]
            out.addmm_(x @ a, b)
        elif self._stack is not None:
            self._add_stacked(out, x, *self._stack)
        else:
            self.add_long_(out, x, 1)

    def add_long_(self, out: Tensor, x: Tensor, positions: int) -> None:
        """The same for rows of several positions each, an adapter at a time."""
        for start, stop, a, b in self._pairs:
            rows = slice(start * positions, stop * positions)
            out[rows].addmm_(x[rows] @ a, b)

    def _add_stacked(self, out: Tensor, x: Tensor, a_AIR: Tensor, b_ARO: Tensor) -> None:
        count = a_AIR.shape[0]
        if self._gather is None or self._scatter is None:
            low = torch.bmm(x.view(count, -1, x.shape[1]), a_AIR)
            out.view(count, -1, out.shape[1]).baddbmm_(low, b_ARO)
            return
        padded = x.index_select(0, self._gather).view(count, -1, x.shape[1])
        added = torch.bmm(torch.bmm(padded, a_AIR), b_ARO)
        out.index_add_(0, self._gather, added.view(-1, out.shape[1]) * self._scatter)


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


def _stack(pairs: Sequence[PackedPair]) -> tuple[Tensor, Tensor]:
    """A [A, I, R] and B [A, R, O] of several snapshots, zero beyond each one's rank."""
    rank = max(pair.a.shape[0] for pair in pairs)
    first = pairs[0]
    a = first.a.new_zeros(len(pairs), first.a.shape[1], rank)
    b = first.b.new_zeros(len(pairs), rank, first.b.shape[0])
    for index, pair in enumerate(pairs):
        a[index, :, : pair.a.shape[0]] = pair.a.t()
        b[index, : pair.a.shape[0]] = pair.b.t()
    return a, b


def _padding(
    pairs: Sequence[tuple[int, int, PackedPair]], width: int, num_rows: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row of each of A * width padded places, and 1 or 0 for whether the place is real."""
    del num_rows
    rows: list[int] = []
    real: list[float] = []
    for start, stop, _ in pairs:
        padding = width - (stop - start)
        rows += [*range(start, stop), *[start] * padding]
        real += [1.0] * (stop - start) + [0.0] * padding
    kept = torch.tensor(real, device=device, dtype=pairs[0][2].a.dtype)[:, None]
    return torch.tensor(rows, device=device), kept
