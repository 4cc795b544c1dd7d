"""SamplingClient: tokens and logprobs from fixed weights.

Main names: `SamplingClient`, `start_sampling_client`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import logging
import secrets
import time
from typing import Any

from tinsmith.client.backpressure import prompt_bytes
from tinsmith.client.connection import Connection
from tinsmith.client.errors import (
    APIConnectionError,
    RateLimitError,
    ResultExpiredError,
)
from tinsmith.client.futures import APIFuture, ClientFuture
from tinsmith.client.polling import ResultKind
from tinsmith.client.queue_state import PauseLogger
from tinsmith.client.reporter import Telemetry
from tinsmith.client.retries import RetryConfig
from tinsmith.client.sample_checks import check_answer, check_options, check_prompt
from tinsmith.client.sample_stream import SampleStream
from tinsmith.client.sampler_handle import SamplerState, joined_connection
from tinsmith.client.tokenizers import load_tokenizer
from tinsmith.client.transport import Request
from tinsmith.core.errors import UserError
from tinsmith.core.ids import new_id
from tinsmith.types import (
    CreateSamplingSessionRequest,
    CreateSamplingSessionResponse,
    GetSamplerResponse,
    ModelInput,
    SampleRequest,
    SampleResponse,
    SamplingParams,
    TensorData,
    UntypedAPIFuture,
)
from tinsmith.types.codec import decode_sample_response

logger = logging.getLogger(__name__)

SEQ_IDS_OF_A_CLONE = 10**9
_SAMPLE = ResultKind("Sample", is_protobuf=True, lane="sampling_polls")


class SamplingClient:
    """Samples from weights that never change; made by a ServiceClient or a TrainingClient.

    `sample()` may be called from any thread, any number of times at once. Clients pickle, and go on
    sampling in worker processes.
    """

    def __init__(
        self,
        connection: Connection,
        sampling_session_id: str,
        *,
        base_model: str,
        retry_config: RetryConfig | None = None,
        record_stability_info: bool = False,
        clone_id: int = 0,
    ) -> None:
        """Sample from a session on the service; made by the other clients.

        Args:
            connection: to the service.
            sampling_session_id: what to sample from.
            base_model: name of the base model.
            retry_config: pace of retries and number of samples in flight.
            record_stability_info: the service keeps what `stable_reinforce` needs.
            clone_id: 0 for the client that opened the session; others have a block of
                sequence numbers each.
        """
        self.sampling_session_id = sampling_session_id
        self._connection = connection
        self._base_model = base_model
        self._retry_config = retry_config or RetryConfig()
        self._record_stability_info = record_stability_info
        self._seq_ids = itertools.count(clone_id * SEQ_IDS_OF_A_CLONE)
        self._slots: asyncio.Semaphore | None = None  # made when the service's limit is known
        self._log_pause = PauseLogger(f"sampling from {sampling_session_id}")
        self._num_in_flight = 0
        self._last_progress_s = 0.0

    def __repr__(self) -> str:
        return (
            f"SamplingClient(sampling_session_id={self.sampling_session_id!r}, "
            f"base_model={self._base_model!r})"
        )

    def get_sampler_handle(self) -> str:
        """A text from which another process makes a client of the same weights.

        It holds no API key. The session stays that of the ServiceClient which made this client:
        the weights are there until that one is closed.
        """
        return self._state().handle()

    @staticmethod
    def from_sampler_handle(handle: str, *, api_key: str | None = None) -> SamplingClient:
        """A client of the weights that a handle names; sends nothing.

        Args:
            handle: of `get_sampler_handle`.
            api_key: by default that of the environment; the embedded service's is found.

        Raises:
            UserError: it is not a handle.
        """
        return _restored(SamplerState.from_handle(handle, api_key), None)

    def __reduce__(self) -> tuple[Any, ...]:  # Any: the protocol of pickle
        """Pickle as a clone: the same weights and session, sequence numbers of its own.

        The pickle holds the API key, unlike a handle.
        """
        return _restored, (self._state(), self._retry_config)

    def _state(self) -> SamplerState:
        return SamplerState(
            self._connection.joined_settings(),
            self.sampling_session_id,
            self._base_model,
            self._record_stability_info,
        )

    def sample(  # noqa: PLR0913 - the SDK's signature
        self,
        prompt: ModelInput,
        num_samples: int,
        sampling_params: SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> APIFuture[SampleResponse]:
        """Sample continuations of a prompt.

        Args:
            prompt: the tokens to continue.
            num_samples: how many continuations, at least 1; the prompt is computed once.
            sampling_params: length, temperature, stops, seed.
            include_prompt_logprobs: also the logprob of each prompt token given those before it;
                position 0 has none.
            topk_prompt_logprobs: also the most likely tokens at each prompt position, so many.
            topk_sample_logprobs: also the most likely tokens at each sampled position, so many.
            target_prompt_logprobs: also the logprobs of these tokens, int64 [len(prompt) - 1, k]:
                row i is scored at prompt position i + 1, and -1 leaves a cell out.
            prompt_alt_tokens_k: also so many tokens drawn at each prompt position after the first.
            prompt_logprobs_last_n: score only the end of the prompt; earlier logprobs are None.

        Raises:
            UserError: an option that no service could answer.
        """
        check_prompt(prompt)
        check_options(
            include_prompt_logprobs=include_prompt_logprobs,
            target_prompt_logprobs=target_prompt_logprobs,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        request = SampleRequest(
            prompt=prompt,
            num_samples=num_samples,
            sampling_params=sampling_params,
            sampling_session_id=self.sampling_session_id,
            seq_id=next(self._seq_ids),
            prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
            target_prompt_logprobs=target_prompt_logprobs,
            prompt_alt_tokens_k=prompt_alt_tokens_k,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
            record_stability_info=self._record_stability_info,
        )
        return self._connection.start(lambda: self._sample(request), "sample")

    def stream(
        self, prompt: ModelInput, sampling_params: SamplingParams, num_samples: int = 1
    ) -> SampleStream:
        """Sample, and get the tokens as they are drawn; an extension of the protocol.

        The tokens are those that `sample` gives for the same seed. They come as ids: what text they
        make is the tokenizer's business, and a character may be spread over several.

        Args:
            prompt: the tokens to continue.
            sampling_params: length, temperature, stops, seed.
            num_samples: how many continuations, at least 1; their tokens come interleaved.

        Returns:
            An iterator of `SampledTokens`, for `for` and `async for`. Its first step raises
            `UnsupportedError` if the service has no such extension.

        Example:
            >>> with client.stream(prompt, params) as stream:  # doctest: +SKIP
            ...     for piece in stream:
            ...         print(tokenizer.decode(piece.tokens), end="", flush=True)
        """
        check_prompt(prompt)
        request = SampleRequest(
            prompt=prompt,
            num_samples=num_samples,
            sampling_params=sampling_params,
            sampling_session_id=self.sampling_session_id,
            record_stability_info=self._record_stability_info,
        )
        return SampleStream(self._connection, request, self._retry_config)

    def compute_logprobs(
        self, prompt: ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> APIFuture[list[float | None]]:
        """The logprob of each prompt token given those before it; position 0 has None.

        Args:
            prompt: the tokens to score.
            prompt_logprobs_last_n: score only the end of it; earlier positions have None.
        """
        response = self.sample(
            prompt,
            1,
            SamplingParams(max_tokens=1),
            include_prompt_logprobs=True,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )

        async def logprobs() -> list[float | None]:
            found = (await response).prompt_logprobs
            assert found is not None  # checked with the answer
            return found

        return self._connection.start(logprobs, "compute_logprobs")

    def get_telemetry(self) -> Telemetry | None:
        """What reports to the service how this client fares; None where that is turned off."""
        return self._connection.telemetry

    def on_queue_state_change(self, queue_state: str, queue_state_reason: str | None) -> None:
        """Hears while samples wait why they do, and logs it; assign a function of your own to act.

        Args:
            queue_state: `active`, `paused_capacity` or `paused_rate_limit`.
            queue_state_reason: the service's words, if it gives any.
        """
        self._log_pause(queue_state, queue_state_reason)

    def get_base_model(self) -> str:
        """Name of the base model; known since creation, never waits."""
        return self._base_model

    def get_tokenizer(self) -> Any:  # Any: a transformers tokenizer, which we do not import
        """The base model's tokenizer (needs `transformers`)."""
        return load_tokenizer(self._base_model)

    async def sample_async(  # noqa: PLR0913 - the SDK's signature
        self,
        prompt: ModelInput,
        num_samples: int,
        sampling_params: SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> SampleResponse:
        """Twin of `sample`; awaiting it gives the response."""
        return await self.sample(
            prompt,
            num_samples,
            sampling_params,
            include_prompt_logprobs,
            topk_prompt_logprobs,
            topk_sample_logprobs,
            target_prompt_logprobs,
            prompt_alt_tokens_k,
            prompt_logprobs_last_n,
        )

    async def compute_logprobs_async(
        self, prompt: ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> list[float | None]:
        """Twin of `compute_logprobs`; awaiting it gives the logprobs."""
        return await self.compute_logprobs(prompt, prompt_logprobs_last_n)

    async def get_base_model_async(self) -> str:
        """Twin of `get_base_model`."""
        return self.get_base_model()

    async def _sample(self, request: SampleRequest) -> SampleResponse:
        await self._connection.transport()
        config = self._connection.config
        if self._slots is None:
            most = self._retry_config.max_connections
            self._slots = asyncio.Semaphore(min(most, config.sample_max_concurrent_requests))
        if self._slots.locked():
            logger.debug("sample waits: as many as may be are in flight")
        async with self._slots:
            if not self._num_in_flight:  # time without work is not lack of progress
                self._last_progress_s = time.monotonic()
            self._num_in_flight += 1
            work = asyncio.ensure_future(self._sample_again_if_lost(request))
            try:
                await self._watch(work)
            finally:
                work.cancel()
                self._num_in_flight -= 1
            self._last_progress_s = time.monotonic()
            return work.result()

    async def _watch(self, work: asyncio.Future[SampleResponse]) -> None:
        """Wait for the work as long as the client's samples make progress."""
        while not work.done():
            limit_s = self._retry_config.progress_timeout
            left_s = self._last_progress_s + limit_s - time.monotonic()
            is_watched = self._connection.config.sample_enable_stuck_detection
            if not (is_watched and self._retry_config.enable_stuck_detection):
                left_s = None
            elif left_s <= 0:
                raise APIConnectionError(
                    f"No progress made in {limit_s:g}s. Requests appear to be stuck.",
                    hint="look at the service's log; RetryConfig.progress_timeout is the limit",
                )
            await asyncio.wait({work}, timeout=left_s)

    async def _sample_again_if_lost(self, request: SampleRequest) -> SampleResponse:
        """Submit and wait; a result that the service has lost is sampled anew."""
        num_lost = 0
        while True:
            try:
                return await self._sample_once(request)
            except ResultExpiredError as error:
                num_lost += 1
                policy = self._retry_config.policy((await self._connection.transport()).policy)
                if num_lost > policy.max_retries:
                    raise
                logger.debug("sample was lost and is submitted again: %s", error)
                await asyncio.sleep(policy.delay_s(num_lost, uniform=0.0, retry_after=None))
                request = request.model_copy(update={"seq_id": next(self._seq_ids)})

    async def _sample_once(self, request: SampleRequest) -> SampleResponse:
        promise = await self._submit(request)
        try:
            content = await self._connection.result_bytes(
                promise.request_id, _SAMPLE, self.on_queue_state_change
            )
        except asyncio.CancelledError:
            self._connection.give_up(promise.request_id)
            raise
        response = decode_sample_response(content, promise.sample_sequence_ids)
        check_answer(request, response)
        return response

    async def _submit(self, request: SampleRequest) -> UntypedAPIFuture:
        """Submit when the gate lets it; a busy service (429) is asked again, whenever that is."""
        transport = await self._connection.transport()
        is_once = self._connection.config.sample_no_retries
        config = dataclasses.replace(self._retry_config, enable_retry_logic=False)
        config = config if is_once else self._retry_config
        num_bytes = prompt_bytes(request.prompt)
        gate = self._connection.sample_gate
        body = Request(
            "asample",
            request.model_dump_json(exclude_none=True).encode(),
            headers={"X-Tinker-Sampling-Backpressure": "1"},
            policy=dataclasses.replace(config.policy(transport.policy), is_busy_raised=True),
            idempotency_key=new_id("tinsmith-retry-"),
        )
        while True:
            async with gate.admitted(num_bytes):
                try:
                    return await self._connection.submit(body)
                except RateLimitError as error:
                    if not config.enable_retry_logic:
                        raise
                    gate.turned_away(num_bytes, error.retry_after_s)


def _restored(state: SamplerState, retry_config: RetryConfig | None) -> SamplingClient:
    return SamplingClient(
        joined_connection(state.settings),
        state.sampling_session_id,
        base_model=state.base_model,
        retry_config=retry_config,
        record_stability_info=state.record_stability_info,
        # Not from `random`: workers that seed it alike would draw each other's numbers.
        clone_id=1 + secrets.randbelow(SEQ_IDS_OF_A_CLONE),
    )


def start_sampling_client(
    connection: Connection,
    *,
    model_path: str | None,
    base_model: str | None,
    retry_config: RetryConfig | None,
    record_stability_info: bool = False,
) -> ClientFuture[SamplingClient]:
    """A sampling client of saved weights, or of a base model when there is no path.

    Raises:
        UserError: neither is given, or the path is not a `tinker://` address.
    """
    if model_path is None and base_model is None:
        raise UserError(
            "create_sampling_client needs model_path or base_model",
            field="base_model",
            hint='try create_sampling_client(base_model="tinsmith/tiny")',
        )
    if model_path is not None and not str(model_path).startswith("tinker://"):
        raise UserError(
            f"model_path={model_path!r}: must start with tinker://",
            field="model_path",
            hint="it is the path that save_weights_for_sampler answered with",
        )
    seq_id = next(connection.sampling_session_seq_ids)

    async def create() -> SamplingClient:
        request = CreateSamplingSessionRequest(
            session_id=(await connection.session()).session_id,
            sampling_session_seq_id=seq_id,
            model_path=model_path,
            base_model=base_model if model_path is None else None,
        )
        answer = await connection.post(request, CreateSamplingSessionResponse)
        sampler_id = answer.sampling_session_id
        if model_path is None:
            name = str(base_model)  # one of the two is there
        else:
            name = (await connection.get(f"samplers/{sampler_id}", GetSamplerResponse)).base_model
            if base_model not in (None, name):
                raise UserError(
                    f"base_model={base_model!r}: these weights are of {name!r} ({model_path})",
                    field="base_model",
                    hint="leave base_model out where there is a model_path",
                )
        return SamplingClient(
            connection,
            sampler_id,
            base_model=name,
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    label = "create_sampling_client"
    return ClientFuture(connection.start(create, label).future(), label)
