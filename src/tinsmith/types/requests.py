"""JSON bodies that clients send. `type` repeats the endpoint's name, as the protocol has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from tinsmith.types._model import Flag, RequestModel, allowed
from tinsmith.types.model_input import ModelInput
from tinsmith.types.optimizers import AdamOptimizerConfig, AdamParams, OptimizerConfig, OptimParams
from tinsmith.types.settings import LoraConfig, SamplingParams
from tinsmith.types.tensor_data import TensorData

__all__ = [
    "CreateModelRequest",
    "CreateSamplingSessionRequest",
    "CreateSessionRequest",
    "FutureRetrieveRequest",
    "GetInfoRequest",
    "LoadWeightsRequest",
    "OptimStepRequest",
    "SampleRequest",
    "SamplingClientKind",
    "SaveWeightsForSamplerRequest",
    "SaveWeightsRequest",
    "SessionHeartbeatRequest",
]

UserMetadata = dict[str, Any]  # Any: the user's own JSON, kept and never read

SamplingClientKind = Literal["snapshot", "inflight"]
"""Weights that stay, or weights that later saves of the kind replace."""

_Count = Annotated[int, allowed(lambda n: n >= 0, "must be 0 or more")]
_Number = Annotated[int, allowed(lambda n: 0 <= n <= 2**53, "must be 0..2**53")]
"""Place in an order that the client counts."""
_SampleNumber = Annotated[int, allowed(lambda n: 0 <= n < 2**63, "must be 0 or more in 64 bits")]
"""The same, of a sample; a clone's begin at its number, up to 10**9, times 10**9."""
_NumSamples = Annotated[int, allowed(lambda n: n >= 1, "must be 1 or more")]
_Text = Annotated[str, allowed(bool, "must not be empty")]


class CreateSessionRequest(RequestModel):
    """Opens a session, the frame of everything that one client does."""

    tags: list[str] = []
    user_metadata: UserMetadata | None = None
    sdk_version: str
    project_id: str | None = None
    display_name: str | None = None
    type: Literal["create_session"] = "create_session"


class SessionHeartbeatRequest(RequestModel):
    """Says that the client is alive."""

    session_id: str
    type: Literal["session_heartbeat"] = "session_heartbeat"


class CreateModelRequest(RequestModel):
    """Makes an adapter on a base model."""

    session_id: str
    model_seq_id: _Number
    """Place among the session's models, from 0."""
    base_model: _Text
    user_metadata: UserMetadata | None = None
    lora_config: LoraConfig | None = None
    optimizer_config: OptimizerConfig = AdamOptimizerConfig()
    """The optimizer's family, fixed for the model's life."""
    type: Literal["create_model"] = "create_model"


class GetInfoRequest(RequestModel):
    """Asks what a model is."""

    model_id: str
    type: Literal["get_info"] = "get_info"


class OptimStepRequest(RequestModel):
    """Steps the optimizer on the gradients gathered since its last step."""

    optim_params: Annotated[
        OptimParams,
        Field(validation_alias=AliasChoices("optim_params", "adam_params", "optimizer_params")),
    ]
    model_id: str
    seq_id: int | None = None
    type: Literal["optim_step"] = "optim_step"

    @model_serializer(mode="wrap")
    def _named_by_family(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """On the wire AdamW's settings are `adam_params`, all others `optimizer_params`."""
        body: dict[str, Any] = dump(self)  # Any: JSON
        is_adam = isinstance(self.optim_params, AdamParams)
        params = {"adam_params" if is_adam else "optimizer_params": body.pop("optim_params")}
        return {**params, **body}


class SaveWeightsRequest(RequestModel):
    """Saves weights and optimizer state under a name."""

    model_id: str
    path: str | None = None
    """The checkpoint's name, without slashes."""
    seq_id: int | None = None
    ttl_seconds: int | None = None
    overwrite: Flag = False
    user_metadata: UserMetadata | None = None
    type: Literal["save_weights"] = "save_weights"


class SaveWeightsForSamplerRequest(RequestModel):
    """Saves weights to sample from: under a name, or nameless straight into a sampling session."""

    model_id: str
    path: str | None = None
    sampling_session_seq_id: _Number | None = None
    kind: SamplingClientKind = "snapshot"
    seq_id: int | None = None
    ttl_seconds: int | None = None
    user_metadata: UserMetadata | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class LoadWeightsRequest(RequestModel):
    """Loads a checkpoint into a model, or (with a session) makes a model from it."""

    model_id: str | None = None
    seq_id: int | None = None
    session_id: str | None = None
    model_seq_id: _Number | None = None
    base_model: str | None = None
    user_metadata: UserMetadata | None = None
    path: _Text
    optimizer: Flag = False
    """Also restore the optimizer's state."""
    optimizer_config: OptimizerConfig | None = None
    """The family of a new model; None takes the checkpoint's."""
    weights_access_token: str | None = None
    type: Literal["load_weights"] = "load_weights"


class CreateSamplingSessionRequest(RequestModel):
    """Makes something to sample from: a base model, or saved sampler weights."""

    session_id: str
    sampling_session_seq_id: _Number
    base_model: str | None = None
    model_path: str | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"


def _false_if_none(value: object) -> object:
    return False if value is None else value


class SampleRequest(RequestModel):
    """Asks for continuations of a prompt, or for log-probabilities of the prompt itself."""

    num_samples: _NumSamples = 1
    prompt: ModelInput
    sampling_params: SamplingParams
    base_model: str | None = None
    model_path: str | None = None
    sampling_session_id: str | None = None
    seq_id: _SampleNumber | None = None
    """Place among the sampler's requests, from 0; the same one sent again is the same request."""
    prompt_logprobs: Annotated[Flag, BeforeValidator(_false_if_none)] = False
    topk_prompt_logprobs: _Count = 0
    topk_sample_logprobs: _Count = 0
    target_prompt_logprobs: TensorData | None = None
    prompt_alt_tokens_k: _Count = 0
    prompt_logprobs_last_n: int | None = None
    record_stability_info: Flag = False
    type: Literal["sample"] = "sample"


class FutureRetrieveRequest(RequestModel):
    """Asks for the result behind a request id; the service holds the answer back a while."""

    request_id: str
    allow_metadata_only: Flag = False
