"""A functional decoder for the Llama-shaped families, without the module calls.

Llama, Mistral, Qwen2 and Qwen3: RMSNorm, rotary positions with whatever scaling the config asks
for, grouped-query attention with optional query/key norms and biases, SwiGLU. It reads the Hugging
Face model's own weights (query, key and value as one matrix, gate and up as one; the model's
parameters become views of these, so that nothing is held twice) and computes the same numbers with
about a third of the operations: at one token a row it is the operations that cost.

Where they go: a query/key norm's weight, the rotary sign and the attention scale are folded into
the cosine and sine factors of a step, all layers at once; residual sums ride on the products
(addmm); new keys and values reach the cache in one write.

Shapes: B rows, T positions, N rows times positions, H hidden, Q query heads, G key/value heads,
D head size, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.decoder import SnapshotRows
from tinsmith.engine.kv_cache import CacheShape, PromptBlock, SlotCache
from tinsmith.engine.packed_lora import (
    AdapterRows,
    PackedSnapshot,
    Site,
    SiteLora,
    pack_snapshot,
    stack_rows,
)

__all__ = ["LeanDecoder"]

_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_MAX_PACKED = 64  # snapshots kept in packed form


@dataclass(frozen=True)
class _Layer:
    """Weights of one decoder layer."""

    input_norm: Tensor
    qkv: Site
    out: Site
    post_norm: Tensor
    gate_up: Site
    down: Site


class _Routing(NamedTuple):
    """The low-rank products of a batch's rows, by site name."""

    sites: dict[str, SiteLora]


class _Rotary(NamedTuple):
    """Factors of rotary positions for queries and keys, [N, 1, D]."""

    cos: Tensor
    sin: Tensor
    """Its first half negated: what the swapped halves are multiplied by."""


