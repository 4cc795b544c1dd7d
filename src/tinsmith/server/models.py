"""Models in training: creating, loading, stepping, saving and unloading them.

Every method checks its request, then puts work on the model's lane and returns a request id. A
request refused after its model and sequence number are known uses the number up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tinsmith.algorithms.loss_graph import LossGraph
from tinsmith.core.errors import TinsmithError
from tinsmith.engine.jobs import ForwardBackwardJob, OptimStepJob, RetainGraph, UseGraph
from tinsmith.server import messages
from tinsmith.server.access import may_use
from tinsmith.server.base_models import BaseModelFacts
from tinsmith.server.checkpoints import (
    CheckpointPath,
    CheckpointRecord,
    parse_checkpoint_path,
)
from tinsmith.server.custom_losses import CustomLossRegistry
from tinsmith.server.dispatcher import Work
from tinsmith.server.errors import RequestError
from tinsmith.server.futures import TRAINING_TYPE, Outcome
from tinsmith.server.model_saves import ModelSaves
from tinsmith.server.optimizer_checks import check_optim_params, check_optimizer_config
from tinsmith.server.registry import Registry, ServiceParts
from tinsmith.server.requests import OptimStepBody
from tinsmith.server.store import ModelRecord
from tinsmith.server.validation import (
    check_lora_config,
    check_training_request,
)
from tinsmith.types import (
    AdapterTermsRequest,
    AdapterTermsResponse,
    CreateModelRequest,
    ForwardBackwardRequest,
    LoadWeightsRequest,
    LoraConfig,
    OptimizerConfig,
    OptimStepResponse,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)

MAX_SEQ_ID = 2**53
_OF_NEW_MODELS = ("session_id", "model_seq_id", "base_model", "optimizer_config", "user_metadata")
"""Fields of load_weights that only a new model takes."""

MakeWork = Callable[[ModelRecord], Work]


class ModelRegistry(Registry):
    """The models of the service. Lives on the event loop."""

    def __init__(self, parts: ServiceParts, custom_losses: CustomLossRegistry) -> None:
        super().__init__(parts)
        self._custom_losses = custom_losses
        self._saves = ModelSaves(parts.store, parts.checkpoints)

    def create(self, body: CreateModelRequest, *, digest: str) -> tuple[str, str]:
        """Makes a fresh model; returns (request id, model id)."""
        self._sessions.touch(body.session_id)
        lora_config = body.lora_config
        if lora_config is None:
            raise RequestError(
                "lora_config: missing", field="lora_config", hint='for example {"rank": 32}'
            )
        model_id = _model_id(body.session_id, body.model_seq_id)

        def make(_: BaseModelFacts) -> messages.Command:
            check_lora_config(lora_config)
            check_optimizer_config(body.optimizer_config)
            return messages.CreateAdapter(model_id, lora_config, body.optimizer_config)

        def encode(lora_config: object) -> Outcome:
            assert isinstance(lora_config, LoraConfig)
            # with the seed that was used
            self._store.set_lora_config(self._store.models[model_id], lora_config)
            self._store.note_state(model_id, "live")
            return _json({"type": "create_model", "model_id": model_id})

        request_id = self._add(
            body,
            digest=digest,
            base_model=body.base_model,
            lora_config=lora_config,
            optimizer_config=body.optimizer_config,
            make=make,
            encode=encode,
        )
        return request_id, model_id

    def load_new(self, body: LoadWeightsRequest, *, digest: str) -> tuple[str, str]:
        """Makes a model from a training checkpoint; returns (request id, model id)."""
        if body.session_id is None or body.model_seq_id is None:
            raise RequestError(
                "model_id: missing, and so are session_id and model_seq_id",
                field="model_id",
                hint="load into a model (model_id, seq_id) or a new one (session_id, model_seq_id)",
            )
        _check_left_out(body, ("seq_id",), beside="model_seq_id")
        self._sessions.touch(body.session_id)
        path, record = self._checkpoint(body)
        model_id = _model_id(body.session_id, body.model_seq_id)
        if body.base_model is not None and body.base_model != record.base_model:
            raise RequestError(
                f"base_model={body.base_model!r}: the checkpoint is of {record.base_model!r}",
                field="base_model",
                hint="leave base_model out",
            )
        optimizer_config = body.optimizer_config or record.optimizer_config
        check_optimizer_config(optimizer_config)
        _check_family(body, record, optimizer_config)
        answer = {"type": "load_weights", "path": str(path), "model_id": model_id}
        command = messages.LoadState(
            model_id,
            self._checkpoints.directory(path),
            body.optimizer,
            create=True,
            optimizer_config=optimizer_config,
        )

        def encode(_: object) -> Outcome:
            self._store.note_state(model_id, "live")
            return _json(answer)

        request_id = self._add(
            body,
            digest=digest,
            base_model=record.base_model,
            lora_config=record.lora_config,
            optimizer_config=optimizer_config,
            make=lambda _: command,
            encode=encode,
        )
        return request_id, model_id

    def load_into(self, body: LoadWeightsRequest, *, digest: str) -> str:
        """Replaces a model's weights by a training checkpoint's."""
        assert body.model_id is not None

        def make(model: ModelRecord) -> Work:
            _check_left_out(body, _OF_NEW_MODELS, beside="model_id")
            path, record = self._checkpoint(body)
            if record.base_model != model.base_model:
                raise RequestError(
                    f"path={body.path!r}: is of base_model={record.base_model!r}, the model is of "
                    f"{model.base_model!r}",
                    field="path",
                )
            _check_family(body, record, model.optimizer_config)
            answer = {"type": "load_weights", "path": str(path), "model_id": model.model_id}

            def encode(_: object) -> Outcome:
                self._store.set_lora_config(model, record.lora_config)
                return _json(answer)

            directory = self._checkpoints.directory(path)
            command = messages.LoadState(model.model_id, directory, body.optimizer, create=False)
            return Work("control", command, encode)

        return self._submit(body.model_id, body.seq_id, make, digest=digest)

    def forward_backward(
        self,
        request: ForwardBackwardRequest,
        num_tokens: int | TinsmithError,
        *,
        digest: str,
        graph: RetainGraph | UseGraph | None = None,
    ) -> str:
        """Loss and gradients; `num_tokens` is what `check_training` found, or its error."""

        def make(model: ModelRecord) -> Work:
            if isinstance(num_tokens, TinsmithError):
                raise num_tokens
            job = ForwardBackwardJob(
                model.model_id,
                request.data,
                request.loss_fn,
                request.loss_fn_config,
                request.forward_only,
                custom_loss=self._custom_loss(model, request),
                graph=graph,
            )
            return Work("forward_backward", job, _encode_forward_backward, num_tokens)

        return self._submit(request.model_id, request.seq_id, make, digest=digest)

    def check_training(self, request: ForwardBackwardRequest) -> int | TinsmithError:
        """Checks a forward_backward without touching any state; may run on another thread."""
        model = self._store.model(request.model_id)
        try:
            return check_training_request(
                request,
                self._custom_loss(model, request),
                base_model=model.base_model,
                vocab_size=model.unit.vocab_size,
                max_context_length=model.unit.max_context_length,
            )
        except TinsmithError as exc:
            return exc

    def _custom_loss(self, model: ModelRecord, request: ForwardBackwardRequest) -> LossGraph | None:
        if request.loss_fn != "custom":
            return None
        return self._custom_losses.find(model.session_id, request.loss_fn_config)

    def optim_step(self, body: OptimStepBody, *, digest: str) -> str:
        """One optimizer step."""

        def make(model: ModelRecord) -> Work:
            params = check_optim_params(body, model.optimizer_config)
            job = OptimStepJob(model.model_id, params)
            return Work("optim_step", job, _encode_optim_step)

        return self._submit(body.model_id, body.seq_id, make, digest=digest)

    def adapter_terms(self, body: AdapterTermsRequest, *, digest: str) -> str:
        """Gradients of terms on the parameters alone."""

        def make(model: ModelRecord) -> Work:
            command = messages.AddAdapterTerms(model.model_id, body.terms)
            return Work("control", command, _encode_adapter_terms)

        return self._submit(body.model_id, body.seq_id, make, digest=digest)

    def save_weights(self, body: SaveWeightsRequest, *, digest: str) -> str:
        """Writes a training checkpoint."""

        def make(model: ModelRecord) -> Work:
            return self._saves.training(model, body)

        return self._submit(body.model_id, body.seq_id, make, digest=digest)

    def save_weights_for_sampler(self, body: SaveWeightsForSamplerRequest, *, digest: str) -> str:
        """Writes sampler weights, or takes a snapshot and opens a sampling session on it."""

        def make(model: ModelRecord) -> Work:
            return self._saves.sampler(model, body, digest=digest)

        return self._submit(body.model_id, body.seq_id, make, digest=digest)

    def save_weights_external(self, body: SaveWeightsExternalRequest, *, digest: str) -> str:
        """Writes the adapter in the Hugging Face layout, to be fetched file by file."""

        def make(model: ModelRecord) -> Work:
            return self._saves.external(model, body)

        return self._submit(body.model_id, body.seq_id, make, digest=digest)

    def get_info(self, model_id: str) -> dict[str, object]:
        """What the protocol tells about a model."""
        model = self._living(model_id)
        return {
            "type": "get_info",
            "model_id": model_id,
            "model_data": {
                "arch": model.unit.arch,
                "model_name": model.base_model,
                "tokenizer_id": model.unit.facts.tokenizer_id,
                "vocab_size": model.unit.vocab_size,
            },
            "is_lora": True,
            "lora_rank": model.lora_config.rank,
            "model_name": model.base_model,
            "optimizer_config": model.optimizer_config.model_dump(),
        }

    def unload(self, model_id: str) -> str:
        """Removes a model once everything accepted for it has run; a repetition changes nothing."""
        model = self._store.model(model_id)
        earlier = model.unit.dispatcher.last_request_id(model_id)
        if earlier is not None:
            return earlier
        model = self._living(model_id)
        answer = {"type": "unload_model", "model_id": model_id}
        work = Work("control", messages.UnloadAdapter(model_id), lambda _: _json(answer))
        self._store.note_state(model_id, "unloaded")
        return model.unit.dispatcher.submit_last(model_id, work)

    def skip(self, model_id: str, seq_id: int) -> None:
        """Counts the number of a request that could not be read as consumed."""
        model = self._store.models.get(model_id)
        if model is not None and may_use(model.key_id):
            model.unit.dispatcher.skip(model_id, seq_id)

    def end_session(self, session_id: str) -> None:
        """Unloads a session's models once everything accepted for them has run."""
        for model in list(self._store.models.values()):
            if model.session_id == session_id:
                self._unload_and_forget(model)
                self._store.note_state(model.model_id, "unloaded")
                del self._store.models[model.model_id]

    def _unload_and_forget(self, model: ModelRecord) -> None:
        dispatcher = model.unit.dispatcher

        def forget(_: object) -> Outcome:
            dispatcher.forget_lane(model.model_id)
            return _json({})

        if dispatcher.closed_error(model.model_id) is not None:
            dispatcher.forget_lane(model.model_id)
            return
        command = messages.UnloadAdapter(model.model_id)
        work = Work("control", command, forget)
        dispatcher.submit_last(model.model_id, work)

    def _living(self, model_id: str) -> ModelRecord:
        model = self._store.model(model_id)
        self._sessions.touch(model.session_id)
        closed = model.unit.dispatcher.closed_error(model_id)
        if closed is not None:
            raise closed
        return model

    def _submit(self, model_id: str, seq_id: int | None, make: MakeWork, *, digest: str) -> str:
        model = self._store.model(model_id)
        if seq_id is None or not 1 <= seq_id <= MAX_SEQ_ID:
            raise RequestError(
                f"seq_id={seq_id}: must be 1..{MAX_SEQ_ID}",
                field="seq_id",
                hint="number the requests of a model 1, 2, 3 ...",
            )
        self._sessions.touch(model.session_id)
        self._store.note_request(model)
        dispatcher = model.unit.dispatcher
        known = dispatcher.find(model_id, seq_id, digest)
        if known is not None:
            return known
        try:
            work = make(model)
        except TinsmithError:
            dispatcher.skip(model_id, seq_id)
            raise
        return dispatcher.submit(model_id, seq_id, work, digest=digest)

    def _add(
        self,
        body: CreateModelRequest | LoadWeightsRequest,
        *,
        digest: str,
        base_model: str,
        lora_config: LoraConfig,
        optimizer_config: OptimizerConfig,
        make: Callable[[BaseModelFacts], messages.Command],
        encode: Callable[[object], Outcome],
    ) -> str:
        assert body.session_id is not None
        assert body.model_seq_id is not None
        session_id, number = body.session_id, body.model_seq_id
        known = self._store.reserve(session_id, "model_seq_id", number, digest=digest)
        if known is not None:
            return known
        try:
            facts = self._catalog.resolve(base_model)
            command = make(facts)
            unit = self._engines.get(facts)
        except TinsmithError:
            self._store.unreserve(session_id, "model_seq_id", number)
            raise
        model = ModelRecord(
            model_id=_model_id(session_id, number),
            session_id=session_id,
            base_model=facts.name,
            lora_config=lora_config,
            user_metadata=body.user_metadata,
            unit=unit,
            optimizer_config=optimizer_config,
            key_id=self._store.session(session_id).key_id,
        )
        self._store.add_model(model)
        unit.dispatcher.open_lane(model.model_id, session_id)

        def on_failure(error: TinsmithError) -> None:
            why = RequestError(
                f"model_id={model.model_id!r}: was not created: {error.message}",
                field="model_id",
                hint=error.hint,
            )
            self._store.note_state(model.model_id, "failed")
            unit.dispatcher.close_lane(model.model_id, why)

        work = Work("control", command, encode, on_failure=on_failure)
        request_id = unit.dispatcher.submit(model.model_id, 0, work, digest=digest)
        self._store.bind(session_id, "model_seq_id", number, request_id)
        return request_id

    def _checkpoint(self, body: LoadWeightsRequest) -> tuple[CheckpointPath, CheckpointRecord]:
        path = parse_checkpoint_path(body.path, field="path", kind="weights")
        return path, self._checkpoints.read(path, field="path")


