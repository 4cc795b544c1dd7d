"""ServiceClient: the way in. Makes training and sampling clients of one service.

Main name: `ServiceClient`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Coroutine, Mapping
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from tinsmith.client.connection import Connection, json_request
from tinsmith.client.futures import APIFuture, ClientFuture, start
from tinsmith.client.loss_handle import LossHandle, LossHandles
from tinsmith.client.loss_tracing import PerDatumLossFn, trace_loss
from tinsmith.client.polling import ResultKind
from tinsmith.client.reporter import Telemetry
from tinsmith.client.rest import RestClient
from tinsmith.client.retries import RetryConfig
from tinsmith.client.sampling import SamplingClient, start_sampling_client
from tinsmith.client.session import FinishStatus
from tinsmith.client.settings import checked_headers, settings_from
from tinsmith.client.training import TrainingClient
from tinsmith.core import paths
from tinsmith.core.errors import TinsmithError, UserError
from tinsmith.types import (
    AdamOptimizerConfig,
    CreateModelRequest,
    CreateModelResponse,
    CustomLossInputRank,
    GetInfoRequest,
    GetInfoResponse,
    GetServerCapabilitiesResponse,
    LoadWeightsRequest,
    LoadWeightsResponse,
    LoraConfig,
    OptimizerConfig,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CREATE_MODEL = ResultKind("CreateModel")
_LOAD_WEIGHTS = ResultKind("LoadWeights")


class ServiceClient:
    """A service that trains and samples: the embedded one, or one at an address.

    Without `base_url` and without `TINSMITH_BASE_URL` or `TINKER_BASE_URL` the embedded service of
    this machine is joined, or started if none runs. Nothing is sent before the first call.

    The `create_*` methods return at once. What they return can be awaited for the client, asked
    for it by `.result()`, or used as the client right away, which waits for it.

    Example:
        >>> with ServiceClient() as service:  # doctest: +SKIP
        ...     client = service.create_lora_training_client("tinsmith/tiny", rank=8).result()
        ...     output = client.forward_backward(data, "cross_entropy").result()
    """

    def __init__(
        self,
        user_metadata: Mapping[str, str] | None = None,
        project_id: str | None = None,
        *,
        display_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        default_headers_overrides: Mapping[str, str] | None = None,
        timeout: float | httpx.Timeout = 60.0,
        max_retries: int = 10,
    ) -> None:
        """Remember what to connect to.

        Args:
            user_metadata: kept with the session.
            project_id: the project that the session belongs to; by default `TINSMITH_PROJECT_ID`.
            display_name: of the session.
            base_url: the service's address; a path prefix is kept.
            api_key: sent with every request; the embedded service needs none.
            default_headers_overrides: added to every request.
            timeout: seconds that one attempt of a request may take; of a Timeout, its `read`.
            max_retries: retries of a request that failed for a passing reason.

        Raises:
            MissingExtraError: no address, and the packages of the embedded service are missing.
            UserError: an argument is out of range.
        """
        timeout_s = timeout.read if isinstance(timeout, httpx.Timeout) else timeout
        if timeout_s is None or not _is_number(timeout_s, Real) or not timeout_s > 0:
            raise UserError(f"timeout={timeout_s!r}: must be positive, in seconds", field="timeout")
        if not _is_number(max_retries, Integral) or max_retries < 0:
            raise UserError(
                f"max_retries={max_retries!r}: must be a whole number, 0 or more",
                field="max_retries",
            )
        settings = settings_from(base_url, api_key)
        self._connection = Connection(
            dataclasses.replace(
                settings,
                timeout_s=timeout_s,
                max_retries=max_retries,
                headers=checked_headers(default_headers_overrides),
                user_metadata=user_metadata,
                project_id=project_id or settings.project_id,
                display_name=display_name,
            )
        )
        self._losses = LossHandles(self._connection)

    def __repr__(self) -> str:
        return f"ServiceClient({self._connection.settings.base_url or 'embedded service'})"

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
        optimizer: OptimizerConfig | None = None,
    ) -> ClientFuture[TrainingClient]:
        """A new adapter on a base model.

        Args:
            base_model: a name the service knows, or a directory on its machine.
            rank: of the adapter's matrices.
            seed: of the adapter's first weights; None lets the service choose.
            train_mlp: adapt the MLP layers.
            train_attn: adapt the attention layers.
            train_unembed: adapt the unembedding.
            user_metadata: kept with the model.
            optimizer: the optimizer's family; by default AdamW.

        Raises:
            UserError: nothing would be trained.
        """
        if not (train_mlp or train_attn or train_unembed):
            raise UserError(
                "At least one of train_unembed, train_mlp, or train_attn must be True",
                field="lora_config",
            )
        lora_config = LoraConfig(
            rank=rank,
            seed=seed,
            train_unembed=train_unembed,
            train_mlp=train_mlp,
            train_attn=train_attn,
        )
        model_seq_id = next(self._connection.model_seq_ids)
        located = self._located(base_model)

        async def create() -> TrainingClient:
            request = CreateModelRequest(
                session_id=(await self._connection.session()).session_id,
                model_seq_id=model_seq_id,
                base_model=located,
                lora_config=lora_config,
                optimizer_config=optimizer or AdamOptimizerConfig(),
                user_metadata=None if user_metadata is None else dict(user_metadata),
            )
            promise = await self._connection.submit(json_request(request))
            result = await self._connection.result(
                promise.request_id, _CREATE_MODEL, CreateModelResponse
            )
            return await self._training_client(result.model_id)

        return self._client_future(create, "create_lora_training_client")

    def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: OptimizerConfig | None = None,
    ) -> ClientFuture[TrainingClient]:
        """A new training client that starts from saved weights, with a fresh optimizer.

        Args:
            path: the `tinker://` address that `save_state` answered with.
            base_model: only if it differs from the saved one's name.
            user_metadata: kept with the model.
            weights_access_token: of another account's checkpoint.
            optimizer: the optimizer's family; by default the saved one's.
        """
        request = LoadWeightsRequest(
            path=path,
            base_model=base_model,
            user_metadata=None if user_metadata is None else dict(user_metadata),
            weights_access_token=weights_access_token,
            optimizer_config=optimizer,
        )
        return self._from_state(request)

    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> ClientFuture[TrainingClient]:
        """A new training client that goes on exactly where `save_state` was called."""
        request = LoadWeightsRequest(
            path=path,
            optimizer=True,
            base_model=base_model,
            user_metadata=None if user_metadata is None else dict(user_metadata),
            weights_access_token=weights_access_token,
        )
        return self._from_state(request)

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: RetryConfig | None = None,
        record_stability_info: bool = False,
    ) -> ClientFuture[SamplingClient]:
        """A sampling client of saved sampler weights, or of a base model.

        Args:
            model_path: the `tinker://` address that `save_weights_for_sampler` answered with.
            base_model: a name the service knows; enough without a path.
            retry_config: pace of retries and number of samples in flight.
            record_stability_info: ask the service to keep what `stable_reinforce` needs.
        """
        return start_sampling_client(
            self._connection,
            model_path=model_path,
            base_model=None if base_model is None else self._located(base_model),
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    def create_custom_loss(
        self, fn: PerDatumLossFn, input_ranks: Mapping[str, CustomLossInputRank]
    ) -> APIFuture[LossHandle]:
        """A loss of your own that runs where the training runs (needs torch to make it).

        `fn` gets one datum's tensors: `logprobs` of its targets, and the `loss_fn_inputs` that its
        further parameters name. It returns the datum's loss and a dict of metrics, all scalars;
        metrics are named `custom/name:sum` or `custom/name:mean`, the ending says how they combine
        over datums. Losses of datums are summed. `fn` is called once, by torch.fx: it may use
        torch and math, may not branch on values, and may not hold tensors of its own.

        Services that run no uploaded losses get the same results from a loss that runs here.

        Args:
            fn: the loss of one datum.
            input_ranks: 0, 1 or 2 for each parameter: a number, [tokens], [tokens, K].

        Returns:
            A future of the handle, for this client's training clients. The same loss again gives
            the same handle.

        Raises:
            MissingExtraError: torch is not installed.
            UserError: `fn` does something that a custom loss may not.

        Example:
            >>> def likelihood(logprobs, weights):
            ...     loss = -(logprobs * weights).sum()
            ...     return loss, {"custom/likelihood:sum": loss}
            >>> handle = service.create_custom_loss(
            ...     likelihood, {"logprobs": 1, "weights": 1}
            ... ).result()  # doctest: +SKIP
            >>> client.forward_backward_custom(data, handle)  # doctest: +SKIP
        """
        traced = trace_loss(fn, input_ranks)
        return self._connection.start(lambda: self._losses.create(traced), "create_custom_loss")

    def create_rest_client(self) -> RestClient:
        """A client for what the service keeps; shares this one's connections and its end."""
        return RestClient.of(self._connection)

    def copy_weights(
        self,
        path: str,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> APIFuture[str]:
        """Copy a checkpoint into this client's project; see `RestClient.copy_weights`."""
        return self.create_rest_client().copy_weights(
            path, ttl_seconds=ttl_seconds, weights_access_token=weights_access_token
        )

    def get_server_capabilities(self) -> ClientFuture[GetServerCapabilitiesResponse]:
        """The base models the service offers."""

        async def get() -> GetServerCapabilitiesResponse:
            return await self._connection.get(
                "get_server_capabilities", GetServerCapabilitiesResponse
            )

        return self._client_future(get, "get_server_capabilities")

    def get_console_url(self) -> str:
        """The address of the service's own record of the session, in JSON; there is no page yet.

        Waits for the session, which it opens if there is none.
        """

        async def find() -> str:
            session = await self._connection.session()
            base_url = (await self._connection.transport()).base_url
            return f"{base_url}/api/v1/sessions/{session.session_id}"

        return self._connection.start(find, "get_console_url").result()

    def get_telemetry(self) -> Telemetry | None:
        """What reports to the service how this client fares; None where that is turned off."""
        return self._connection.telemetry

    def close(self, status: FinishStatus = "success", detail: str | None = None) -> APIFuture[None]:
        """Finish the session; calls still under way fail with ClientClosedError.

        Also done by leaving the `with` block, which tells the service whether an exception ended
        it. Idempotent.
        """
        return start(lambda: self._connection.close(status, detail), "close")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close(*_ending(exception)).result()
        except TinsmithError as error:
            _log_unfinished(error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.close(*_ending(exception))
        except TinsmithError as error:
            _log_unfinished(error)

    async def create_lora_training_client_async(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: Mapping[str, str] | None = None,
        optimizer: OptimizerConfig | None = None,
    ) -> TrainingClient:
        """Twin of `create_lora_training_client`; awaiting it gives the client."""
        return await self.create_lora_training_client(
            base_model, rank, seed, train_mlp, train_attn, train_unembed, user_metadata, optimizer
        )

    async def create_training_client_from_state_async(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: OptimizerConfig | None = None,
    ) -> TrainingClient:
        """Twin of `create_training_client_from_state`; awaiting it gives the client."""
        return await self.create_training_client_from_state(
            path, base_model, user_metadata, weights_access_token, optimizer
        )

    async def create_training_client_from_state_with_optimizer_async(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: Mapping[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> TrainingClient:
        """Twin of `create_training_client_from_state_with_optimizer`."""
        return await self.create_training_client_from_state_with_optimizer(
            path, base_model, user_metadata, weights_access_token
        )

    async def create_sampling_client_async(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: RetryConfig | None = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Twin of `create_sampling_client`; awaiting it gives the client."""
        return await self.create_sampling_client(
            model_path, base_model, retry_config, record_stability_info
        )

    async def get_server_capabilities_async(self) -> GetServerCapabilitiesResponse:
        """Twin of `get_server_capabilities`."""
        return await self.get_server_capabilities()

    def _from_state(self, request: LoadWeightsRequest) -> ClientFuture[TrainingClient]:
        model_seq_id = next(self._connection.model_seq_ids)
        base_model = request.base_model
        located = None if base_model is None else self._located(base_model)

        async def create() -> TrainingClient:
            session_id = (await self._connection.session()).session_id
            placed = request.model_copy(
                update={
                    "session_id": session_id,
                    "model_seq_id": model_seq_id,
                    "base_model": located,
                }
            )
            promise = await self._connection.submit(json_request(placed))
            loaded = await self._connection.result(
                promise.request_id, _LOAD_WEIGHTS, LoadWeightsResponse
            )
            # The protocol fixes the name of a model made this way.
            return await self._training_client(
                loaded.model_id or f"{session_id}:train:{model_seq_id}"
            )

        return self._client_future(create, "create_training_client_from_state")

    async def _training_client(self, model_id: str) -> TrainingClient:
        info = await self._connection.post(GetInfoRequest(model_id=model_id), GetInfoResponse)
        return TrainingClient(self._connection, info)

    def _client_future(
        self, make: Callable[[], Coroutine[Any, Any, T]], label: str
    ) -> ClientFuture[T]:
        return ClientFuture(self._connection.start(make, label).future(), label)

    def _located(self, base_model: str) -> str:
        """A directory's absolute path: the embedded service has another working directory."""
        if not self._connection.is_embedded or base_model == paths.BUNDLED_MODEL:
            return base_model
        path = Path(base_model).expanduser()
        return str(path.resolve()) if path.is_dir() else base_model


def _is_number(value: object, kind: type[Real]) -> bool:
    return not isinstance(value, bool) and isinstance(value, kind)


def _log_unfinished(error: TinsmithError) -> None:
    """The work is done, and an exception of its own must not be hidden by a failed goodbye."""
    logger.warning("the service could not be told that the session has ended: %s", error)


def _ending(exception: BaseException | None) -> tuple[FinishStatus, str | None]:
    if exception is None:
        return "success", None
    status: FinishStatus = "errored" if isinstance(exception, Exception) else "interrupted"
    return status, f"{type(exception).__name__}: {exception}"[:500]
