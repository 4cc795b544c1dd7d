"""Saved weights: what a checkpoint is, where it lies, and what can be asked about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from tinsmith.core.errors import UserError
from tinsmith.types._model import RequestModel, ResponseModel
from tinsmith.types.cursor import Cursor

__all__ = [
    "Checkpoint",
    "CheckpointArchiveUrlResponse",
    "CheckpointTtlRequest",
    "CheckpointType",
    "CheckpointsListResponse",
    "CopyWeightsRequest",
    "CopyWeightsResponse",
    "ExternalWeightsUrlsResponse",
    "OptimizerConfigInfo",
    "ParsedCheckpointTinkerPath",
    "SaveWeightsExternalRequest",
    "SaveWeightsExternalResponse",
    "WeightsInfoRequest",
    "WeightsInfoResponse",
]

CheckpointType = Literal["training", "sampler", "external"]
UserMetadata = dict[str, Any]  # Any: the user's own JSON, kept and never read


class Checkpoint(ResponseModel):
    """Weights saved under a name."""

    checkpoint_id: str
    """Segment and name, such as `weights/step-10` or `sampler_weights/final`."""
    checkpoint_type: CheckpointType
    time: datetime
    """When it was saved."""
    tinker_path: str
    size_bytes: int | None = None
    public: bool = False
    """Whether other accounts may load it."""
    user_metadata: UserMetadata | None = None
    expires_at: datetime | None = None
    """When it is deleted; None keeps it."""


class CheckpointsListResponse(ResponseModel):
    """Checkpoints of a run, or a page of all checkpoints."""

    checkpoints: list[Checkpoint]
    cursor: Cursor | None = None
    """None where the list is not paged."""


class CheckpointArchiveUrlResponse(ResponseModel):
    """Where a checkpoint's files can be fetched, as one tar."""

    url: str
    """Signed: who has it needs no API key."""
    expires: datetime
    """When the address stops working."""


class CheckpointTtlRequest(RequestModel):
    """Sets when a checkpoint is deleted; sent with its null, which keeps it for good."""

    ttl_seconds: int | None


class WeightsInfoRequest(RequestModel):
    """Asks what a checkpoint holds."""

    tinker_path: str


class OptimizerConfigInfo(ResponseModel):
    """The optimizer's family."""

    type: str = "adamw"
    version: int | None = None


class WeightsInfoResponse(ResponseModel):
    """What a checkpoint holds."""

    base_model: str
    is_lora: bool
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    optimizer_config: OptimizerConfigInfo = OptimizerConfigInfo()


class CopyWeightsRequest(RequestModel):
    """Copies a checkpoint into a project, or into a run of a session."""

    source_path: str
    destination_project_id: str | None = None
    session_id: str | None = None
    model_seq_id: int | None = None
    ttl_seconds: int | None = None
    """Of the copy; the source's is not inherited."""
    weights_access_token: str | None = None


class CopyWeightsResponse(ResponseModel):
    """Where the copy is."""

    tinker_path: str


class ExternalWeightsUrlsResponse(ResponseModel):
    """Where the files of an exported checkpoint can be fetched."""

    urls: dict[str, str]
    """Signed address of each file, by its path relative to the checkpoint."""
    expires: datetime
    """When the addresses stop working."""


class SaveWeightsExternalRequest(RequestModel):
    """Exports weights in the Hugging Face layout."""

    model_id: str
    path: str
    """The export's name, without slashes."""
    seq_id: int | None = None
    ttl_seconds: int | None = None
    age_encryption_recipients: list[str] | None = None
    """Keys of `age` that every file is encrypted to; None leaves them plain."""
    type: Literal["save_weights_external"] = "save_weights_external"


class SaveWeightsExternalResponse(ResponseModel):
    """Where the export is."""

    path: str
    size_bytes: int | None = None
    type: Literal["save_weights_external"] | None = None


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
