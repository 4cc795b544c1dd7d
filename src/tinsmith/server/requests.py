"""Bodies of JSON requests that only the service needs to know; the others are in `tinsmith.types`.

Unknown fields are refused by name, so that nothing a client asks for is dropped silently.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from tinsmith.types import AccessScope, AdamParams, RequestModel

MAX_PAGE = 1000
MAX_OFFSET = 2**53

PageLimit = Annotated[int, Field(ge=1, le=MAX_PAGE)]
PageOffset = Annotated[int, Field(ge=0, le=MAX_OFFSET)]


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


class ScopeQuery(RequestModel):
    """Whose things are looked at."""

    access_scope: AccessScope = "owned"


class RunsQuery(ScopeQuery):
    """A page of training runs."""

    limit: PageLimit = 20
    offset: PageOffset = 0
    project_id: str | None = None


class SessionsQuery(ScopeQuery):
    """A page of sessions."""

    limit: PageLimit = 20
    offset: PageOffset = 0


class CheckpointsQuery(RequestModel):
    """A page of checkpoints."""

    limit: PageLimit = 100
    offset: PageOffset = 0


class ArchiveQuery(RequestModel):
    """The parts of a signed link."""

    path: str
    expires: int
    signature: str


class UsageQuery(RequestModel):
    """A span of time; RFC 3339."""

    starting_on: datetime | None = None
    ending_before: datetime | None = None


class StorageQuery(RequestModel):
    """Whose storage."""

    project_id: str | None = None


class AuditQuery(RequestModel):
    """Which events of which day."""

    event_type: Literal["all", "checkpoints", "projects", "teams", "organizations"] = "all"
    day: date | None = None
