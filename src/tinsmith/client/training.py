"""TrainingClient: the primitives on one adapter.

Calls are submitted in the order they are made, and none waits for the work of the one before:
forward_backward and optim_step of several steps may be under way at once. Main name:
`TrainingClient`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from tinsmith.client.connection import Connection
from tinsmith.client.custom_loss import CustomLossFn, require_torch
from tinsmith.client.futures import APIFuture, ClientFuture
from tinsmith.client.loss_handle import LossHandle
from tinsmith.client.model_lane import ModelLane
from tinsmith.client.polling import ResultKind
from tinsmith.client.reporter import Telemetry
from tinsmith.client.retries import RetryConfig
from tinsmith.client.sampling import SamplingClient, start_sampling_client
from tinsmith.client.tokenizers import load_tokenizer
from tinsmith.core.errors import ServerError, UserError
from tinsmith.regularizers.composition import ComposedLoss
from tinsmith.regularizers.options import CustomLossOptions
from tinsmith.regularizers.outputs import CustomLossOutput
from tinsmith.regularizers.specs import Regularizer
from tinsmith.regularizers.state import RegularizerState
from tinsmith.types import (
    AdamParams,
    AdapterTerm,
    AdapterTermsRequest,
    AdapterTermsResponse,
    Datum,
    ForwardBackwardOutput,
    GetInfoResponse,
    LoadWeightsRequest,
    LoadWeightsResponse,
    OptimParams,
    OptimParamsBase,
    OptimStepRequest,
    OptimStepResponse,
    SamplingClientKind,
    SaveWeightsExternalRequest,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerRequest,
    SaveWeightsForSamplerResponse,
    SaveWeightsRequest,
    SaveWeightsResponse,
)

_OPTIM_STEP = ResultKind("OptimStep")
_ADAPTER_TERMS = ResultKind("AdapterTerms")
_SAVE_WEIGHTS = ResultKind("SaveWeights")
_SAVE_EXTERNAL = ResultKind("SaveWeightsExternal")
_SAVE_FOR_SAMPLER = ResultKind("SaveWeightsForSampler")
_LOAD_WEIGHTS = ResultKind("LoadWeights")


class TrainingClient:
    """Trains one adapter; made by a ServiceClient.

    Every method that returns an `APIFuture` has reserved its place in the order when it returns.
    The `_async` twins are for code that awaits them: `await client.forward_backward_async(...)`
    is the future, awaiting that is the result.
    """

    def __init__(self, connection: Connection, info: GetInfoResponse) -> None:
        self.model_id = info.model_id
        self._connection = connection
        self._info = info
        self._lane = ModelLane(connection, info.model_id, info.model_data.vocab_size)
        self.regularizer_state = RegularizerState()
        """Optimizer steps and adaptive weights of the regularizers; `state_dict()` to save them."""

    def __repr__(self) -> str:
        return f"TrainingClient(model_id={self.model_id!r}, base_model={self._base_model()!r})"

    def forward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute logprobs and loss; gradients are left alone.

        See `forward_backward` for the arguments.
        """
        return self._lane.run(data, loss_fn, loss_fn_config, forward_only=True)

    def forward_backward(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute logprobs and loss, and add the gradients to the accumulated ones.

        The loss is a sum over tokens and datums. The data is encoded before this returns, so its
        arrays may be reused. Large batches travel in several requests and come back as one output.

        Args:
            data: at least one datum.
            loss_fn: name of the loss, such as `cross_entropy`.
            loss_fn_config: the loss's settings.

        Raises:
            UserError: there is no data, or a datum cannot be sent.
        """
        return self._lane.run(data, loss_fn, loss_fn_config, forward_only=False)

    @overload
    def forward_backward_custom(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLossFn | LossHandle,
        *,
        loss_type_input: str | None = None,
    ) -> APIFuture[ForwardBackwardOutput]: ...

    @overload
    def forward_backward_custom(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLossFn | LossHandle | None = None,
        *,
        loss_type_input: str | None = None,
        regularizers: Sequence[Regularizer] | None,
        track_grad_norms: bool | Literal["parameters"] = False,
        options: CustomLossOptions | None = None,
    ) -> APIFuture[CustomLossOutput]: ...

    def forward_backward_custom(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLossFn | LossHandle | None = None,
        *,
        loss_type_input: str | None = None,
        regularizers: Sequence[Regularizer] | None = None,
        track_grad_norms: bool | Literal["parameters"] = False,
        options: CustomLossOptions | None = None,
    ) -> APIFuture[ForwardBackwardOutput] | APIFuture[CustomLossOutput]:
        """Add the gradients of a loss of your own, computed from the logprobs.

        A function (needs torch) costs a forward pass more than `forward_backward`, except where the
        service keeps the graph of the first one; the handle of `ServiceClient.create_custom_loss`
        does not, where the service runs uploaded losses.

        A function is called once, in a thread of its own, with the whole batch, so the loss may
        compare datums. Calls that follow wait for it; if it raises, or the future is cancelled
        before its gradient is known, the gradients stay as they were and those calls go on.

        Args:
            data: datums with `target_tokens` and whatever else the loss reads.
            loss_fn: `(data, logprobs) -> (loss, metrics)`, with one tensor of logprobs for each
                datum, in the shape of its targets; the loss is a torch scalar. Or a handle.
            loss_type_input: older scripts pass "logprobs".
            regularizers: terms to add, `weight * value` each; see `tinsmith.regularizers`. With
                them `loss_fn` may be left out.
            track_grad_norms: find the norm of the gradient of the loss, of each term and of their
                sum: True by the logprobs, computed here; "parameters" by the adapter's parameters,
                which costs the service a backward pass each and is None where it cannot.
            options: how terms are run and reduced, and who is told.

        Returns:
            The output of the backward pass: `loss:sum` is the loss. Where it was computed here:
            `surrogate_loss:sum` that of the cross-entropy with the same gradient; your metrics are
            added as they are. With any of the last three arguments a `CustomLossOutput`, which
            holds that and what each term came to.

        Raises:
            MissingExtraError: torch is not installed.
            UserError: there is no data, a datum lacks what the loss reads or cannot be sent, the
                handle is another session's, or there is neither a loss nor a term.
            ConfigError: a term or option is not allowed; nothing has been sent.

        Example:
            >>> def preference_loss(data, logprobs):  # data: chosen, rejected, chosen, ...
            ...     sums = [tensor.sum() for tensor in logprobs]
            ...     margins = [a - b for a, b in zip(sums[::2], sums[1::2], strict=True)]
            ...     loss = sum(-margin.sigmoid().log() for margin in margins)
            ...     return loss, {"margin": sum(margins).item() / len(margins)}
            >>> client.forward_backward_custom(pairs, preference_loss)  # doctest: +SKIP
        """
        if loss_type_input not in (None, "logprobs"):
            raise UserError(
                f"loss_type_input={loss_type_input!r}: must be 'logprobs', or left out",
                field="loss_type_input",
            )
        is_composed = (
            regularizers is not None or track_grad_norms is not False or options is not None
        )
        if loss_fn is not None and not is_composed:
            if isinstance(loss_fn, LossHandle):
                return self._run_handle(data, loss_fn)
            require_torch()
            return self._lane.run_custom(data, loss_fn)
        if isinstance(loss_fn, LossHandle):
            self._check_handle(data, loss_fn)
            loss_fn = loss_fn.run
        loss = ComposedLoss(
            loss_fn,
            regularizers,
            state=self.regularizer_state,
            options=options,
            track_grad_norms=track_grad_norms,
        )
        require_torch()
        return self._lane.run_composed(data, loss)

    def _run_handle(
        self, data: Sequence[Datum], handle: LossHandle
    ) -> APIFuture[ForwardBackwardOutput]:
        self._check_handle(data, handle)
        if handle.loss_id is not None:
            config = {"loss_id": handle.loss_id}
            return self._lane.run(data, "custom", config, forward_only=False)
        require_torch()
        return self._lane.run_custom(data, handle.run)

    def _check_handle(self, data: Sequence[Datum], handle: LossHandle) -> None:
        session_id = self._connection.session_id
        if handle.session_id != session_id:
            raise UserError(
                f"loss_fn={handle.name!r}: belongs to session {handle.session_id!r}, and this "
                f"client to {session_id!r}",
                field="loss_fn",
                hint="call create_custom_loss on the ServiceClient that made this client",
            )
        handle.check(data)

    def optim_step(
        self, optim_params: OptimParams | None = None, *, adam_params: AdamParams | None = None
    ) -> APIFuture[OptimStepResponse]:
        """Apply the accumulated gradients and clear them.

        Args:
            optim_params: `AdamParams`, or those of the model's optimizer, such as `DimuonParams`.
            adam_params: an older name of the same argument.
        """
        given = [params for params in (optim_params, adam_params) if params is not None]
        if len(given) != 1 or not isinstance(given[0], (AdamParams, OptimParamsBase)):  # pyright: ignore[reportUnnecessaryIsInstance] - scripts are not type-checked
            raise UserError(
                "optim_step takes exactly one of optim_params and adam_params, such as AdamParams",
                field="optim_params",
                hint="try optim_step(AdamParams(learning_rate=1e-4))",
            )
        return self._lane.request(
            OptimStepRequest(optim_params=given[0], model_id=self.model_id),
            _OPTIM_STEP,
            OptimStepResponse,
            was_sent=self.regularizer_state.advance,
        )

    def add_adapter_terms(self, terms: Sequence[AdapterTerm]) -> APIFuture[AdapterTermsResponse]:
        """Add the gradients of terms on the adapter's parameters, which need no data.

        Needs the extension `adapter_terms`. Call it once before an optimizer step.

        Args:
            terms: what to add, such as `AdapterTerm(kind="weight_decay", weight=1e-3)`.

        Raises:
            UnsupportedError: the service does not offer it; raised by the future.
        """
        return self._lane.request(
            AdapterTermsRequest(model_id=self.model_id, terms=list(terms)),
            _ADAPTER_TERMS,
            AdapterTermsResponse,
            extension="adapter_terms",
        )

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: Mapping[str, str] | None = None,
    ) -> APIFuture[SaveWeightsResponse]:
        """Save adapter and optimizer, to resume from.

        Args:
            name: of the checkpoint, unique within the run.
            ttl_seconds: delete it after this time; None keeps it.
            overwrite: replace a checkpoint of the same name.
            user_metadata: kept with it.
        """
        return self._lane.request(
            SaveWeightsRequest(
                model_id=self.model_id,
                path=name,
                ttl_seconds=ttl_seconds,
                overwrite=overwrite,
                user_metadata=None if user_metadata is None else dict(user_metadata),
            ),
            _SAVE_WEIGHTS,
            SaveWeightsResponse,
        )

    def load_state(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """Load an adapter from a `tinker://` path; the optimizer starts afresh.

        Args:
            path: of `save_state`.
            weights_access_token: of another account's checkpoint.
        """
        return self._load(path, weights_access_token, with_optimizer=False)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """Load an adapter and its optimizer from a `tinker://` path; see `load_state`."""
        return self._load(path, weights_access_token, with_optimizer=True)

    def save_weights_for_sampler(
        self,
        name: str,
        ttl_seconds: int | None = None,
        user_metadata: Mapping[str, str] | None = None,
    ) -> APIFuture[SaveWeightsForSamplerResponse]:
        """Save the adapter alone, to sample from or to use elsewhere; see `save_state`."""
        return self._lane.request(
            SaveWeightsForSamplerRequest(
                model_id=self.model_id,
                path=name,
                ttl_seconds=ttl_seconds,
                user_metadata=None if user_metadata is None else dict(user_metadata),
            ),
            _SAVE_FOR_SAMPLER,
            SaveWeightsForSamplerResponse,
        )

    def save_weights_external(
        self,
        name: str,
        ttl_seconds: int | None = None,
        age_encryption_recipients: Sequence[str] | None = None,
    ) -> APIFuture[SaveWeightsExternalResponse]:
        """Export the weights in the Hugging Face layout; `RestClient` tells where the files are.

        Args:
            name: of the export, unique within the run.
            ttl_seconds: delete it after this time; None keeps it.
            age_encryption_recipients: keys of `age` to encrypt every file to, at most 10.
        """
        recipients = None if age_encryption_recipients is None else [*age_encryption_recipients]
        return self._lane.request(
            SaveWeightsExternalRequest(
                model_id=self.model_id,
                path=name,
                ttl_seconds=ttl_seconds,
                age_encryption_recipients=recipients,
            ),
            _SAVE_EXTERNAL,
            SaveWeightsExternalResponse,
        )

    def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: RetryConfig | None = None,
        record_stability_info: bool = False,
        kind: SamplingClientKind = "snapshot",
    ) -> ClientFuture[SamplingClient]:
        """A sampling client of the weights as they are at this point in the order of calls.

        Args:
            name: ignored; kept for scripts that pass one. The weights are not a checkpoint.
            retry_config: of the sampling client.
            record_stability_info: ask the service to keep what `stable_reinforce` needs.
            kind: "snapshot" samples from these weights for good, "inflight" moves on to the newer
                weights of later calls with this kind.
        """
        del name
        sampling_session_seq_id = next(self._connection.sampling_session_seq_ids)

        request = SaveWeightsForSamplerRequest(
            model_id=self.model_id, sampling_session_seq_id=sampling_session_seq_id, kind=kind
        )

        async def collect(request_id: str) -> SamplingClient:
            answer = await self._connection.result(
                request_id, _SAVE_FOR_SAMPLER, SaveWeightsForSamplerResponse
            )
            if answer.sampling_session_id is None:
                raise ServerError("save_weights_for_sampler: the service named no sampling session")
            return SamplingClient(
                self._connection,
                answer.sampling_session_id,
                base_model=self._base_model(),
                retry_config=retry_config,
                record_stability_info=record_stability_info,
            )

        label = "save_weights_and_get_sampling_client"
        future = self._lane.request_then(request, collect, label=label)
        return ClientFuture(future.future(), label)

    def create_sampling_client(
        self,
        model_path: str,
        retry_config: RetryConfig | None = None,
        record_stability_info: bool = False,
    ) -> ClientFuture[SamplingClient]:
        """A sampling client of saved sampler weights; see `ServiceClient`."""
        return start_sampling_client(
            self._connection,
            model_path=model_path,
            base_model=self._base_model(),
            retry_config=retry_config,
            record_stability_info=record_stability_info,
        )

    def get_console_url(self) -> str:
        """The address of the service's own record of the run, in JSON; there is no page yet."""

        async def find() -> str:
            base_url = (await self._connection.transport()).base_url
            return f"{base_url}/api/v1/training_runs/{self.model_id}"

        return self._connection.start(find, "get_console_url").result()

    def get_telemetry(self) -> Telemetry | None:
        """What reports to the service how this client fares; None where that is turned off."""
        return self._connection.telemetry

    def get_info(self) -> GetInfoResponse:
        """What is being trained; known since creation, never waits."""
        return self._info

    def get_tokenizer(self) -> Any:  # Any: a transformers tokenizer, which we do not import
        """The base model's tokenizer (needs `transformers`)."""
        return load_tokenizer(self._info.model_data.tokenizer_id or self._base_model())

    async def forward_async(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[ForwardBackwardOutput]:
        """Twin of `forward`."""
        return self.forward(data, loss_fn, loss_fn_config)

    async def forward_backward_async(
        self,
        data: Sequence[Datum],
        loss_fn: str,
        loss_fn_config: Mapping[str, float | str] | None = None,
    ) -> APIFuture[ForwardBackwardOutput]:
        """Twin of `forward_backward`."""
        return self.forward_backward(data, loss_fn, loss_fn_config)

    @overload
    async def forward_backward_custom_async(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLossFn | LossHandle,
        *,
        loss_type_input: str | None = None,
    ) -> APIFuture[ForwardBackwardOutput]: ...

    @overload
    async def forward_backward_custom_async(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLossFn | LossHandle | None = None,
        *,
        loss_type_input: str | None = None,
        regularizers: Sequence[Regularizer] | None,
        track_grad_norms: bool | Literal["parameters"] = False,
        options: CustomLossOptions | None = None,
    ) -> APIFuture[CustomLossOutput]: ...

    async def forward_backward_custom_async(
        self,
        data: Sequence[Datum],
        loss_fn: CustomLossFn | LossHandle | None = None,
        *,
        loss_type_input: str | None = None,
        regularizers: Sequence[Regularizer] | None = None,
        track_grad_norms: bool | Literal["parameters"] = False,
        options: CustomLossOptions | None = None,
    ) -> APIFuture[ForwardBackwardOutput] | APIFuture[CustomLossOutput]:
        """Twin of `forward_backward_custom`."""
        return self.forward_backward_custom(
            data,
            loss_fn,
            loss_type_input=loss_type_input,
            regularizers=regularizers,
            track_grad_norms=track_grad_norms,
            options=options,
        )

    async def add_adapter_terms_async(
        self, terms: Sequence[AdapterTerm]
    ) -> APIFuture[AdapterTermsResponse]:
        """Twin of `add_adapter_terms`."""
        return self.add_adapter_terms(terms)

    async def optim_step_async(
        self, optim_params: OptimParams | None = None, *, adam_params: AdamParams | None = None
    ) -> APIFuture[OptimStepResponse]:
        """Twin of `optim_step`."""
        return self.optim_step(optim_params, adam_params=adam_params)

    async def save_state_async(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: Mapping[str, str] | None = None,
    ) -> APIFuture[SaveWeightsResponse]:
        """Twin of `save_state`."""
        return self.save_state(name, ttl_seconds, overwrite, user_metadata)

    async def load_state_async(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """Twin of `load_state`."""
        return self.load_state(path, weights_access_token)

    async def load_state_with_optimizer_async(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """Twin of `load_state_with_optimizer`."""
        return self.load_state_with_optimizer(path, weights_access_token)

    async def save_weights_for_sampler_async(
        self,
        name: str,
        ttl_seconds: int | None = None,
        user_metadata: Mapping[str, str] | None = None,
    ) -> APIFuture[SaveWeightsForSamplerResponse]:
        """Twin of `save_weights_for_sampler`."""
        return self.save_weights_for_sampler(name, ttl_seconds, user_metadata)

    async def save_weights_external_async(
        self,
        name: str,
        ttl_seconds: int | None = None,
        age_encryption_recipients: Sequence[str] | None = None,
    ) -> APIFuture[SaveWeightsExternalResponse]:
        """Twin of `save_weights_external`."""
        return self.save_weights_external(name, ttl_seconds, age_encryption_recipients)

    async def save_weights_and_get_sampling_client_async(
        self,
        name: str | None = None,
        retry_config: RetryConfig | None = None,
        record_stability_info: bool = False,
        kind: SamplingClientKind = "snapshot",
    ) -> SamplingClient:
        """Twin of `save_weights_and_get_sampling_client`; awaiting it gives the client."""
        return await self.save_weights_and_get_sampling_client(
            name, retry_config, record_stability_info, kind
        )

    async def create_sampling_client_async(
        self,
        model_path: str,
        retry_config: RetryConfig | None = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """Twin of `create_sampling_client`; awaiting it gives the client."""
        return await self.create_sampling_client(model_path, retry_config, record_stability_info)

    async def get_info_async(self) -> GetInfoResponse:
        """Twin of `get_info`; awaiting it gives the answer."""
        return self.get_info()

    def _base_model(self) -> str:
        return self._info.model_name or self._info.model_data.model_name or ""

    def _load(
        self, path: str, weights_access_token: str | None, *, with_optimizer: bool
    ) -> APIFuture[LoadWeightsResponse]:
        return self._lane.request(
            LoadWeightsRequest(
                model_id=self.model_id,
                path=path,
                optimizer=with_optimizer,
                weights_access_token=weights_access_token,
            ),
            _LOAD_WEIGHTS,
            LoadWeightsResponse,
        )
