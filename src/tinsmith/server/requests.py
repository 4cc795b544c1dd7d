"""Bodies of JSON requests that only the service needs to know; the others are in `tinsmith.types`.

Unknown fields are refused by name, so that nothing a client asks for is dropped silently.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from tinsmith.types import AdamParams, RequestModel


class ClientConfigRequest(RequestModel):
    """client/config and client/dynamic_config; whatever a client tells is fine."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sdk_version: str | None = None


class FinishReason(RequestModel):
    """Why a session ends."""

    type: Literal["success", "errored", "interrupted"]


class FinishSessionRequest(RequestModel):
    """sessions/{id}/finish."""

    reason: FinishReason = FinishReason(type="success")
    detail: str | None = None


class UnloadModelRequest(RequestModel):
    """unload_model."""

    model_id: str
    type: Literal["unload_model"] = "unload_model"


class OptimStepBody(RequestModel):
    """optim_step; another optimizer's parameters are told apart to be refused by name."""

    model_id: str
    seq_id: int | None = None
    adam_params: AdamParams | None = None
    optimizer_params: dict[str, Any] | None = None  # Any: another family's settings
    type: Literal["optim_step"] = "optim_step"


class WeightsInfoRequest(RequestModel):
    """weights_info."""

    tinker_path: str
