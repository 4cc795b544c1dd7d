"""Training runs: models that a service has trained, and what became of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from tinsmith.types._model import ResponseModel
from tinsmith.types.checkpoints import Checkpoint
from tinsmith.types.cursor import Cursor

__all__ = ["AccessScope", "ModelID", "TrainingRun", "TrainingRunsResponse"]

ModelID = str
"""`<session>:train:<n>`; names a model and its training run alike."""
AccessScope = Literal["owned", "accessible"]
"""Whose things are looked at: the caller's own, or all that the caller may see."""


class TrainingRun(ResponseModel):
    """A model and what became of it."""

    training_run_id: ModelID
    base_model: str
    model_owner: str
    is_lora: bool
    corrupted: bool = False
    """Whether the service lost the model's state; its checkpoints are whole."""
    lora_rank: int | None = None
    last_request_time: datetime
    last_checkpoint: Checkpoint | None = None
    """The newest to resume from."""
    last_sampler_checkpoint: Checkpoint | None = None
    """The newest to sample from."""
    user_metadata: dict[str, Any] | None = None  # Any: the user's own JSON, kept and never read


class TrainingRunsResponse(ResponseModel):
    """A page of training runs."""

    training_runs: list[TrainingRun]
    cursor: Cursor
