"""A functional decoder for the Llama-shaped families, without the module calls.

Llama, Mistral, Qwen2 and Qwen3: RMSNorm, rotary positions with whatever scaling the config asks
for, grouped-query attention with optional query/key norms and biases, SwiGLU. It reads the Hugging
Face model's own weights (query, key and value as one matrix, gate and up as one; the model's
parameters become views of these, so that nothing is held twice) and computes the same numbers with
about a third of the operations: at one token a row it is the operations that cost.

Where they go: a query/key norm's weight, the rotary sign and the attention scale are folded into
the cosine and sine factors of a step, all layers at once; residual sums ride on the products
(addmm); new keys and values reach the cache in one write.

Shapes: B rows, T positions, P cached positions, N rows times positions, H hidden, Q query heads,
G key/value heads, D head size, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tinsmith.engine.adapters import AdapterSnapshot
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.decoder import DecodeBatch, SharedPrompt, SnapshotRows
from tinsmith.engine.jobs import EngineLimits
from tinsmith.engine.kv_cache import CacheShape, PromptBlock, SlotCache
from tinsmith.engine.packed_lora import (
    AdapterRows,
    PackedSnapshot,
    Site,
    SiteLora,
    StackCache,
    pack_snapshot,
    stack_rows,
)
from tinsmith.engine.weight_copies import Product, WeightCopies, plain_product

__all__ = ["LeanDecoder"]

_FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_MAX_PACKED_BYTES = 2**30  # of snapshots kept in packed form, the live ones aside


@dataclass(frozen=True)
class _Layer:
    """Weights of one decoder layer."""

    input_norm: _NormWeight
    qkv: Site
    out: Site
    post_norm: _NormWeight
    gate_up: Site
    down: Site


@dataclass
class _Routing:
    """Who acts on a batch's rows."""

    sites: dict[str, SiteLora]
    """Low-rank products by site name."""
    solo: AdapterSnapshot | None
    """The one snapshot of all rows, if there is just one."""
    products: Mapping[str, Product]
    """Matrix products by site name."""
    is_steady: bool = False
    """Whether these products stay, whatever faster ones there are."""
    owner: str = ""
    """The snapshot whose weights are in the products already."""
    positions: int = 1
    """Positions a row in the products to come."""


class _Turns(NamedTuple):
    """Factors of rotary positions for query and key heads: x * cos + swapped halves of x * sin.

    Either of all layers, [L, N, Q + G, D], or of positions alone, [N, 1, D].
    """

    cos: Tensor
    sin: Tensor
    """Its first half negated."""
    is_folded: bool
    """Whether norm weights and the attention scale are in already, layer by layer."""


class _NormWeight(NamedTuple):
    """One RMS norm."""

    weight: Tensor
    """[H]."""
    scaled: Tensor
    """weight * sqrt(H)."""
    floor: Tensor
    """sqrt(H * eps): what a row's length is never below."""

    @classmethod
    def of(cls, weight: Tensor, eps: float) -> _NormWeight:
        width = weight.shape[0]
        return cls(weight, weight * math.sqrt(width), weight.new_tensor(math.sqrt(width * eps)))


class _CacheView(NamedTuple):
    """The live part of a slot cache."""

    key: tuple[object, ...]
    first: Tensor
    """[B, 2G]: where position 0 of each row's key and value heads lies in a layer's flat view."""
    layers: list[tuple[Tensor, ...]]
    """Of each layer: flat [2 * S * G * P, D], keys and values [B, G, P, D]."""


_Attend = Callable[[int, Tensor], Tensor]
"""From a layer's index and its queries, keys and values [N, ...] to its attention [N, Q * D]."""


