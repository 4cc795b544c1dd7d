"""Prompts into keys and values: batched where short, in chunks where long, once a prompt.

Also what is asked about prompts, which needs the output layer at every position and is therefore
taken a bounded number of logits at a time. A prompt that something is asked about runs by itself,
with weights in one layout: how float32 rounds depends on the shape of a batch, and scores that
changed with whatever else arrived would make a resumed run differ from an undisturbed one.

Shapes: B prompts, T positions of a chunk, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from tinsmith.engine.decoder import Decoder, SnapshotRows
from tinsmith.engine.kv_cache import PromptBlock
from tinsmith.engine.prompt_scores import PromptScores
from tinsmith.engine.sample_state import JobState

__all__ = ["Prefill"]

_CPU_BATCH_TOKENS = 512  # activations of more fall out of the cache
_MAX_PADDING = 1.25  # padded positions over real ones in one batch


class Prefill:
    """Runs prompts through a decoder."""

    def __init__(self, decoder: Decoder, *, max_tokens: int, max_head_rows: int) -> None:
        self._decoder = decoder
        self._max_tokens = max_tokens
        self._max_head_rows = max_head_rows

    def run_short(self, states: Sequence[JobState]) -> None:
        """Whole prompts; similar lengths share a batch, but for those that are scored."""
        limit = self._max_tokens
        if self._decoder.shape.device.type == "cpu":
            limit = min(limit, _CPU_BATCH_TOKENS)
        scored = [[state] for state in states if state.is_scored]
        for batch in scored + _batches([s for s in states if not s.is_scored], limit):
            self._run_batch(batch)

    def run_chunk(self, state: JobState, max_tokens: int) -> bool:
        """The next chunk of one long prompt; True when it was the last."""
        shape = self._decoder.shape
        if state.block is None:
            state.block = PromptBlock(shape.allocate(1, state.prompt.size))
        start = state.num_prefilled
        tokens = torch.from_numpy(state.prompt[None, start : start + max_tokens]).to(shape.device)
        rows = [SnapshotRows(0, 1, state.snapshot)]
        routing = self._decoder.route(rows, 1, steady=state.is_scored)
        hidden = self._decoder.prefill(tokens, state.block, start, routing)
        state.num_prefilled = start + tokens.shape[1]
        self._score_prompt(state, hidden[0], start)
        if state.num_prefilled < state.prompt.size:
            return False
        state.last_logits = self._decoder.logits(hidden[:, -1], routing)
        return True

    def _run_batch(self, states: Sequence[JobState]) -> None:
        states = sorted(states, key=lambda state: state.group)
        longest = max(state.prompt.size for state in states)
        tokens = np.zeros((len(states), longest), np.int64)
        for row, state in enumerate(states):
            tokens[row, : state.prompt.size] = state.prompt
        shape = self._decoder.shape
        rows = [
            SnapshotRows(members[0][0], members[-1][0] + 1, members[0][1].snapshot)
            for _, run in groupby(enumerate(states), key=lambda item: item[1].group)
            if (members := list(run))
        ]
        routing = self._decoder.route(rows, len(states), steady=states[0].is_scored)
        block = PromptBlock(shape.allocate(len(states), longest))
        hidden = self._decoder.prefill(torch.from_numpy(tokens).to(shape.device), block, 0, routing)
        ends = torch.tensor([state.prompt.size - 1 for state in states], device=shape.device)
        last = hidden[torch.arange(len(states), device=shape.device), ends]
        logits = self._decoder.logits(last, routing)
        for row, state in enumerate(states):
            state.block = block if len(states) == 1 else block.row(row, state.prompt.size)
            state.num_prefilled = state.prompt.size
            state.last_logits = logits[row : row + 1]
            self._score_prompt(state, hidden[row, : state.prompt.size], 0)

    def _score_prompt(self, state: JobState, hidden_TH: Tensor, start: int) -> None:
        """Fill in what the job asks about the prompt's tokens that these hidden states predict."""
        if not state.is_scored:
            return
        if state.scores is None:
            state.scores = PromptScores(state.job, state.prompt, state.seed)
        skipped = max(0, state.scores.first - 1 - start)
        count = min(hidden_TH.shape[0], state.prompt.size - 1 - start)
        for low in range(skipped, count, self._max_head_rows):
            rows = hidden_TH[low : min(low + self._max_head_rows, count)]
            owners = [SnapshotRows(0, len(rows), state.snapshot)]
            routing = self._decoder.route(owners, len(rows), steady=True)
            state.scores.record(self._decoder.logits(rows, routing), start + low + 1)


def _batches(states: Sequence[JobState], max_tokens: int) -> list[list[JobState]]:
    """Neighbours in length together, as long as padding stays small and the batch fits."""
    batches: list[list[JobState]] = []
    real = 0
    for state in sorted(states, key=lambda state: -state.prompt.size):
        length = state.prompt.size
        if batches:
            padded = (len(batches[-1]) + 1) * batches[-1][0].prompt.size
            if padded <= max_tokens and padded <= _MAX_PADDING * (real + length):
                batches[-1].append(state)
                real += length
                continue
        batches.append([state])
        real = length
    return batches