class LeanDecoder:
    """Decodes one of the Llama-shaped families. Build it with `build`."""

    def __init__(self, base: BaseModel, layers: list[_Layer], head: Site) -> None:
        config = base.model.config
        trunk = base.model.model
        attention = trunk.layers[0].self_attn
        self._layers = layers
        self._head = head
        self._embedding: Tensor = trunk.embed_tokens.weight
        self._norm: Tensor = trunk.norm.weight
        self._rotary = trunk.rotary_emb
        self._eps = float(config.rms_norm_eps)
        self._window = _window(config, base.info.max_context_length)
        self._query_heads = int(config.num_attention_heads)
        self.shape = CacheShape(
            num_layers=len(layers),
            num_heads=int(config.num_key_value_heads),
            head_size=int(attention.head_dim),
            dtype=base.dtype,
            device=base.device,
        )
        self._has_head_norm = hasattr(attention, "q_norm")
        self._factor_LD, self._swapped_LD = self._fold_head_norms(trunk, float(attention.scaling))
        self._sites = [site for layer in layers for site in (layer.qkv, layer.out)]
        self._sites += [site for layer in layers for site in (layer.gate_up, layer.down)]
        self._sites.append(head)
        self._packed: dict[str, PackedSnapshot] = {}

    @classmethod
    def build(cls, base: BaseModel) -> LeanDecoder | None:
        """A decoder that shares the model's weights; None for models of other families."""
        config = base.model.config
        if base.info.arch not in _FAMILIES or config.hidden_act != "silu":
            return None
        if len(set(getattr(config, "layer_types", None) or ["full_attention"])) > 1:
            return None

        def fuse(prefix: str, *names: str) -> Site:
            return Site.fuse([base.layers[f"{prefix}.{name}"] for name in names])

        layers = [
            _Layer(
                input_norm=layer.input_layernorm.weight,
                qkv=fuse(f"model.layers.{index}.self_attn", "q_proj", "k_proj", "v_proj"),
                out=fuse(f"model.layers.{index}.self_attn", "o_proj"),
                post_norm=layer.post_attention_layernorm.weight,
                gate_up=fuse(f"model.layers.{index}.mlp", "gate_proj", "up_proj"),
                down=fuse(f"model.layers.{index}.mlp", "down_proj"),
            )
            for index, layer in enumerate(base.model.model.layers)
        ]
        return cls(base, layers, Site.fuse([base.head]))

    def route(self, rows: Sequence[SnapshotRows], num_rows: int) -> _Routing:
        """Pack the snapshots that are new, and stack those of this batch."""
        entries = [
            AdapterRows(start, stop, self._pack(snapshot.id, snapshot.weights))
            for start, stop, snapshot in rows
            if snapshot is not None and stop > start
        ]
        return _Routing(stack_rows(entries, num_rows))

    def prefill(
        self, tokens_BT: Tensor, past: PromptBlock, start: int, routing: _Routing
    ) -> Tensor:
        """See `Decoder.prefill`."""
        rows, length = tokens_BT.shape
        stop = start + length
        positions = torch.arange(start, stop, device=tokens_BT.device)
        rotary = self._rotary_factors(positions)
        # One row's factors serve all rows.
        rotary = _Rotary(rotary.cos.repeat(rows, 1, 1), rotary.sin.repeat(rows, 1, 1))
        mask = None if start == 0 and self._window is None else self._chunk_mask(start, stop)
        groups, size = self.shape.num_heads, self.shape.head_size

        def attend(index: int, qkv: Tensor) -> Tensor:
            heads = qkv.view(rows, length, -1, size).transpose(1, 2)
            new = heads[:, self._query_heads :].unflatten(1, (2, groups)).transpose(0, 1)
            past.data[index, :, :, :, start:stop] = new
            held = past.data[index, :, :, :, :stop] if start else new
            out = functional.scaled_dot_product_attention(
                heads[:, : self._query_heads],
                held[0],
                held[1],
                attn_mask=mask,
                is_causal=mask is None,
                scale=1.0,
                enable_gqa=groups != self._query_heads,
            )
            return out.transpose(1, 2).reshape(rows * length, -1)

        hidden = self._run(tokens_BT.reshape(-1), rotary, attend, routing, length)
        return hidden.view(rows, length, -1)

    def decode(
        self,
        tokens_B: Tensor,
        positions_B: Tensor,
        cache: SlotCache,
        length: int,
        routing: _Routing,
    ) -> Tensor:
        """See `Decoder.decode`."""
        rows = tokens_B.shape[0]
        groups, size = self.shape.num_heads, self.shape.head_size
        slots, capacity = cache.num_slots, cache.num_positions
        heads = torch.arange(2 * groups, device=tokens_B.device)
        # Where each row's new keys, then values, lie in a layer's flat [2 * S * G * P, D].
        first = (heads // groups) * (slots * groups) + heads % groups
        places = torch.arange(rows, device=tokens_B.device)[:, None] * groups + first
        places = (places * capacity + positions_B[:, None]).view(-1)
        mask = cache.mask[:rows, None, None, :length]
        if self._window is not None:
            far = (
                torch.arange(length, device=tokens_B.device) <= positions_B[:, None] - self._window
            )
            mask = mask.masked_fill(far[:, None, None], -torch.inf)
        query_heads = self._query_heads

        def attend(index: int, qkv: Tensor) -> Tensor:
            heads = qkv.view(rows, -1, size)
            layer = cache.data[index]
            layer.view(-1, size).index_copy_(0, places, heads[:, query_heads:].reshape(-1, size))
            # Query heads that share keys act as query positions: one mask fits all of them.
            out = functional.scaled_dot_product_attention(
                heads[:, :query_heads].reshape(rows, groups, -1, size),
                layer[0, :rows, :, :length],
                layer[1, :rows, :, :length],
                attn_mask=mask,
                scale=1.0,
            )
            return out.view(rows, -1)

        return self._run(tokens_B, self._rotary_factors(positions_B), attend, routing, 1)

    def logits(self, hidden_NH: Tensor, routing: _Routing) -> Tensor:
        """See `Decoder.logits`."""
        return self._linear(self._head, hidden_NH, routing, 1)

    def _run(
        self, tokens_N: Tensor, rotary: _Rotary, attend: Any, routing: _Routing, positions: int
    ) -> Tensor:
        """Hidden states [N, H] after the last norm; `attend` gives a layer's attention."""
        width, eps = self._embedding.shape[1], self._eps
        x = functional.embedding(tokens_N, self._embedding)
        for index, layer in enumerate(self._layers):
            normed = functional.rms_norm(x, (width,), layer.input_norm, eps)
            qkv = self._linear(layer.qkv, normed, routing, positions)
            self._rotate_(qkv, index, rotary)
            x = self._add_linear(x, layer.out, attend(index, qkv), routing, positions)
            normed = functional.rms_norm(x, (width,), layer.post_norm, eps)
            gate, up = self._linear(layer.gate_up, normed, routing, positions).chunk(2, -1)
            x = self._add_linear(x, layer.down, functional.silu(gate).mul_(up), routing, positions)
        return functional.rms_norm(x, (width,), self._norm, eps)

    def _linear(self, site: Site, x: Tensor, routing: _Routing, positions: int) -> Tensor:
        out = functional.linear(x, site.weight, site.bias)
        self._adapt_(site, out, x, routing, positions)
        return out

    def _add_linear(
        self, residual: Tensor, site: Site, x: Tensor, routing: _Routing, positions: int
    ) -> Tensor:
        out = torch.addmm(residual, x, site.weight.t())
        if site.bias is not None:
            out += site.bias
        self._adapt_(site, out, x, routing, positions)
        return out

    def _adapt_(
        self, site: Site, out: Tensor, x: Tensor, routing: _Routing, positions: int
    ) -> None:
        lora = routing.sites.get(site.names[0])
        if lora is None:
            return
        if positions == 1:
            lora.add_(out, x)
        else:
            lora.add_long_(out, x, positions)

    def _rotate_(self, qkv: Tensor, index: int, rotary: _Rotary) -> None:
        """Norm, scale and rotate the query and key heads of [N, (Q + 2G) * D] in place."""
        size = self.shape.head_size
        heads = qkv.view(qkv.shape[0], -1, size)[:, : self._query_heads + self.shape.num_heads]
        normed = heads
        if self._has_head_norm:
            normed = functional.rms_norm(heads, (size,), None, self._eps)
        swapped = normed.unflatten(-1, (2, size // 2)).flip(-2).flatten(-2)
        rotated = normed * (rotary.cos * self._factor_LD[index])
        rotated.addcmul_(swapped, rotary.sin * self._swapped_LD[index])
        heads.copy_(rotated)

    def _rotary_factors(self, positions_N: Tensor) -> _Rotary:
        probe = self._factor_LD[:1]  # says dtype and device
        cos, sin = self._rotary(probe, positions_N[None])
        half = self.shape.head_size // 2
        sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)
        return _Rotary(cos[0, :, None], sin[:, None])

    def _fold_head_norms(self, trunk: Any, scaling: float) -> tuple[Tensor, Tensor]:
        """Each layer's factors of query and key heads [L, Q + G, D], and with halves swapped."""
        size = self.shape.head_size
        # float32 at least: the attention scale must not be rounded to bfloat16.
        dtype = torch.promote_types(self.shape.dtype, torch.float32)
        query = torch.full((size,), scaling, dtype=dtype, device=self.shape.device)
        key = torch.ones_like(query)
        factors: list[Tensor] = []
        for layer in trunk.layers:
            norms = (1.0, 1.0)
            if self._has_head_norm:
                norms = (layer.self_attn.q_norm.weight, layer.self_attn.k_norm.weight)
            queries = (query * norms[0]).expand(self._query_heads, size)
            keys = (key * norms[1]).expand(self.shape.num_heads, size)
            factors.append(torch.cat((queries, keys)))
        stacked = torch.stack(factors)
        return stacked, stacked.roll(size // 2, dims=-1).contiguous()

    def _chunk_mask(self, start: int, stop: int) -> Tensor:
        """[T, stop], additive: causal, and nearer than the window if there is one."""
        device = self.shape.device
        distance = torch.arange(start, stop, device=device)[:, None]
        distance = distance - torch.arange(stop, device=device)
        hidden = distance < 0
        if self._window is not None:
            hidden |= distance >= self._window
        zeros = torch.zeros(hidden.shape, dtype=self.shape.dtype, device=device)
        return zeros.masked_fill_(hidden, -torch.inf)

    def _pack(self, snapshot_id: str, weights: Any) -> PackedSnapshot:
        packed = self._packed.pop(snapshot_id, None)
        if packed is None:
            packed = pack_snapshot(self._sites, weights)
            while len(self._packed) >= _MAX_PACKED:
                del self._packed[next(iter(self._packed))]
        self._packed[snapshot_id] = packed
        return packed


def _window(config: Any, max_context_length: int) -> int | None:
    """Greatest distance that attention reaches, where that is less than the context."""
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if kinds == {"full_attention"} or not isinstance(window, int) or window >= max_context_length:
        return None
    return window
