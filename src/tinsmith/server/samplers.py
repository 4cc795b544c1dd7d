"""Sampling sessions: a base model or one immutable snapshot each, and the samples on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from tinsmith.core.errors import ServerError, TinsmithError, UserError
from tinsmith.engine.jobs import SampledToken, SampleJob, SampleResult
from tinsmith.server.checkpoints import parse_checkpoint_path
from tinsmith.server.completions import Completion, CompletionFeeds
from tinsmith.server.config import ServerLimits
from tinsmith.server.engines import EngineUnit
from tinsmith.server.errors import LostError, MissingError, OverloadedError, RequestError
from tinsmith.server.futures import SAMPLE_TYPE, Outcome
from tinsmith.server.recording import Done
from tinsmith.server.registry import Registry, ServiceParts
from tinsmith.server.sample_streams import SampleStream
from tinsmith.server.store import SamplerRecord
from tinsmith.server.validation import check_sample_request, check_stream_request
from tinsmith.telemetry import events
from tinsmith.types import CreateSamplingSessionRequest, SampleRequest
from tinsmith.types.codec import encode_sample_response

CLONE_EPOCH_S = 1_700_000_000
CANCELLED = UserError("the sample was cancelled", field="request_id")


class SamplerRegistry(Registry):
    """The sampling sessions of the service. Lives on the event loop."""

    def __init__(self, parts: ServiceParts, limits: ServerLimits) -> None:
        super().__init__(parts)
        self._limits = limits
        self._running: dict[str, EngineUnit] = {}
        self._streams: set[SampleStream] = set()
        self._num_clones: dict[str, int] = {}
        self.completions = CompletionFeeds(limits.result_keep_s)

    def open(self, body: CreateSamplingSessionRequest, *, digest: str) -> str:
        """Opens a sampling session; returns its id."""
        self._sessions.touch(body.session_id)
        session_id, number = body.session_id, body.sampling_session_seq_id
        name = "sampling_session_seq_id"
        known = self._store.reserve(session_id, name, number, digest=digest)
        if known is not None:
            return known
        sampler_id = f"{session_id}:sample:{number}"
        try:
            record = self._make_record(body, sampler_id)
            self._check_taken_up(record)
            self._engines.get(self._catalog.resolve(record.base_model))  # starts loading now
        except TinsmithError:
            self._store.unreserve(session_id, name, number)
            raise
        self._store.add_sampler(record)
        self._store.bind(session_id, name, number, sampler_id)
        return sampler_id

    def describe(self, sampler_id: str) -> dict[str, str]:
        """What the protocol tells about a sampling session."""
        record = self._store.sampler(sampler_id)
        answer = {"sampler_id": sampler_id, "base_model": record.base_model}
        if record.model_path is not None:
            answer["model_path"] = record.model_path
        return answer

    def sample(self, body: SampleRequest, *, digest: str) -> tuple[str, list[str]]:
        """Accepts a sample; returns (request id, one sequence id for each sample)."""
        record = self._record(body)
        key = None
        if body.seq_id is not None:
            key = (record.sampler_id, body.seq_id)
            known = self._futures.find(key, digest)
            if known is not None:
                return known, _sequence_ids(known, body.num_samples)
        unit = self._checked_unit(body, record)
        request_id = self._futures.create(
            key=key, digest=digest, owner_id=record.sampler_id, is_repeatable=True
        )
        seq_id = body.seq_id or 0

        def on_finish(result: SampleResult, size_bytes: int | None) -> None:
            self.completions.add(record.sampler_id, seq_id, result.job_id, size_bytes)

        self._start(_job(request_id, record, body), record, unit, on_finish)
        return request_id, _sequence_ids(request_id, body.num_samples)

    def stream(self, body: SampleRequest) -> SampleStream:
        """Accepts a sample that is told token by token.

        It is a request like any other: it can be cancelled, and its result fetched, by its id.
        """
        check_stream_request(body)
        record = self._record(body)
        unit = self._checked_unit(body, record)
        request_id = self._futures.create(owner_id=record.sampler_id, is_repeatable=True)
        sequence_ids = _sequence_ids(request_id, body.num_samples)
        stream = SampleStream(request_id, sequence_ids, lambda: self._give_up(request_id, unit))
        self._streams.add(stream)

        def on_finish(result: SampleResult, _: int | None) -> None:
            self._streams.discard(stream)
            stream.finish(result.error)

        job = replace(_job(request_id, record, body), stream=True)
        self._start(job, record, unit, on_finish, stream.add)
        return stream

    def close_streams(self) -> None:
        """Ends every stream, since the service stops."""
        error = ServerError("the service is stopping", hint="sample again once it is back")
        for stream in self._streams:
            stream.finish(error)
        self._streams.clear()

    def _record(self, body: SampleRequest) -> SamplerRecord:
        if body.sampling_session_id is None:
            raise RequestError(
                "sampling_session_id: missing",
                field="sampling_session_id",
                hint="open a sampling session first",
            )
        record = self._store.sampler(body.sampling_session_id)
        self._sessions.touch(record.session_id)
        return record

    def _checked_unit(self, body: SampleRequest, record: SamplerRecord) -> EngineUnit:
        """The engine to sample on, once the request is known to be good."""
        unit = self._unit(record)
        check_sample_request(
            body,
            base_model=record.base_model,
            vocab_size=unit.vocab_size,
            max_context_length=unit.max_context_length,
        )
        if self._futures.num_pending >= self._limits.max_pending_requests:
            raise OverloadedError(
                f"{self._futures.num_pending} requests are pending",
                hint="wait for results before submitting more",
            )
        return unit

    def join(self, sampler_id: str) -> int:
        """Numbers one more client of a sampling session, never twice, also after a restart."""
        record = self._store.sampler(sampler_id)
        self._sessions.touch(record.session_id)
        number = max(self._num_clones.get(sampler_id, 0) + 1, int(time.time()) - CLONE_EPOCH_S)
        self._num_clones[sampler_id] = number
        return number

    def cancel(self, request_id: str) -> None:
        """Gives up a sample; one that is done stays done.

        Raises:
            MissingError: the request is unknown.
            RequestError: it is no sample.
        """
        if not self._futures.is_pending(request_id):
            return
        unit = self._running.get(request_id)
        if unit is None:
            raise RequestError(
                f"request_id={request_id!r}: is no sample; must be the request of a sample",
                field="request_id",
                hint="training requests run in their order; unload the model to drop them",
            )
        self._give_up(request_id, unit)

    def _give_up(self, request_id: str, unit: EngineUnit) -> None:
        error = UserError(f"request_id={request_id!r}: was cancelled", field="request_id")
        self._futures.fail(request_id, error)  # also where it still waits for its weights
        unit.client.cancel_sample(request_id, error)

    async def wait_completions(
        self, sampler_id: str, clone_id: int, *, after: int, hold_s: float
    ) -> tuple[list[Completion], int]:
        """What finished for one client of a sampling session, and the new cursor."""
        record = self._store.sampler(sampler_id)
        self._sessions.touch(record.session_id)
        return await self.completions.wait(sampler_id, clone_id, after=after, hold_s=hold_s)

    def end_session(self, session_id: str) -> None:
        """Drops a session's samplers, and the snapshots that only they used."""
        ended = [s for s in self._store.samplers.values() if s.session_id == session_id]
        for record in ended:
            del self._store.samplers[record.sampler_id]
            self._num_clones.pop(record.sampler_id, None)
        self.completions.forget({record.sampler_id for record in ended})
        for record in ended:
            if record.unit is not None and record.snapshot_id is not None:
                for snapshot_id in self._store.unneeded({record.snapshot_id}):
                    record.unit.snapshots.drop(snapshot_id)

    def _make_record(self, body: CreateSamplingSessionRequest, sampler_id: str) -> SamplerRecord:
        if body.model_path is None:
            if body.base_model is None:
                raise RequestError("base_model: give base_model or model_path", field="base_model")
            facts = self._catalog.resolve(body.base_model)
            return SamplerRecord(sampler_id, body.session_id, facts.name)
        path = parse_checkpoint_path(body.model_path, field="model_path", kind="sampler_weights")
        checkpoint = self._checkpoints.read(path, field="model_path")
        if checkpoint.snapshot_id is None:
            raise MissingError(
                f"model_path={body.model_path!r}: holds no sampler weights", field="model_path"
            )
        if body.base_model is not None:
            facts = self._catalog.resolve(body.base_model)
            if facts.name != checkpoint.base_model:
                raise RequestError(
                    f"base_model={body.base_model!r}: the weights are of {checkpoint.base_model!r}",
                    field="base_model",
                    hint="leave base_model out",
                )
        return SamplerRecord(
            sampler_id,
            body.session_id,
            checkpoint.base_model,
            model_path=body.model_path,
            directory=self._checkpoints.directory(path),
            snapshot_id=checkpoint.snapshot_id,
        )

    def _check_taken_up(self, record: SamplerRecord) -> None:
        """Refuses a number under which an earlier process opened something else."""
        earlier = self._store.samplers.get(record.sampler_id)
        if earlier is None:
            return
        if (earlier.base_model, earlier.model_path) != (record.base_model, record.model_path):
            raise RequestError(
                f"sampling_session_seq_id of {record.sampler_id!r}: already used by a different "
                "request",
                field="sampling_session_seq_id",
                hint="give every new request of a session the next number",
            )

    def _unit(self, record: SamplerRecord) -> EngineUnit:
        """The engine to sample on; a dead one is replaced unless the weights died with it."""
        if record.is_lost:
            raise LostError(
                f"sampling_session_id={record.sampler_id!r}: its weights were in the memory of a "
                "service that has been restarted",
                field="sampling_session_id",
                hint="save weights for the sampler under a name, and open a session on their path",
            )
        if record.unit is None:
            return self._engines.get(self._catalog.resolve(record.base_model))
        failure = record.unit.client.failure
        if failure is not None:
            raise LostError(
                f"sampling_session_id={record.sampler_id!r}: {failure.message}",
                field="sampling_session_id",
                hint="its weights were never saved by name: save them again from a new model",
            )
        return record.unit

    def _start(
        self,
        job: SampleJob,
        record: SamplerRecord,
        unit: EngineUnit,
        on_finish: Callable[[SampleResult, int | None], None],
        on_token: Callable[[SampledToken], None] | None = None,
    ) -> None:
        """Runs a job once its weights are there.

        `on_finish` gets its result and the result's size in bytes, None for a failure.
        """
        snapshot_id = record.snapshot_id
        self._running[job.job_id] = unit

        def finish(result: SampleResult) -> None:
            del self._running[job.job_id]
            on_finish(result, self._finish(result, job, record))

        def on_result(result: SampleResult) -> None:
            if snapshot_id is not None:
                unit.snapshots.release(snapshot_id)
            finish(result)

        def on_acquired(error: TinsmithError | None) -> None:
            if error is not None:
                finish(SampleResult(job.job_id, error=error))
            elif not self._futures.is_pending(job.job_id):  # cancelled meanwhile
                on_result(SampleResult(job.job_id, error=CANCELLED))
            else:
                unit.client.sample(job, on_result, on_token)

        if snapshot_id is None:
            unit.client.sample(job, on_result, on_token)
        else:
            unit.snapshots.acquire(snapshot_id, record.directory, on_acquired)

    def _finish(self, result: SampleResult, job: SampleJob, record: SamplerRecord) -> int | None:
        """Stores a result; returns its size in bytes, None for a failure."""
        if result.response is not None:
            body = encode_sample_response(result.response)
            done = Done(
                events.LLM_REQUEST,
                {
                    "input_tokens": float(len(job.prompt)),
                    "output_tokens": float(sum(len(s.tokens) for s in result.response.sequences)),
                },
                {
                    "gen_ai.operation.name": "text_completion",
                    "gen_ai.request.model": record.base_model,
                    "sampler_id": record.sampler_id,
                },
            )
            self._futures.complete(result.job_id, Outcome(body, SAMPLE_TYPE), done)
            return len(body)
        assert result.error is not None
        self._futures.fail(result.job_id, result.error)
        return None


def _job(request_id: str, record: SamplerRecord, body: SampleRequest) -> SampleJob:
    return SampleJob(
        job_id=request_id,
        snapshot_id=record.snapshot_id,
        prompt=body.prompt.to_ints(),
        num_samples=body.num_samples,
        params=body.sampling_params,
        prompt_logprobs=body.prompt_logprobs,
        topk_prompt_logprobs=body.topk_prompt_logprobs,
        topk_sample_logprobs=body.topk_sample_logprobs,
        target_prompt_logprobs=body.target_prompt_logprobs,
        prompt_alt_tokens_k=body.prompt_alt_tokens_k,
        prompt_logprobs_last_n=body.prompt_logprobs_last_n,
    )


def _sequence_ids(request_id: str, num_samples: int) -> list[str]:
    return [f"{request_id}-{index}" for index in range(num_samples)]
