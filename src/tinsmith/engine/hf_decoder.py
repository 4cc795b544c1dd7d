"""Decoding through the Hugging Face model itself, over our slot cache.

Serves what the lean decoder does not: any dense causal LM whose layers hand keys and values of one
shape to a `Cache`. Masks are explicit and four-dimensional, positions are given, adapters act
through the model's `LoraLinear` layers. The results are the same, the speed is the modules'.

Shapes: B rows, T positions, P cached positions, G key/value heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.decoder import DecodeBatch, SnapshotRows
from tinsmith.engine.jobs import EngineLimits
from tinsmith.engine.kv_cache import CacheShape, PromptBlock, SlotCache
from tinsmith.engine.lora import Segment

__all__ = ["HfDecoder"]

_KNOWN_KINDS = {"full_attention", "sliding_attention"}


class _Window(Cache):
    """What a model's attention layers see of our cache during one forward pass."""

    def __init__(self, data: Tensor, rows: int, start: int, positions_B: Tensor | None) -> None:
        super().__init__(layers=[])
        self._data = data
        self._rows = rows
        self._start = start
        self._positions = positions_B

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return all that may be attended to."""
        del args, kwargs
        layer = self._data[layer_idx, :, : self._rows]
        length = key_states.shape[2]
        if self._positions is None:
            layer[0, :, :, self._start : self._start + length] = key_states
            layer[1, :, :, self._start : self._start + length] = value_states
            held = layer[:, :, :, : self._start + length]
        else:
            rows = torch.arange(self._rows, device=key_states.device)
            layer[0, rows, :, self._positions] = key_states[:, :, 0]
            layer[1, rows, :, self._positions] = value_states[:, :, 0]
            held = layer[:, :, :, : self._start]
        return held[0], held[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions before the new ones; models ask for it to choose their path."""
        del layer_idx
        return self._start


class HfDecoder:
    """Decodes any dense Hugging Face causal LM. Build it with `build`."""

    shares_prompts = False

    def __init__(self, base: BaseModel, shape: CacheShape) -> None:
        self._base = base
        self.shape = shape
        config = base.model.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        self._sliding = int(getattr(config, "sliding_window", None) or 0)
        self._kinds = set(kinds or ["sliding_attention" if self._sliding else "full_attention"])

    @classmethod
    def build(cls, base: BaseModel, limits: EngineLimits) -> HfDecoder | None:
        """A decoder over the model; None where its state is no plain keys and values."""
        del limits
        config = base.model.config.get_text_config()
        if set(getattr(config, "layer_types", None) or []) - _KNOWN_KINDS:
            return None
        cache = DynamicCache()
        tokens = torch.zeros(1, 1, dtype=torch.long, device=base.device)
        with torch.inference_mode():
            base.model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
        tensors = [getattr(layer, kind, None) for layer in cache.layers for kind in _HELD]
        shapes = {None if tensor is None else tuple(tensor.shape) for tensor in tensors}
        if len(shapes) != 1 or None in shapes:
            return None
        (shape,) = shapes
        assert shape is not None
        return cls(base, CacheShape(len(cache.layers), shape[1], shape[3], base.dtype, base.device))

    def route(
        self, rows: Sequence[SnapshotRows], num_rows: int, *, steady: bool = False
    ) -> tuple[Segment, ...]:
        """Segments for the model's router; its products are always the same."""
        del num_rows, steady
        return tuple(
            Segment(slice(start, stop), snapshot.weights)
            for start, stop, snapshot in rows
            if snapshot is not None
        )

    def prefill(
        self, tokens_BT: Tensor, past: PromptBlock, start: int, routing: tuple[Segment, ...]
    ) -> Tensor:
        """See `Decoder.prefill`."""
        rows, length = tokens_BT.shape
        device = tokens_BT.device
        positions = torch.arange(start, start + length, device=device)
        distance = positions[:, None] - torch.arange(start + length, device=device)
        distance = distance.expand(rows, 1, length, start + length)
        window = _Window(past.data, rows, start, None)
        return self._forward(tokens_BT, positions[None], distance, window, routing)

    def decode(self, batch: DecodeBatch, cache: SlotCache, routing: tuple[Segment, ...]) -> Tensor:
        """See `Decoder.decode`."""
        positions = batch.positions[:, None]
        distance = positions - torch.arange(batch.length, device=positions.device)
        window = _Window(cache.data, positions.shape[0], batch.length, batch.places)
        hidden = self._forward(
            batch.tokens[:, None], positions, distance[:, None, None], window, routing
        )
        return hidden[:, 0]

    def logits(self, hidden_NH: Tensor, routing: tuple[Segment, ...]) -> Tensor:
        """See `Decoder.logits`."""
        with self._base.router.use(routing):
            return self._base.head(hidden_NH)

    def _forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        distance: Tensor,
        window: _Window,
        routing: tuple[Segment, ...],
    ) -> Tensor:
        masks = {kind: self._mask(distance, kind) for kind in self._kinds}
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
        with self._base.router.use(routing):
            output = self._base.model.base_model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=window,
                use_cache=True,
            )
        return output.last_hidden_state

    def _mask(self, distance: Tensor, kind: str) -> Tensor:
        """[B, 1, T, P], additive, from how far back each key lies."""
        hidden = distance < 0
        if kind == "sliding_attention":
            hidden = hidden | (distance >= self._sliding)
        zeros = torch.zeros(distance.shape, dtype=self.shape.dtype, device=distance.device)
        return zeros.masked_fill_(hidden, torch.finfo(self.shape.dtype).min)


_HELD = ("keys", "values")
