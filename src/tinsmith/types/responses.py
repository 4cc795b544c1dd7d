"""JSON bodies that services answer; fields that a newer service adds are ignored."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from tinsmith.types._model import ResponseModel
from tinsmith.types.checkpoints import OptimizerConfigInfo

__all__ = [
    "CreateModelResponse",
    "CreateSamplingSessionResponse",
    "CreateSessionResponse",
    "GetInfoResponse",
    "GetSamplerResponse",
    "GetServerCapabilitiesResponse",
    "LoadWeightsResponse",
    "ModelData",
    "QueueState",
    "RequestErrorCategory",
    "RequestFailedResponse",
    "RequestID",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "SessionHeartbeatResponse",
    "SupportedModel",
    "TryAgainResponse",
    "UntypedAPIFuture",
]

QueueState = Literal["active", "paused_capacity", "paused_rate_limit"]
RequestID = str


class RequestErrorCategory(StrEnum):
    """Whose fault a failed request is; compare it with `==`, for errors carry the plain text."""

    Unknown = "unknown"
    Server = "server"
    User = "user"


class UntypedAPIFuture(ResponseModel):
    """The promise of a result: ask for it with `request_id`."""

    request_id: str
    model_id: str | None = None
    sample_sequence_ids: list[str] | None = None
    """Of a sample request: one for each sequence, in the order of the result."""


class TryAgainResponse(ResponseModel):
    """The result is not ready: ask again."""

    type: Literal["try_again"] = "try_again"
    request_id: str
    queue_state: str = "active"
    """A `QueueState`, or a word that a newer service uses."""
    queue_state_reason: str | None = None


class RequestFailedResponse(ResponseModel):
    """The request was accepted and failed."""

    error: str
    category: str = "unknown"
    """"user", "server" or "unknown"."""


class CreateSessionResponse(ResponseModel):
    """The session and what the service has to say about it."""

    session_id: str
    info_message: str | None = None
    warning_message: str | None = None
    error_message: str | None = None
    type: Literal["create_session"] = "create_session"


class SessionHeartbeatResponse(ResponseModel):
    """The session lives."""

    type: Literal["session_heartbeat"] = "session_heartbeat"


class CreateModelResponse(ResponseModel):
    """The model is there."""

    model_id: str
    type: Literal["create_model"] = "create_model"


class ModelData(ResponseModel):
    """The base model behind a model."""

    arch: str | None = None
    model_name: str | None = None
    tokenizer_id: str | None = None
    vocab_size: int | None = None
    """Tokens that the model tells apart; an extension, None where a service does not tell."""


class GetInfoResponse(ResponseModel):
    """What a model is."""

    model_data: ModelData
    model_id: str
    optimizer_config: OptimizerConfigInfo = OptimizerConfigInfo()
    is_lora: bool | None = None
    lora_rank: int | None = None
    model_name: str | None = None
    type: Literal["get_info"] | None = None


class SupportedModel(ResponseModel):
    """A base model of a service."""

    model_name: str | None = None
    max_context_length: int | None = None
    """Tokens of prompt and continuation together."""
    trainable: bool | None = None
    sampleable: bool | None = None


class GetServerCapabilitiesResponse(ResponseModel):
    """What a service offers."""

    supported_models: list[SupportedModel]
    extensions: list[str] = []
    """What the service does beyond the protocol, under `ext/`."""


class SaveWeightsResponse(ResponseModel):
    """Where the checkpoint is."""

    path: str
    type: Literal["save_weights"] | None = None


class SaveWeightsForSamplerResponse(ResponseModel):
    """Where the weights are (saved under a name), or the session that samples from them."""

    path: str | None = None
    sampling_session_id: str | None = None
    type: Literal["save_weights_for_sampler"] | None = None


class LoadWeightsResponse(ResponseModel):
    """The checkpoint is loaded."""

    path: str | None = None
    model_id: str | None = None
    type: Literal["load_weights"] | None = None


class CreateSamplingSessionResponse(ResponseModel):
    """The session to sample from."""

    sampling_session_id: str
    type: Literal["create_sampling_session"] = "create_sampling_session"


class GetSamplerResponse(ResponseModel):
    """What a sampling session samples from."""

    sampler_id: str
    base_model: str
    model_path: str | None = None
