"""Tokens told as they are drawn are those of the result, in their order, and stop with the job."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.engine import sampling_reference as ref
from tests.unit.engine.sampling_reference import job
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import EngineLimits, SampledToken, SampleJob, SampleResult
from tinsmith.engine.sampler import Sampler


@pytest.fixture
def sampler(model_dir: Path) -> Sampler:
    engine = Engine(str(model_dir))
    return Sampler(engine.base, engine.snapshots, EngineLimits(max_decode_rows=3))


def streamed(one: SampleJob) -> SampleJob:
    return replace(one, stream=True)


def run(sampler: Sampler, *jobs: SampleJob) -> tuple[list[list[SampledToken]], list[SampleResult]]:
    """What was told in each step, and the results."""
    for each in jobs:
        sampler.submit(each)
    told: list[list[SampledToken]] = []
    results: list[SampleResult] = []
    while sampler.has_work:
        results += sampler.step()
        told.append(sampler.take_tokens())
    return told, results


def test_what_is_told_is_the_result(sampler: Sampler) -> None:
    prompts = ref.prompts([4, 9, 6])
    long = job("a", None, prompts[0], num_samples=4, seed=1, temperature=1.5, max_tokens=9)
    one = streamed(job("b", None, prompts[1], seed=2, max_tokens=1))
    (expected,) = ref.sample(sampler, long)
    stop = expected.sequences[2].tokens[4]  # ends some of them early
    long = streamed(job("a", None, prompts[0], num_samples=4, seed=1, temperature=1.5, stop=[stop]))
    silent = job("c", None, prompts[2], num_samples=2)
    told, results = run(sampler, long, one, silent)
    by_sequence: dict[tuple[str, int], list[SampledToken]] = defaultdict(list)
    for token in (token for step in told for token in step):
        by_sequence[token.job_id, token.sample].append(token)
    assert sorted(by_sequence) == [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0)]
    responses = {result.job_id: result.response for result in results}
    reasons = set()
    for (job_id, sample), tokens in by_sequence.items():
        response = responses[job_id]
        assert response is not None
        sequence = response.sequences[sample]
        assert [token.token for token in tokens] == sequence.tokens
        assert [token.logprob for token in tokens] == sequence.logprobs
        assert [token.stop_reason for token in tokens[:-1]] == [None] * (len(tokens) - 1)
        assert tokens[-1].stop_reason == sequence.stop_reason
        reasons.add(sequence.stop_reason)
    assert reasons == {"stop", "length"}


def test_a_token_is_told_in_the_step_that_draws_it(sampler: Sampler) -> None:
    told, _ = run(sampler, streamed(job("a", None, [3, 4], max_tokens=6)))
    assert [len(step) for step in told] == [2, 1, 1, 1, 1]  # the first step prefills as well


def test_a_cancelled_job_tells_nothing_more(sampler: Sampler) -> None:
    sampler.submit(streamed(job("a", None, [3, 4], num_samples=3, max_tokens=50)))
    sampler.step()
    sampler.cancel("a")
    assert sampler.take_tokens() == []
    assert not sampler.has_work
    told, results = run(sampler, streamed(job("b", None, [3, 4], num_samples=3, max_tokens=3)))
    assert {token.job_id for step in told for token in step} == {"b"}
    assert [result.job_id for result in results] == ["b"]


def test_a_job_whose_logits_break_tells_no_broken_token(sampler: Sampler) -> None:
    logits = sampler._decoder.logits
    calls: list[int] = []

    def breaking(hidden: torch.Tensor, routing: object) -> torch.Tensor:
        calls.append(1)
        found = logits(hidden, routing)
        return found if len(calls) < 4 else torch.full_like(found, torch.nan)

    sampler._decoder.logits = breaking  # type: ignore[method-assign]
    told, (result,) = run(sampler, streamed(job("a", None, [3, 4], max_tokens=50)))
    assert sum(len(step) for step in told) == 3
    assert result.error is not None