class LeanDecoder:
    """Decodes one of the Llama-shaped families. Build it with `build`."""

    def __init__(
        self, base: BaseModel, layers: list[_Layer], head: Site, max_copy_bytes: int
    ) -> None:
        config = base.model.config
        trunk = base.model.model
        attention = trunk.layers[0].self_attn
        self._layers = layers
        self._head = head
        self._embedding: Tensor = trunk.embed_tokens.weight
        self._rotary = trunk.rotary_emb
        self._eps = float(config.rms_norm_eps)
        self._norm = _NormWeight.of(trunk.norm.weight, self._eps)
        self._window = _window(config, base.info.max_context_length)
        self.shares_prompts = self._window is None
        self._query_heads = int(config.num_attention_heads)
        self.shape = CacheShape(
            num_layers=len(layers),
            num_heads=int(config.num_key_value_heads),
            head_size=int(attention.head_dim),
            dtype=base.dtype,
            device=base.device,
        )
        on_cpu = base.device.type == "cpu" and base.dtype.itemsize >= 4
        self._norm_rows = self._rms_norm_on_cpu if on_cpu else self._rms_norm
        # sqrt(D * eps), as in _NormWeight; None without query and key norms.
        self._head_norm: Tensor | None = None
        if hasattr(attention, "q_norm"):
            floor = math.sqrt(self.shape.head_size * self._eps)
            self._head_norm = trunk.norm.weight.new_tensor(floor)
        self._divides_by_length = on_cpu and self._head_norm is not None
        self._cache_view: _CacheView | None = None
        self._factor_LD, self._swapped_LD = self._fold_head_norms(trunk, float(attention.scaling))
        self._sites = [site for layer in layers for site in (layer.qkv, layer.out)]
        self._sites += [site for layer in layers for site in (layer.gate_up, layer.down)]
        self._sites.append(head)
        self._packed: dict[str, PackedSnapshot] = {}
        self._stacks = StackCache()
        self._plain = {site.names[0]: plain_product(site) for site in self._sites}
        self._copies = WeightCopies(self._sites, max_copy_bytes)

    @classmethod
    def build(cls, base: BaseModel, limits: EngineLimits) -> LeanDecoder | None:
        """A decoder that shares the model's weights; None for models of other families."""
        config = base.model.config
        if base.info.arch not in _FAMILIES or config.hidden_act != "silu":
            return None
        if len(set(getattr(config, "layer_types", None) or ["full_attention"])) > 1:
            return None
        # Training reads the fused weights too, and must be able to whoever makes the sampler.
        with torch.inference_mode(mode=False), torch.no_grad():
            return cls(base, _layers_of(base), Site.fuse([base.head]), limits.max_weight_copy_bytes)

    def route(
        self, rows: Sequence[SnapshotRows], num_rows: int, *, steady: bool = False
    ) -> _Routing:
        """Pack the snapshots that are new, and stack those of this batch."""
        known = len(self._packed)
        entries = [
            AdapterRows(start, stop, self._pack(snapshot))
            for start, stop, snapshot in rows
            if snapshot is not None and stop > start
        ]
        if len(self._packed) > known:
            self._drop_packed(len(entries))
        solo = rows[0].snapshot if len(rows) == 1 and rows[0][:2] == (0, num_rows) else None
        products = (self._copies.steady() if steady else None) or self._plain
        return _Routing(stack_rows(entries, num_rows), solo, products, steady)

    def prefill(
        self, tokens_BT: Tensor, past: PromptBlock, start: int, routing: _Routing
    ) -> Tensor:
        """See `Decoder.prefill`."""
        rows, length = tokens_BT.shape
        self._use_copies(routing, rows * length, is_step=False)
        routing.positions = length
        stop = start + length
        positions = torch.arange(start, stop, device=tokens_BT.device)
        turns = self._turns(positions)
        # One row's factors serve all rows.
        turns = _Turns(turns.cos.repeat(rows, 1, 1), turns.sin.repeat(rows, 1, 1), is_folded=False)
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

        hidden = self._run(tokens_BT.reshape(-1), turns, attend, routing)
        return hidden.view(rows, length, -1)

    def decode(self, batch: DecodeBatch, cache: SlotCache, routing: _Routing) -> Tensor:
        """See `Decoder.decode`."""
        rows = batch.tokens.shape[0]
        self._use_copies(routing, rows, is_step=True)
        routing.positions = 1
        groups, size, heads = self.shape.num_heads, self.shape.head_size, self._query_heads
        view = self._view(cache, rows, batch.length)
        flat_places = (view.first + batch.places[:, None]).view(-1)
        mask = self._row_mask(batch, cache)

        def attend(index: int, qkv: Tensor) -> Tensor:
            flat, keys, values = view.layers[index]
            flat.index_copy_(0, flat_places, qkv[:, heads * size :].reshape(-1, size))
            # Query heads that share keys act as query positions: one mask fits all of them.
            query = qkv[:, : heads * size].view(rows, groups, -1, size)
            if not batch.prompts:
                out = functional.scaled_dot_product_attention(
                    query, keys, values, attn_mask=mask, scale=1.0
                )
                return out.view(rows, -1)
            parts: list[Tensor] = []
            for start, stop, block in _runs(batch.prompts, rows):
                own = keys[start:stop], values[start:stop], mask[start:stop]
                if block is None:
                    out = functional.scaled_dot_product_attention(
                        query[start:stop], own[0], own[1], attn_mask=own[2], scale=1.0
                    )
                else:
                    prompt = block.data[index, :, 0]
                    out = _attend_shared(query[start:stop], prompt, own)
                parts.append(out.view(stop - start, -1))
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        turns = self._fold(self._turns(batch.positions))
        return self._run(batch.tokens, turns, attend, routing)

    def logits(self, hidden_NH: Tensor, routing: _Routing) -> Tensor:
        """See `Decoder.logits`."""
        routing.positions = 1
        return self._multiply(self._head, hidden_NH, routing)

    def _run(self, tokens_N: Tensor, turns: _Turns, attend: _Attend, routing: _Routing) -> Tensor:
        """Hidden states [N, H] after the last norm; `attend` gives a layer's attention."""
        norm, multiply = self._norm_rows, self._multiply
        x = functional.embedding(tokens_N, self._embedding)
        for index, layer in enumerate(self._layers):
            qkv = multiply(layer.qkv, norm(x, layer.input_norm), routing)
            self._rotate_(qkv, index, turns)
            x = multiply(layer.out, attend(index, qkv), routing, x)
            gate_up = multiply(layer.gate_up, norm(x, layer.post_norm), routing)
            middle = gate_up.shape[1] // 2
            inner = functional.silu(gate_up[:, :middle]).mul_(gate_up[:, middle:])
            x = multiply(layer.down, inner, routing, x)
        return norm(x, self._norm)

    def _rms_norm(self, x: Tensor, weight: _NormWeight) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight.weight, self._eps)

    def _rms_norm_on_cpu(self, x: Tensor, weight: _NormWeight) -> Tensor:
        """RMS norm in four operations, where torch's own is a chain of twelve on the CPU."""
        root = torch.linalg.vector_norm(x, 2, -1, True)
        torch.hypot(root, weight.floor, out=root)
        return torch.div(x, root).mul_(weight.scaled)

    def _multiply(
        self, site: Site, x: Tensor, routing: _Routing, residual: Tensor | None = None
    ) -> Tensor:
        """One site's product with the low-rank ones of its rows, plus `residual`."""
        name = site.names[0]
        out = routing.products[name](x, residual)
        lora = None if routing.owner else routing.sites.get(name)
        if lora is not None and routing.positions == 1:
            lora.add_(out, x, self._stacks)
        elif lora is not None:
            lora.add_long_(out, x, routing.positions)
        return out

    def _rotate_(self, qkv: Tensor, index: int, turns: _Turns) -> None:
        """Norm, scale and rotate the query and key heads of [N, (Q + 2G) * D] in place."""
        size = self.shape.head_size
        count = self._query_heads + self.shape.num_heads
        heads = qkv[:, : count * size].view(-1, count, size)
        normed = self._norm_heads(heads)
        swapped = normed.view(-1, count, 2, size // 2).flip(2).view(-1, count, size)
        if turns.is_folded:
            cos, sin = turns.cos[index], turns.sin[index]
        else:
            cos, sin = turns.cos * self._factor_LD[index], turns.sin * self._swapped_LD[index]
        torch.mul(normed, cos, out=heads)
        if swapped.dtype == cos.dtype:
            heads.addcmul_(swapped, sin)
        else:
            heads.add_(swapped * sin)

    def _norm_heads(self, heads: Tensor) -> Tensor:
        """Normed heads, but for what the rotary factors hold of the norm.

        That is its weight and, on the CPU, sqrt(D): a division by the length is left.
        """
        if self._head_norm is None:
            return heads
        if not self._divides_by_length:
            return functional.rms_norm(heads, (heads.shape[-1],), None, self._eps)
        root = torch.linalg.vector_norm(heads, 2, -1, True)
        return torch.div(heads, torch.hypot(root, self._head_norm, out=root))

    def _turns(self, positions_N: Tensor) -> _Turns:
        """Factors of positions, as the model's own rotary module has them."""
        probe = self._factor_LD[0, :1]  # says dtype and device
        cos, sin = self._rotary(probe, positions_N[None])
        half = self.shape.head_size // 2
        sin = torch.cat((-sin[0, :, :half], sin[0, :, half:]), -1)
        return _Turns(cos[0, :, None], sin[:, None], is_folded=False)

    def _fold(self, turns: _Turns) -> _Turns:
        """The same for every layer at once, with norm weights and the attention scale in."""
        cos = turns.cos * self._factor_LD[:, None]
        return _Turns(cos, turns.sin * self._swapped_LD[:, None], is_folded=True)

    def _view(self, cache: SlotCache, rows: int, length: int) -> _CacheView:
        """Slices of the cache, made anew only when the cache or what is live of it changes."""
        key = (cache.data.data_ptr(), cache.data.shape, rows, length)
        if self._cache_view is None or self._cache_view.key != key:
            heads = torch.arange(2 * self.shape.num_heads, device=self.shape.device)
            row = torch.arange(rows, device=self.shape.device)[:, None]
            groups = self.shape.num_heads
            first = (heads // groups) * (cache.num_slots * groups) + heads % groups
            layers = [
                (layer.view(-1, layer.shape[-1]), *layer[:, :rows, :, :length].unbind(0))
                for layer in cache.data.unbind(0)
            ]
            first = (first + row * groups) * cache.num_positions
            self._cache_view = _CacheView(key, first, layers)
        return self._cache_view

    def _fold_head_norms(self, trunk: Any, scaling: float) -> tuple[Tensor, Tensor]:
        """Each layer's factors of query and key heads [L, Q + G, D], and with halves swapped."""
        size = self.shape.head_size
        # float32 at least: the attention scale must not be rounded to bfloat16.
        dtype = torch.promote_types(self.shape.dtype, torch.float32)
        # The heads' norm on the CPU leaves out sqrt(D), as `_norm_heads` says.
        root = math.sqrt(size) if self._divides_by_length else 1.0
        query = torch.full((size,), scaling * root, dtype=dtype, device=self.shape.device)
        key = torch.full_like(query, root)
        factors: list[Tensor] = []
        for layer in trunk.layers:
            norms = (1.0, 1.0)
            if self._head_norm is not None:
                norms = (layer.self_attn.q_norm.weight, layer.self_attn.k_norm.weight)
            queries = (query * norms[0]).expand(self._query_heads, size)
            keys = (key * norms[1]).expand(self.shape.num_heads, size)
            factors.append(torch.cat((queries, keys)))
        stacked = torch.stack(factors)
        return stacked, stacked.roll(size // 2, dims=-1).contiguous()

    def _row_mask(self, batch: DecodeBatch, cache: SlotCache) -> Tensor:
        """[B, 1, 1, P], additive: what each row has, and nearer than the window if there is one."""
        mask = cache.mask[: batch.tokens.shape[0], None, None, : batch.length]
        if self._window is None:
            return mask
        place = torch.arange(batch.length, device=self.shape.device)
        far = place <= batch.positions[:, None] - self._window
        return mask.masked_fill(far[:, None, None], -torch.inf)

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

    def _pack(self, snapshot: AdapterSnapshot) -> PackedSnapshot:
        packed = self._packed.pop(snapshot.id, None)
        if packed is None:
            packed = pack_snapshot(self._sites, snapshot.weights)
        self._packed[snapshot.id] = packed
        return packed

    def _drop_packed(self, live: int) -> None:
        """Forget the longest unused snapshots beyond the `live` newest and a budget."""
        size = 0
        for index, key in enumerate(reversed(list(self._packed))):
            size += sum(a.nbytes + b.nbytes for a, b in self._packed[key].values())
            if index >= live and size > _MAX_PACKED_BYTES:
                del self._packed[key]

    def _use_copies(self, routing: _Routing, num_rows: int, *, is_step: bool) -> None:
        """Let a batch use faster products, once there are any."""
        if routing.is_steady:
            return
        solo = routing.solo
        packed = {} if solo is None else self._pack(solo)
        found = self._copies.find(
            None if solo is None else solo.id, packed, num_rows, is_step=is_step
        )
        if found is not None:
            routing.owner, routing.products = found


def _layers_of(base: BaseModel) -> list[_Layer]:
    """The model's weights, fused."""
    eps = float(base.model.config.rms_norm_eps)

    def fuse(prefix: str, *names: str) -> Site:
        return Site.fuse([base.layers[f"{prefix}.{name}"] for name in names])

    return [
        _Layer(
            input_norm=_NormWeight.of(layer.input_layernorm.weight, eps),
            qkv=fuse(f"model.layers.{index}.self_attn", "q_proj", "k_proj", "v_proj"),
            out=fuse(f"model.layers.{index}.self_attn", "o_proj"),
            post_norm=_NormWeight.of(layer.post_attention_layernorm.weight, eps),
            gate_up=fuse(f"model.layers.{index}.mlp", "gate_proj", "up_proj"),
            down=fuse(f"model.layers.{index}.mlp", "down_proj"),
        )
        for index, layer in enumerate(base.model.model.layers)
    ]


def _runs(prompts: Sequence[SharedPrompt], rows: int) -> list[tuple[int, int, PromptBlock | None]]:
    """Rows [0, rows) in order: those of each shared prompt, and those between."""
    runs: list[tuple[int, int, PromptBlock | None]] = []
    done = 0
    for start, stop, block in prompts:
        if done < start:
            runs.append((done, start, None))
        runs.append((start, stop, block))
        done = stop
    if done < rows:
        runs.append((done, rows, None))
    return runs


def _attend_shared(query: Tensor, prompt: Tensor, own: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Attention of rows that share a prompt: its keys and values are read once for all of them.

    Source: Juravsky et al., "Hydragen" (2024), with one softmax over both parts.

    Args:
        query: [B, G, R, D], R queries a key head, scaled.
        prompt: [2, G, P, D], keys and values of the prompt.
        own: keys and values [B, G, S, D] of what follows, and their mask [B, 1, 1, S].
    """
    keys, values, mask = own
    rows, groups, repeats, size = query.shape
    length = prompt.shape[2]
    # All rows' queries against the prompt are one matrix a key head.
    joint = query.transpose(0, 1).reshape(groups, rows * repeats, size)
    scores = torch.bmm(joint, prompt[0].transpose(1, 2)).view(groups, rows, repeats, length)
    own_scores = torch.matmul(query, keys.transpose(2, 3)) + mask
    weights = torch.softmax(torch.cat((scores.transpose(0, 1), own_scores), -1), -1)
    joint = weights[..., :length].transpose(0, 1).reshape(groups, rows * repeats, length)
    out = torch.bmm(joint, prompt[1]).view(groups, rows, repeats, size).transpose(0, 1)
    return torch.matmul(weights[..., length:], values) + out


def _window(config: Any, max_context_length: int) -> int | None:
    """Greatest distance that attention reaches, where that is less than the context."""
    kinds = set(getattr(config, "layer_types", None) or [])
    window = getattr(config, "sliding_window", None)
    if kinds == {"full_attention"} or not isinstance(window, int) or window >= max_context_length:
        return None
    return window
