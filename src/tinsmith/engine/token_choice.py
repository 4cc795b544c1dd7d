"""From logits to tokens: temperature, top-k, top-p, and a random stream that nothing disturbs.

Every draw is a function of (seed, sample index, position) alone, so a sample's tokens do not depend
on its place in a batch, on its batch mates, or on when it was admitted. The uniform number is a
counter hashed by splitmix64; the token is where it falls in the cumulative distribution, taken in
vocabulary order and summed in float64.

Truncation keeps every token at least as likely as the last one that belongs: with equal
probabilities at the border all of them stay, so that the kept set never depends on a sort's whim.
The order is temperature, then top-k, then top-p over what top-k left, as in transformers.

Logprobs are those of the model itself: log-softmax of the raw logits at temperature 1, before any
truncation, which is what importance ratios compare with.

Shapes: B rows, V vocabulary, K candidates looked at for the borders, C blocks of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["BestTokens", "ChoiceSettings", "Chosen", "choose_tokens", "draw_tokens", "uniforms"]

UInt64Array = npt.NDArray[np.uint64]

_BLOCK = 128  # tokens summed at a time; the cumulative sums run over blocks, then inside one
_CANDIDATES = 256  # likeliest tokens looked at before a full sort is paid for


@dataclass(frozen=True)
class ChoiceSettings:
    """How each of B rows draws; arrays of length B."""

    temperature: npt.NDArray[np.float64]
    """0 takes the likeliest token."""
    top_k: npt.NDArray[np.int64]
    """-1 keeps all."""
    top_p: npt.NDArray[np.float64]
    """1 keeps all."""
    num_best: npt.NDArray[np.int64] | None = None
    """Likeliest tokens to report beside the chosen one; None reports none of any row."""

    def rows(self, index: npt.NDArray[np.int64] | slice) -> ChoiceSettings:
        """The settings of some rows."""
        num_best = None if self.num_best is None else self.num_best[index]
        return ChoiceSettings(
            self.temperature[index], self.top_k[index], self.top_p[index], num_best
        )


class BestTokens(NamedTuple):
    """The likeliest tokens of some rows, likeliest first, and their logprobs; NumPy."""

    tokens: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]


class Chosen(NamedTuple):
    """One token a row; NumPy, on the host."""

    tokens: npt.NDArray[np.int64]
    logprobs: npt.NDArray[np.float32]
    """NaN or -inf where the row's logits are not finite: such a row must fail."""
    best: Mapping[int, BestTokens]
    """By row, of the rows that ask for them."""


def uniforms(
    seeds: UInt64Array, samples: UInt64Array, positions: UInt64Array
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 random bits, one for each (seed, sample, position).

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), the
    splitmix64 finalizer, applied once for each part of the counter.

    Example:
        >>> one = np.array([1], dtype=np.uint64)
        >>> bool(0 <= uniforms(one, one, one)[0] < 1)
        True
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        state = _mix(seeds + golden)
        state = _mix(state ^ (samples * golden + np.uint64(0xD1B54A32D192ED03)))
        state = _mix(state + (positions + np.uint64(1)) * golden)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: UInt64Array) -> UInt64Array:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def choose_tokens(
    logits_BV: Tensor, settings: ChoiceSettings, uniform: npt.NDArray[np.float64]
) -> Chosen:
    """Draw one token a row and report its raw logprob.

    Args:
        logits_BV: raw logits of any floating dtype; not written to.
        settings: of the B rows.
        uniform: [B] in [0, 1); ignored by greedy rows.
    """
    logits = logits_BV if logits_BV.dtype.itemsize >= 4 else logits_BV.float()
    logprobs = torch.log_softmax(logits, dim=-1)
    is_greedy = settings.temperature == 0
    if is_greedy.all():
        tokens = logits.argmax(-1)
    elif is_greedy.any():
        tokens = logits.argmax(-1)
        drawn = np.flatnonzero(~is_greedy)
        index = torch.from_numpy(drawn).to(logits.device)
        picked = _draw(logits[index], settings.rows(drawn), uniform[drawn])
        tokens[index] = picked
    else:
        tokens = _draw(logprobs, settings, uniform)
    chosen = logprobs.gather(-1, tokens[:, None])[:, 0].float()
    best = {} if settings.num_best is None else _best_tokens(logprobs, settings.num_best)
    return Chosen(tokens.cpu().numpy(), chosen.cpu().numpy(), best)


def _best_tokens(logprobs: Tensor, counts: npt.NDArray[np.int64]) -> dict[int, BestTokens]:
    rows = np.flatnonzero(counts)
    asked = logprobs[torch.from_numpy(rows).to(logprobs.device)]
    values, tokens = torch.topk(asked, int(counts.max()), dim=-1)
    tables = zip(tokens.int().cpu().numpy(), values.float().cpu().numpy(), strict=True)
    return {
        row: BestTokens(best[: counts[row]], logprob[: counts[row]])
        for row, (best, logprob) in zip(rows.tolist(), tables, strict=True)
    }


