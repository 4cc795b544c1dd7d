"""JSON bodies that services answer; fields that a newer service adds are ignored."""

from __future__ import annotations

from typing import Any, Literal

from tinsmith.core.errors import UserError
from tinsmith.types._model import ResponseModel

__all__ = [
    "Checkpoint",
    "CheckpointType",
    "CheckpointsListResponse",
    "CreateModelResponse",
    "CreateSamplingSessionResponse",
    "CreateSessionResponse",
    "Cursor",
    "GetInfoResponse",
    "GetSamplerResponse",
    "GetServerCapabilitiesResponse",
    "LoadWeightsResponse",
    "ModelData",
    "OptimizerConfigInfo",
    "ParsedCheckpointTinkerPath",
    "QueueState",
    "RequestFailedResponse",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "SessionHeartbeatResponse",
    "SupportedModel",
    "TrainingRun",
    "TrainingRunsResponse",
    "TryAgainResponse",
    "UntypedAPIFuture",
    "WeightsInfoResponse",
]

CheckpointType = Literal["training", "sampler", "external"]
QueueState = Literal["active", "paused_capacity", "paused_rate_limit"]
UserMetadata = dict[str, Any]  # Any: the user's own JSON, kept and never read


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


class OptimizerConfigInfo(ResponseModel):
    """The optimizer's family."""

    type: str = "adamw"


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


class Cursor(ResponseModel):
    """A page's place in a list."""

    offset: int
    limit: int
    total_count: int


class Checkpoint(ResponseModel):
    """A saved state."""

    checkpoint_id: str
    """`weights/<name>` or `sampler_weights/<name>`."""
    checkpoint_type: CheckpointType
    time: str
    """RFC 3339."""
    tinker_path: str
    size_bytes: int | None = None
    public: bool = False
    user_metadata: UserMetadata | None = None
    expires_at: str | None = None


class CheckpointsListResponse(ResponseModel):
    """A page of checkpoints."""

    checkpoints: list[Checkpoint]
    cursor: Cursor | None = None


class TrainingRun(ResponseModel):
    """A model and what became of it."""

    training_run_id: str
    base_model: str
    model_owner: str
    is_lora: bool
    corrupted: bool = False
    lora_rank: int | None = None
    last_request_time: str
    """RFC 3339."""
    last_checkpoint: Checkpoint | None = None
    last_sampler_checkpoint: Checkpoint | None = None
    user_metadata: UserMetadata | None = None


class TrainingRunsResponse(ResponseModel):
    """A page of training runs."""

    training_runs: list[TrainingRun]
    cursor: Cursor


class WeightsInfoResponse(ResponseModel):
    """What a checkpoint holds."""

    base_model: str
    is_lora: bool
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    optimizer_config: OptimizerConfigInfo | None = None


_TYPE_OF_SEGMENT: dict[str, CheckpointType] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}


class ParsedCheckpointTinkerPath(ResponseModel):
    """The parts of a checkpoint's address, `tinker://<run>/<segment>/<name>`."""

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    checkpoint_id: str
    """Segment and name, such as `weights/step-10`."""

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> ParsedCheckpointTinkerPath:
        """Take an address apart.

        Raises:
            UserError: it does not have this form.

        Example:
            >>> ParsedCheckpointTinkerPath.from_tinker_path("tinker://r/weights/a").checkpoint_id
            'weights/a'
        """
        parts = tinker_path.removeprefix("tinker://").split("/")
        if not tinker_path.startswith("tinker://") or len(parts) != 3 or not all(parts):
            raise _bad_address(tinker_path)
        run, segment, name = parts
        kind = _TYPE_OF_SEGMENT.get(segment)
        if kind is None:
            raise _bad_address(tinker_path)
        return cls(
            tinker_path=tinker_path,
            training_run_id=run,
            checkpoint_type=kind,
            checkpoint_id=f"{segment}/{name}",
        )


def _bad_address(tinker_path: str) -> UserError:
    return UserError(
        f"path={tinker_path!r}: not a checkpoint's address",
        field="path",
        hint=f"it has the form tinker://<run>/<{'|'.join(_TYPE_OF_SEGMENT)}>/<name>",
    )
