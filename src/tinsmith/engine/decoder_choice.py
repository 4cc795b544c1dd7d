"""Which decoder serves a model: the lean one where it computes the same, else the model itself.

Either must reproduce the model's plain forward pass on a short text, in chunks of prefill and in
single steps, before it is used: what cannot be served exactly is refused rather than sampled
wrongly.
"""

from __future__ import annotations

import logging

import torch

from tinsmith.core.errors import ConfigError
from tinsmith.engine.base_model import BaseModel
from tinsmith.engine.decoder import DecodeBatch, Decoder, SnapshotRows
from tinsmith.engine.hf_decoder import HfDecoder
from tinsmith.engine.jobs import EngineLimits
from tinsmith.engine.kv_cache import PromptBlock, SlotCache
from tinsmith.engine.lean_decoder import LeanDecoder

__all__ = ["make_decoder", "reproduces"]

logger = logging.getLogger(__name__)


def make_decoder(base: BaseModel, limits: EngineLimits) -> Decoder:
    """The fastest decoder that reproduces this model.

    Raises:
        ConfigError: neither decoder does (recurrent state, uneven keys and values).
    """
    problem = "its attention is of a kind that the sampler does not know"
    for kind in (LeanDecoder, HfDecoder):
        decoder = kind.build(base, limits)
        if decoder is None:
            continue
        try:
            if reproduces(base, decoder):
                return decoder
            problem = "it does not reproduce the model's logits over cached keys and values"
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        logger.info("%s cannot serve %s: %s", kind.__name__, base.info.arch, problem)
    raise ConfigError(
        f"base_model={base.info.name!r}: architecture {base.info.arch!r} cannot be sampled: "
        f"{problem}",
        field="base_model",
        hint="training works; to sample, use a dense decoder such as Qwen3, Llama or GPT-NeoX",
    )


def reproduces(base: BaseModel, decoder: Decoder) -> bool:
    """Whether prefill and single steps give the plain forward pass's logits on a short text."""
    length, split = 10, 5
    tokens = (torch.arange(2 * length, device=base.device) * 7 + 3) % base.info.vocab_size
    tokens = tokens.view(2, length)
    with torch.inference_mode():
        expected = base.head(base.hidden_states(tokens)).float()
        routing = decoder.route([SnapshotRows(0, 2, None)], 2)
        block = PromptBlock(decoder.shape.allocate(2, split))
        hidden = [decoder.prefill(tokens[:, :3], block, 0, routing)]
        hidden.append(decoder.prefill(tokens[:, 3:split], block, 3, routing))
        cache = SlotCache(decoder.shape)
        cache.reserve(2, length, max_slots=2)
        for slot in range(2):
            cache.write(slot, block.row(slot, split))
        for position in range(split, length):
            cache.mask[:2, position] = 0
            places = torch.full((2,), position, device=base.device)
            batch = DecodeBatch(tokens[:, position], places, places, position + 1, [])
            hidden.append(decoder.decode(batch, cache, routing)[:, None])
        whole = torch.cat(hidden, 1).flatten(0, 1)
        wide = decoder.route([SnapshotRows(0, 2 * length, None)], 2 * length)
        found = decoder.logits(whole, wide).float().view_as(expected)
    # Rounding of the model's own dtype, relative to the logits' spread.
    tolerance = 100 * torch.finfo(base.dtype).eps * max(1.0, float(expected.std()))
    if base.dtype == torch.float64:
        tolerance = 1e-5  # rotary tables and norms are float32 in transformers
    return bool(((found - expected).abs().amax() <= tolerance).item())