def _model_id(session_id: str, number: int) -> str:
    return f"{session_id}:train:{number}"


def _check_left_out(body: LoadWeightsRequest, names: Sequence[str], *, beside: str) -> None:
    """Refuses fields that the other way of loading takes."""
    for name in names:
        if getattr(body, name) is not None:
            raise RequestError(
                f"{name}: must be left out with {beside}", field=name, hint=f"leave {name} out"
            )


def _check_family(
    body: LoadWeightsRequest, record: CheckpointRecord, optimizer_config: OptimizerConfig
) -> None:
    """An optimizer's state is of use to its own family only; weights are to all."""
    if body.optimizer and optimizer_config != record.optimizer_config:
        raise RequestError(
            f"optimizer=true: the checkpoint's optimizer is {record.optimizer_config.type!r}, the "
            f"model's is {optimizer_config.type!r}",
            field="optimizer",
            hint="load the weights alone, and start the optimizer afresh",
        )


def _encode_forward_backward(answer: object) -> Outcome:
    assert isinstance(answer, bytes)
    return Outcome(answer, TRAINING_TYPE)


def _encode_adapter_terms(answer: object) -> Outcome:
    assert isinstance(answer, AdapterTermsResponse)
    return _json({**answer.model_dump(mode="json"), "type": "ext/adapter_terms"})


def _encode_optim_step(answer: object) -> Outcome:
    assert isinstance(answer, OptimStepResponse)
    return _json({"type": "optim_step", "metrics": finite(answer.metrics or {})})


def finite(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that JSON can carry."""
    return {name: value for name, value in metrics.items() if abs(value) < float("inf")}


def _json(value: Mapping[str, object]) -> Outcome:
    return Outcome.from_json(dict(value))
