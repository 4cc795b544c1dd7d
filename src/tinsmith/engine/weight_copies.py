"""Copies of a model's matrices in layouts that products of few rows read fast, on the CPU.

Decoding reads every weight for a handful of rows, and how fast depends on the layout: for one row a
wide matrix is read about twice as fast transposed; for more rows oneDNN's packed form takes half to
three quarters of the time of the plain one. A snapshot that decodes alone also gets its low-rank
products added into its copy, which saves about a quarter of a small model's work. Copies are made
once they pay, float32 only (where merging equals separate products to rounding), and the least
recently used make room within a budget.

Shapes: N rows, I in features, O out features.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from tinsmith.engine.packed_lora import PackedPair, PackedSnapshot, Site

__all__ = ["Product", "WeightCopies", "plain_product"]

logger = logging.getLogger(__name__)

_Kind = Literal["one", "many"]

_BASE = ""
_MIN_STEPS = 8  # decode steps before a copy of the base weights is worth its making
_MAX_COUNTED = 1000  # snapshots whose steps are counted
_MIN_STEPS_ALONE = 32  # the same for merged weights of a snapshot
_MIN_COPIES_STEADY = 4  # of base and of one snapshot, for one row and for many: none drops another


class Product(Protocol):
    """One site's matrix product."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[N, I] to [N, O], plus the bias, plus `residual` if one is given."""
        ...


def plain_product(site: Site) -> Product:
    """The product with the site's weights as they lie."""
    weight, transposed, bias = site.weight, site.weight.t(), site.bias

    def multiply(x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None:
            return functional.linear(x, weight, bias)
        out = torch.addmm(residual, x, transposed)
        return out if bias is None else out.add_(bias)

    return multiply


def _one_row_product(weight: Tensor, bias: Tensor | None) -> Product:
    out_features, in_features = weight.shape
    transposed = weight.t().contiguous() if out_features >= in_features else weight.t()

    def multiply(x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None:
            return x @ transposed if bias is None else torch.addmm(bias, x, transposed)
        out = torch.addmm(residual, x, transposed)
        return out if bias is None else out.add_(bias)

    return multiply


def _many_rows_product(weight: Tensor, bias: Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    linear = torch.ops.mkldnn._linear_pointwise.default
    linear_add = torch.ops.mkldnn._linear_pointwise.binary

    def multiply(x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None:
            return linear(x, packed, bias, "none", [], "")
        return linear_add(x, residual, packed, bias, "add")

    return multiply


@lru_cache(maxsize=1)
def _has_packed_products() -> bool:
    """Whether this torch has oneDNN's packed products, and they give what they should."""
    weight, x = torch.linspace(-1, 1, 96).view(6, 16), torch.linspace(1, 3, 32).view(2, 16)
    try:
        found = _many_rows_product(weight, None)(x, x[:, :6])
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        logger.info("packed matrix products are not available: %s", error)
        return False
    return torch.allclose(found, functional.linear(x, weight) + x[:, :6], atol=1e-5)


class WeightCopies:
    """Makes, keeps and drops copies.

    Args:
        sites: all products of a model.
        max_bytes: of all copies together; less than one copy turns them off.
    """

    def __init__(self, sites: Sequence[Site], max_bytes: int) -> None:
        self._sites = sites
        weight = sites[0].weight
        size = sum(site.weight.numel() * site.weight.dtype.itemsize for site in sites)
        serves = weight.device.type == "cpu" and weight.dtype == torch.float32
        self._max_copies = max_bytes // size if serves else 0
        self._num_steps: dict[str, int] = {}
        self._copies: dict[tuple[str, _Kind], Mapping[str, Product]] = {}

    def find(
        self,
        snapshot_id: str | None,
        packed: PackedSnapshot,
        num_rows: int,
        *,
        is_step: bool = True,
    ) -> tuple[str, Mapping[str, Product]] | None:
        """Products to use now, if there are better ones than the plain.

        Args:
            snapshot_id: the snapshot of all rows, or None if there are several or none.
            packed: that snapshot's pairs.
            num_rows: rows of the products to come.
            is_step: whether this is a decode step, which counts towards making a copy; a prefill
                uses what is there.

        Returns:
            Whose weights are in the products (empty: the base model's alone), and the products.
        """
        if self._max_copies == 0:
            return None
        kind: _Kind = "one" if num_rows == 1 else "many"
        if kind == "many" and not _has_packed_products():
            return None
        if len(self._num_steps) > _MAX_COUNTED:
            self._num_steps.clear()
        owner = None
        for key, needed in ((_BASE, _MIN_STEPS), (snapshot_id, _MIN_STEPS_ALONE)):
            if key is None:
                continue
            self._num_steps[key] = self._num_steps.get(key, 0) + is_step
            if self._num_steps[key] >= needed and (is_step or (key, kind) in self._copies):
                owner = key
        if owner is None:
            return None
        return owner, self._copy(owner, kind, packed if owner else {})

    def steady(self) -> Mapping[str, Product] | None:
        """The base weights' fast products of many rows: from the first call on, or never.

        They are made again when they had to make room, and give the same bits.
        """
        if self._max_copies < _MIN_COPIES_STEADY or not _has_packed_products():
            return None
        return self._copy(_BASE, "many", {})

    def _copy(self, owner: str, kind: _Kind, packed: PackedSnapshot) -> Mapping[str, Product]:
        copy = self._copies.pop((owner, kind), None)
        if copy is None:
            while len(self._copies) >= self._max_copies:
                oldest = next(iter(self._copies))
                del self._copies[oldest]
                self._num_steps.pop(oldest[0], None)
            make = _one_row_product if kind == "one" else _many_rows_product
            copy = {
                site.names[0]: make(_merge(site, packed.get(site.names[0])), site.bias)
                for site in self._sites
            }
        self._copies[owner, kind] = copy
        return copy


def _merge(site: Site, pair: PackedPair | None) -> Tensor:
    """[O, I]: the site's weight with a snapshot's product added."""
    return site.weight if pair is None else torch.addmm(site.weight, pair.b, pair.a)
