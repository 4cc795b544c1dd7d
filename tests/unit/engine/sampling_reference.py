"""Running a sampler to the end, and what plain transformers + PEFT say about the same tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.unit.engine.random_models import VOCAB_SIZE
from tinsmith.engine.jobs import SampleJob, SampleResult
from tinsmith.engine.sampler import Sampler
from tinsmith.types import SampledSequence, SampleResponse, SamplingParams

MAX_STEPS = 10_000


def job(
    job_id: str,
    snapshot_id: str | None,
    prompt: Sequence[int],
    *,
    num_samples: int = 1,
    prompt_logprobs: bool = False,
    topk: int = 0,
    **params: Any,
) -> SampleJob:
    """A sampling job; it stops at nothing unless `stop` is given."""
    settings = SamplingParams(**{"max_tokens": 8, "stop": [], **params})
    return SampleJob(
        job_id, snapshot_id, list(prompt), num_samples, settings, prompt_logprobs, topk
    )


def finish(sampler: Sampler) -> dict[str, SampleResult]:
    """Step until nothing is left."""
    results: dict[str, SampleResult] = {}
    for _ in range(MAX_STEPS):
        if not sampler.has_work:
            return results
        for result in sampler.step():
            assert result.job_id not in results, "a job is answered once"
            results[result.job_id] = result
    raise AssertionError("the sampler does not come to an end")


def sample(sampler: Sampler, *jobs: SampleJob) -> list[SampleResponse]:
    """Submit jobs at once and finish them; all must succeed."""
    for each in jobs:
        sampler.submit(each)
    results = finish(sampler)
    responses: list[SampleResponse] = []
    for each in jobs:
        result = results[each.job_id]
        if result.error is not None:
            raise result.error
        assert result.response is not None
        assert len(result.response.sequences) == each.num_samples
        responses.append(result.response)
    return responses


def sample_one(sampler: Sampler, one: SampleJob) -> SampledSequence:
    """The only sequence of one job."""
    (response,) = sample(sampler, one)
    (sequence,) = response.sequences
    return sequence


def peft_model(
    model_dir: Path, adapter_dir: Path | None, dtype: torch.dtype = torch.float32
) -> Any:
    """The reference model, with an adapter directory if one is given."""
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=dtype)
    if adapter_dir is None:
        return model.eval()
    return PeftModel.from_pretrained(model, adapter_dir).eval().to(dtype)


def greedy(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """`generate` without sampling and without an end token."""
    tokens = torch.tensor([list(prompt)])
    with torch.no_grad():
        out = model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


def logprobs(model: Any, tokens: Sequence[int]) -> Tensor:
    """[T, V]: log-softmax after each token, from one plain forward pass."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return torch.log_softmax(logits.double(), -1)


def logprobs_of_sample(model: Any, prompt: Sequence[int], drawn: Sequence[int]) -> np.ndarray:
    """Logprobs of drawn tokens, each given all before it."""
    table = logprobs(model, [*prompt, *drawn])
    places = torch.arange(len(prompt) - 1, len(prompt) + len(drawn) - 1)
    return table[places, torch.tensor(list(drawn))].numpy()


def prompts(lengths: Sequence[int], *, seed: int = 0) -> list[list[int]]:
    """Random prompts."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCAB_SIZE, length).tolist() for length in lengths]