def draw_tokens(
    logprobs_NV: Tensor, temperature: float, uniform_NK: npt.NDArray[np.float64]
) -> Tensor:
    """K independent draws [N, K] from each row, tempered and not truncated.

    Args:
        logprobs_NV: or logits, in float32 or wider.
        temperature: 0 takes the likeliest, K times.
        uniform_NK: in [0, 1).
    """
    if temperature == 0:
        return logprobs_NV.argmax(-1, keepdim=True).expand(uniform_NK.shape)
    shifted = logprobs_NV - logprobs_NV.amax(-1, keepdim=True)
    sums = _BlockSums(torch.softmax(shifted / temperature, dim=-1))
    uniform = torch.from_numpy(uniform_NK).to(logprobs_NV.device)
    return torch.stack([sums.invert(column) for column in uniform.unbind(1)], 1)


def _draw(logits: Tensor, settings: ChoiceSettings, uniform: npt.NDArray[np.float64]) -> Tensor:
    """Tokens [B] by inverting the cumulative distribution; `logits` may be shifted by rows."""
    is_truncated = (settings.top_k > 0) & (settings.top_k < logits.shape[-1])
    is_truncated |= settings.top_p < 1
    if not (settings.temperature == 1).all():
        # The greatest logit becomes 0 first: a tiny temperature must not overflow.
        scale = torch.from_numpy(1 / settings.temperature).to(logits)[:, None]
        logits = (logits - logits.amax(-1, keepdim=True)) * scale
    if is_truncated.any():
        index = np.flatnonzero(is_truncated)
        rows = torch.from_numpy(index).to(logits.device)
        kept = logits[rows]
        border = _borders(kept, settings.rows(index))
        logits = logits.index_copy(0, rows, kept.masked_fill_(kept < border, -torch.inf))
    # Without a truncation logprobs at temperature 1 are normalized already; exp of a shifted row
    # is enough either way, since the draw scales with the row's total.
    weights = torch.softmax(logits, dim=-1)
    return _BlockSums(weights).invert(torch.from_numpy(uniform).to(logits.device))


class _BlockSums:
    """Cumulative weights of B rows, kept for any number of draws."""

    def __init__(self, weights_BV: Tensor) -> None:
        rows, self._vocab = weights_BV.shape
        padding = -self._vocab % _BLOCK
        padded = functional.pad(weights_BV, (0, padding)) if padding else weights_BV
        self._blocks = padded.view(rows, -1, _BLOCK)
        self._cumulative_BC = self._blocks.sum(-1, dtype=torch.float64).cumsum(-1)

    def invert(self, uniform_B: Tensor) -> Tensor:
        """The first token whose cumulative weight exceeds uniform * total, summed in float64."""
        blocks, cumulative_BC = self._blocks, self._cumulative_BC
        target = uniform_B.to(torch.float64)[:, None] * cumulative_BC[:, -1:]
        block = torch.searchsorted(cumulative_BC, target, right=True)
        block.clamp_(max=cumulative_BC.shape[1] - 1)
        rows = torch.arange(len(blocks), device=blocks.device)
        inside = blocks[rows, block[:, 0]].to(torch.float64)
        ends = inside.cumsum(-1)
        # What is left of the target inside the block; rounding may push it over either edge, where
        # tokens of no weight lie.
        before = cumulative_BC.gather(1, block) - ends[:, -1:]
        offset = torch.searchsorted(ends, (target - before).clamp_(min=0), right=True)
        last = (inside > 0) * torch.arange(_BLOCK, device=blocks.device)
        offset = torch.minimum(offset, last.amax(-1, keepdim=True))
        return (block * _BLOCK + offset)[:, 0].clamp_(max=self._vocab - 1)


def _borders(logits: Tensor, settings: ChoiceSettings) -> Tensor:
    """[B, 1]: the least logit that top-k and top-p keep."""
    vocab = logits.shape[-1]
    top_k = torch.from_numpy(np.where(settings.top_k > 0, settings.top_k, vocab)).to(logits.device)
    top_k = top_k.clamp(max=vocab)[:, None]
    top_p = torch.from_numpy(settings.top_p).to(logits.device)[:, None]
    limited = settings.top_k[settings.top_k > 0]
    count = min(vocab, max(_CANDIDATES, int(limited.max()) if limited.size else 0))
    while True:
        best = torch.topk(logits, count, dim=-1).values
        border, is_found = _borders_among(logits, best, top_k, top_p)
        if count == vocab or bool(is_found.all()):
            return border
        count = vocab


def _borders_among(
    logits: Tensor, best_BK: Tensor, top_k: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Borders as seen in the K likeliest tokens, and whether these K were enough."""
    vocab, count = logits.shape[-1], best_BK.shape[-1]
    k_border = best_BK.gather(-1, (top_k - 1).clamp(max=count - 1))
    k_border = torch.where(top_k < vocab, k_border, -torch.inf)
    greatest = best_BK[:, :1].to(torch.float64)
    weights = (best_BK.to(torch.float64) - greatest).exp_().masked_fill_(best_BK < k_border, 0.0)
    everything = (logits.to(torch.float64) - greatest).exp_()
    total = everything.masked_fill_(logits < k_border, 0.0).sum(-1, keepdim=True)
    # A token stays while the ones before it do not reach p.
    reached = weights.cumsum(-1) >= top_p * total
    is_found = reached.any(-1, keepdim=True) | (top_p >= 1) | (top_k < count)
    last = torch.where(reached.any(-1, keepdim=True), reached.int().argmax(-1, keepdim=True), -1)
    p_border = torch.where(last >= 0, best_BK.gather(-1, last.clamp(min=0)), -torch.inf)
    p_border = torch.where(top_p < 1, p_border, -torch.inf)
    return torch.maximum(k_border, p_border), is_found
