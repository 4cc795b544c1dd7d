"""One sampling job inside the sampler: its checked request, its prompt, its finished sequences."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.engine.adapters import AdapterSnapshot
from tinsmith.engine.jobs import BaseModelInfo, SampleJob, SampleResult
from tinsmith.engine.kv_cache import PromptBlock
from tinsmith.engine.prompt_scores import PromptScores
from tinsmith.engine.sample_options import check_sample_options
from tinsmith.engine.stopping import StopRules, StopTexts
from tinsmith.types import SampledSequence, SampleResponse

__all__ = ["JobState", "check_request"]


@dataclass
class JobState:
    """What the sampler knows about one job."""

    job: SampleJob
    snapshot: AdapterSnapshot | None
    prompt: npt.NDArray[np.int64]
    max_new: int
    """Tokens to draw at most."""
    seed: int
    """In [0, 2**64)."""
    rules: StopRules
    sequences: list[SampledSequence | None]
    block: PromptBlock | None = None
    """The prompt's keys and values, from its prefill until its samples no longer read them."""
    shares_block: bool = False
    """Whether its samples go on reading the block, instead of each copying it."""
    num_prefilled: int = 0
    last_logits: Tensor | None = None
    """[1, V], after the whole prompt."""
    scores: PromptScores | None = None
    """What the job asks about its prompt, from the first chunk of its prefill."""
    num_started: int = 0
    num_done: int = 0
    error: TinsmithError | None = None

    @property
    def group(self) -> str:
        """Rows of one group lie side by side: the snapshot's id, empty for the base model."""
        return "" if self.snapshot is None else self.snapshot.id

    @property
    def is_scored(self) -> bool:
        """Whether the job asks anything about its prompt, whose answer may not depend on others."""
        return PromptScores.are_asked_for(self.job)

    @property
    def num_in_slot(self) -> int:
        """Positions of the prompt that a sample's own slot holds."""
        return 0 if self.shares_block else self.prompt.size

    @property
    def num_waiting(self) -> int:
        """Samples that have not started."""
        return self.job.num_samples - self.num_started

    def finish(self, sample: int, sequence: SampledSequence) -> None:
        """Keep one finished sequence."""
        self.sequences[sample] = sequence
        self.num_done += 1

    def result(self) -> SampleResult:
        """The answer, once every sample is done or the job failed."""
        if self.error is not None:
            return SampleResult(self.job.job_id, error=self.error)
        sequences = [sequence for sequence in self.sequences if sequence is not None]
        scores = self.scores
        response = SampleResponse(sequences)
        if scores is not None:
            response = SampleResponse(
                sequences,
                prompt_logprobs_np=scores.prompt_logprobs,
                topk_prompt_logprobs_np=scores.topk_prompt_logprobs,
                target_prompt_logprobs=scores.target_prompt_logprobs,
                prompt_alt_tokens=scores.prompt_alt_tokens,
            )
        return SampleResult(self.job.job_id, response=response)


def check_request(
    job: SampleJob,
    info: BaseModelInfo,
    snapshots: Mapping[str, AdapterSnapshot],
    texts: StopTexts,
) -> JobState:
    """Do every check that a job can fail on before anything runs.

    Raises:
        UserError: naming the field.
    """
    params = job.params
    prompt = _check_prompt(job.prompt, info.vocab_size)
    max_new = _check_length(prompt.size, params.max_tokens, info.max_context_length)
    if job.num_samples < 1:
        raise UserError(f"num_samples={job.num_samples}: must be 1 or more", field="num_samples")
    check_sample_options(
        job, prompt_length=prompt.size, vocab_size=info.vocab_size, max_width=info.vocab_size
    )
    snapshot = None
    if job.snapshot_id is not None:
        snapshot = snapshots.get(job.snapshot_id)
        if snapshot is None:
            raise UserError(
                f"snapshot_id={job.snapshot_id!r}: not loaded",
                field="snapshot_id",
                hint="save the weights for sampling again, or load the saved ones",
            )
    seed = secrets.randbits(64) if params.seed is None else params.seed % 2**64
    return JobState(
        job=job,
        snapshot=snapshot,
        prompt=prompt,
        max_new=max_new,
        seed=seed,
        rules=StopRules.from_params(params.stop, texts),
        sequences=[None] * job.num_samples,
    )


def _check_prompt(tokens: list[int], vocab_size: int) -> npt.NDArray[np.int64]:
    if len(tokens) == 0:
        raise UserError("prompt: is empty; it must hold at least one token", field="prompt")
    prompt = np.asarray(tokens, dtype=np.int64)
    outside = np.flatnonzero((prompt < 0) | (prompt >= vocab_size))
    if outside.size:
        index = int(outside[0])
        raise UserError(
            f"prompt: token {prompt[index]} at position {index} is outside the vocabulary "
            f"0..{vocab_size - 1}",
            field="prompt",
            hint="encode the prompt with this model's tokenizer",
        )
    return prompt


def _check_length(length: int, max_tokens: int | None, context: int) -> int:
    wanted = 1 if max_tokens is None else max_tokens
    if length + wanted > context:
        raise UserError(
            "Prompt length plus max_tokens exceeds the model's context window: "
            f"{length} + {wanted} > {context}",
            field="prompt" if length >= context else "sampling_params.max_tokens",
            hint="shorten the prompt or lower max_tokens",
        )
    return context - length if max_tokens is None else max_tokens
