"""The engine's sampler, with a broken step contained to the jobs that break it.

All running jobs share a step, so when one raises, the culprit is unknown. The jobs begin again,
first in two halves, one after the other; a half that breaks is halved again, until the culprit runs
alone and fails alone. With a seed, what the others draw is what they would have drawn.

Main name: `SampleRunner`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tinsmith.core.errors import TinsmithError
from tinsmith.engine.jobs import SampledToken, SampleJob, SampleResult
from tinsmith.server.errors import as_error

if TYPE_CHECKING:
    from tinsmith.engine.engine import Engine


class SampleRunner:
    """The jobs in an engine's sampler, and those that begin again in groups of their own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[str, SampleJob] = {}
        self._groups: deque[list[SampleJob]] = deque()
        self._streamed: set[str] = set()
        """Running jobs some of whose tokens a client has: those cannot begin again."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        # The sampler is made on first use, so an engine that only trains never pays for one.
        return bool(self._groups) or (bool(self._running) and self._engine.sampler.has_work)

    def submit(self, job: SampleJob) -> list[SampleResult]:
        """Takes a job; returns its failure if it cannot even begin."""
        if self._groups:  # it must not become a suspect
            self._groups.append([job])
            return []
        return self._begin(job)

    def cancel(self, job_id: str) -> None:
        """Forgets a job; unknown ids are ignored."""
        if self._running.pop(job_id, None) is not None:
            self._streamed.discard(job_id)
            self._engine.sampler.cancel(job_id)
            return
        groups = ([job for job in group if job.job_id != job_id] for group in self._groups)
        self._groups = deque(group for group in groups if group)

    def step(self) -> list[SampledToken | SampleResult]:
        """One step of the sampler; what streams comes before what is finished."""
        failed: list[SampleResult] = []
        if self._groups and not self._running:
            for job in self._groups.popleft():
                failed += self._begin(job)
        sampler = self._engine.sampler
        try:
            results = sampler.step()
        except Exception as exc:  # noqa: BLE001 - request boundary: the jobs' futures report it
            failed += self._contain(as_error(exc, "sample"))
            results = []
        tokens = sampler.take_tokens()
        self._streamed.update(token.job_id for token in tokens)
        for result in results:
            self._running.pop(result.job_id, None)
            self._streamed.discard(result.job_id)
        return [*tokens, *results, *failed]

    def _begin(self, job: SampleJob) -> list[SampleResult]:
        try:
            self._engine.sampler.submit(job)
        except Exception as exc:  # noqa: BLE001 - request boundary: the job's future reports it
            return [SampleResult(job.job_id, error=as_error(exc, "sample"))]
        self._running[job.job_id] = job
        return []

    def _contain(self, error: TinsmithError) -> list[SampleResult]:
        """Empties the sampler after a broken step; returns the jobs that end with it."""
        for job_id in self._running:
            self._engine.sampler.cancel(job_id)
        if self._engine.sampler.has_work:
            raise error
        jobs = list(self._running.values())
        again = [] if len(jobs) == 1 else [j for j in jobs if j.job_id not in self._streamed]
        half = (len(again) + 1) // 2
        self._groups.extendleft(group for group in (again[half:], again[:half]) if group)
        self._running.clear()
        self._streamed.clear()
        kept = {job.job_id for job in again}
        return [SampleResult(job.job_id, error=error) for job in jobs if job.job_id not in kept]
