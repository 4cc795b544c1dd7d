"""Samples share a step: one that breaks it fails alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.engine.random_models import save_random_model
from tests.unit.engine.sampling_reference import job, sample
from tests.unit.server.fakes import FakeEngine
from tinsmith.engine.engine import Engine
from tinsmith.engine.jobs import SampledToken, SampleJob, SampleResult
from tinsmith.server.sample_runner import SampleRunner
from tinsmith.types import SamplingParams


def make_job(job_id: str, *, max_tokens: int = 3) -> SampleJob:
    params = SamplingParams(max_tokens=max_tokens)
    return SampleJob(job_id=job_id, snapshot_id=None, prompt=[1], num_samples=1, params=params)


def run(runner: SampleRunner, *, at_most: int = 200) -> dict[str, SampleResult]:
    """Steps until there is nothing left to do; the results by job."""
    results: dict[str, SampleResult] = {}
    for _ in range(at_most):
        if not runner.has_work:
            return results
        for answer in runner.step():
            assert isinstance(answer, SampleResult)
            assert answer.job_id not in results
            results[answer.job_id] = answer
    raise AssertionError("it never ends")


def make_runner() -> tuple[SampleRunner, FakeEngine]:
    engine = FakeEngine()
    return SampleRunner(cast("Any", engine)), engine  # Any: the parts of an engine that it uses


@pytest.mark.parametrize("culprits", [{"s0"}, {"s6"}, {"s2", "s3"}, {f"s{i}" for i in range(7)}])
def test_only_the_jobs_that_break_a_step_fail(culprits: set[str]) -> None:
    runner, engine = make_runner()
    for index in range(7):
        assert runner.submit(make_job(f"s{index}")) == []
    assert runner.step() == []  # all goes well at first
    engine.sampler.poisonous = culprits
    results = run(runner)
    assert results.keys() == {f"s{index}" for index in range(7)}
    assert {job_id for job_id, result in results.items() if result.error is not None} == culprits


def test_what_comes_meanwhile_runs_after_the_suspects_and_can_be_cancelled() -> None:
    runner, engine = make_runner()
    engine.sampler.poisonous = {"bad"}
    for job_id in ("bad", "good"):
        runner.submit(make_job(job_id))
    assert runner.step() == []
    for job_id in ("late", "unwanted"):
        assert runner.submit(make_job(job_id)) == []
    runner.cancel("unwanted")
    results = run(runner)
    assert results.keys() == {"bad", "good", "late"}
    assert [job_id for job_id, result in results.items() if result.error is not None] == ["bad"]


def test_a_stream_whose_tokens_are_told_does_not_begin_again() -> None:
    runner, engine = make_runner()
    for job_id in ("bad", "good", "stream"):
        runner.submit(make_job(job_id))
    token = SampledToken("stream", 0, 5, -0.5)
    engine.sampler.told = [token]
    assert runner.step() == [token]
    engine.sampler.poisonous = {"bad"}
    results = run(runner)
    failed = [job_id for job_id, result in results.items() if result.error is not None]
    assert sorted(failed) == ["bad", "stream"]
    assert results["good"].response is not None


def test_the_others_draw_what_they_would_have_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(str(save_random_model(tmp_path / "model", "qwen3")))
    jobs = [job(f"s{i}", None, [i + 1, 5], num_samples=2, seed=i) for i in range(5)]
    expected = {each.job_id: sample(engine.sampler, each)[0] for each in jobs}
    sampler = engine.sampler
    decode = sampler._decode
    num_steps = 0

    def break_in_the_middle() -> None:
        nonlocal num_steps
        num_steps += 1
        if num_steps > 3 and any(e.state.job.job_id == "s2" for e in sampler._rows.live()):
            raise RuntimeError("a step with s2 in it")
        decode()

    monkeypatch.setattr(sampler, "_decode", break_in_the_middle)
    runner = SampleRunner(engine)
    for each in jobs:
        assert runner.submit(each) == []
    results = run(runner)
    assert "a step with s2 in it" in str(results.pop("s2").error)
    found = {job_id: result.response for job_id, result in results.items()}
    assert found.keys() == expected.keys() - {"s2"}
    for job_id, response in found.items():
        assert response is not None
        for ours, theirs in zip(response.sequences, expected[job_id].sequences, strict=True):
            assert ours.tokens == theirs.tokens
