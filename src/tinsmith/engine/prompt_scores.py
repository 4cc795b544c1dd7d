"""What a job asks about its own prompt, filled in as the prompt goes through the model.

All of it is of the model's own distribution (temperature 1, no truncation), except which
alternatives are drawn: those at the job's temperature, without top-k and top-p, with replacement.

Shapes: L tokens of the prompt, N neighbouring positions of it, V vocabulary, K tokens a position.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinsmith.engine.jobs import SampleJob
from tinsmith.engine.sample_options import target_rows
from tinsmith.engine.token_choice import draw_tokens, uniforms
from tinsmith.types import EMPTY_LOGPROB, PromptAltTokens, TensorData, TopkLogprobs

__all__ = ["PromptScores"]

_ALTERNATIVE_STREAM = 2**63
"""Draw j at a position uses the random stream of sample 2**63 + j, which no sample has."""


class PromptScores:
    """Scores of one prompt; `record` takes the logits of its positions in any order.

    Args:
        job: whose options were checked.
        prompt: [L].
        seed: of the job, in [0, 2**64).
    """

    def __init__(self, job: SampleJob, prompt: npt.NDArray[np.int64], seed: int) -> None:
        self._job = job
        self._prompt = prompt
        self._seed = seed
        length = prompt.size
        last_n = job.prompt_logprobs_last_n
        self._start = 1 if last_n is None else length - last_n
        """First position with prompt logprobs."""
        self._logprobs = np.full(length, np.nan, np.float32) if job.prompt_logprobs else None
        self._best: tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None = None
        if k := job.topk_prompt_logprobs:
            table = np.full((length, k), EMPTY_LOGPROB, np.float32)
            self._best = (np.zeros((length, k), np.int32), table)
        self._drawn: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None
        if k := job.prompt_alt_tokens_k:
            shape = (length - 1, k)
            self._drawn = (np.zeros(shape, np.int64), np.zeros(shape, np.float32))
        self._targets = _Targets(job.target_prompt_logprobs) if job.target_prompt_logprobs else None

    @staticmethod
    def are_asked_for(job: SampleJob) -> bool:
        """Whether the job asks anything about its prompt."""
        return bool(
            job.prompt_logprobs
            or job.topk_prompt_logprobs
            or job.prompt_alt_tokens_k
            or job.target_prompt_logprobs
        )

    @property
    def first(self) -> int:
        """The first position that anything is asked about; those before need no logits."""
        if self._drawn is not None:
            return 1
        first = self._prompt.size
        if self._logprobs is not None or self._best is not None:
            first = self._start
        return first if self._targets is None else min(first, self._targets.first)

    def record(self, logits_NV: Tensor, first: int) -> None:
        """Score positions [first, first + N), which these logits predict."""
        logits = logits_NV if logits_NV.dtype.itemsize >= 4 else logits_NV.float()
        logprobs = torch.log_softmax(logits, -1)
        skipped = max(0, self._start - first)
        if skipped < len(logprobs):
            self._record_prompt(logprobs[skipped:], first + skipped)
        if self._targets is not None:
            self._targets.record(logprobs, first)
        if self._drawn is not None:
            self._draw(logprobs, first)

    def _record_prompt(self, logprobs: Tensor, first: int) -> None:
        places = slice(first, first + len(logprobs))
        if self._logprobs is not None:
            read = torch.from_numpy(self._prompt[places]).to(logprobs.device)
            chosen = logprobs.gather(-1, read[:, None])[:, 0].float()
            self._logprobs[places] = chosen.cpu().numpy()
        if self._best is not None:
            best = torch.topk(logprobs, self._best[0].shape[1], dim=-1)
            self._best[0][places] = best.indices.cpu().numpy()
            self._best[1][places] = best.values.float().cpu().numpy()

    def _draw(self, logprobs: Tensor, first: int) -> None:
        assert self._drawn is not None
        tokens, values = self._drawn
        shape = (len(logprobs), tokens.shape[1])
        streams = _ALTERNATIVE_STREAM + np.arange(shape[1], dtype=np.uint64)
        positions = np.arange(first, first + shape[0], dtype=np.uint64)
        seeds = np.full(shape, self._seed, np.uint64)
        uniform = uniforms(seeds, np.broadcast_to(streams, shape), positions[:, None])
        drawn = draw_tokens(logprobs, self._job.params.temperature, uniform)
        rows = slice(first - 1, first - 1 + shape[0])
        tokens[rows] = drawn.cpu().numpy()
        values[rows] = logprobs.gather(-1, drawn).float().cpu().numpy()

    @property
    def prompt_logprobs(self) -> npt.NDArray[np.float32] | None:
        """[L]; NaN where absent. None unless asked for, like the others."""
        return self._logprobs

    @property
    def topk_prompt_logprobs(self) -> TopkLogprobs | None:
        """[L, K], likeliest first; empty where absent."""
        return None if self._best is None else TopkLogprobs(*self._best)

    @property
    def target_prompt_logprobs(self) -> TensorData | None:
        """In the layout of the request; 0 in cells that ask for nothing."""
        return None if self._targets is None else self._targets.answer()

    @property
    def prompt_alt_tokens(self) -> PromptAltTokens | None:
        """[L - 1, K]; row i holds alternatives to token i + 1 of the prompt."""
        if self._drawn is None:
            return None
        return PromptAltTokens(*(TensorData.from_numpy(array) for array in self._drawn))


class _Targets:
    """Logprobs of named tokens; costs what it names, however large the tensor says it is."""

    def __init__(self, asked: TensorData) -> None:
        self._asked = asked
        tokens = asked.values.reshape(-1)
        self._named = np.flatnonzero(tokens >= 0)
        self._tokens = tokens[self._named]
        self._positions = target_rows(asked)[self._named] + 1  # rising
        self._logprobs = np.zeros(tokens.size, np.float32)

    @property
    def first(self) -> int:
        return int(self._positions[0])

    def record(self, logprobs: Tensor, first: int) -> None:
        bounds = np.searchsorted(self._positions, [first, first + len(logprobs)])
        cells = slice(*bounds.tolist())
        rows = torch.from_numpy(self._positions[cells] - first).to(logprobs.device)
        columns = torch.from_numpy(self._tokens[cells]).to(logprobs.device)
        self._logprobs[self._named[cells]] = logprobs[rows, columns].float().cpu().numpy()

    def answer(self) -> TensorData:
        asked = self._asked
        crow, columns = asked.sparse_crow_indices, asked.sparse_col_indices
        return TensorData(self._logprobs, "float32", asked.shape, crow, columns)
