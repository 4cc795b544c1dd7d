"""Bodies of JSON requests that only the service needs to know; the others are in `tinsmith.types`.

Unknown fields are refused by name, so that nothing a client asks for is dropped silently.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from tinsmith.types import AccessScope, AdamParams, OptimParams, RequestModel
from tinsmith.types.billing import check_span

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
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
    """optim_step: `adam_params`, or `optimizer_params` of another family."""

    model_id: str
    seq_id: int | None = None
    adam_params: AdamParams | None = None
    optimizer_params: OptimParams | None = None
    type: Literal["optim_step"] = "optim_step"


class RetainQuery(RequestModel):
    """ext/retained_forward: what else it answers."""

    distribution: Annotated[int, Field(ge=1)] | Literal["full"] | None = None
    """So many likeliest tokens of every position with their logprobs, or all logprobs by id."""


class UseGraphQuery(RequestModel):
    """ext/retained_backward: through which graphs."""

    graph: Annotated[str, Field(pattern=r"^[0-9]{1,16}(,[0-9]{1,16}){0,63}$")]
    """`seq_id` of the retained_forward; several, with commas between, where the body holds the
    datums of several forwards one after another."""
    on_missing: Literal["fail", "recompute"] = "fail"
    """Refuse if a graph is gone, or run an ordinary pass."""
    accumulate: bool = True
    """Add the gradient and let go of the graphs; else tell its norm only, and keep them."""


class CancelFutureRequest(RequestModel):
    """cancel_future."""

    request_id: str


class JoinSamplingSessionRequest(RequestModel):
    """join_sampling_session."""

    sampling_session_id: str
    type: Literal["join_sampling_session"] = "join_sampling_session"


class SamplingTarget(RequestModel):
    """One client of a sampling session."""

    type: Literal["sampling_session"] = "sampling_session"
    sampling_session_id: str
    cloned_sampler_id: Annotated[int, Field(ge=0)] = 0


class RetrieveFuturesRequest(RequestModel):
    """retrieve_futures."""

    target: SamplingTarget
    prev_cursor: Annotated[int, Field(ge=0, le=2**53)] = 0
    timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    retrieved_request_ids: list[str] = []


class TelemetryRequest(RequestModel):
    """telemetry; only what is named here is ever looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    events: list[TelemetryEvent]
    session_id: str | None = None


class TelemetryEvent(RequestModel):
    """One event of a client; stack traces, messages and headers may hold keys and are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    event: str
    event_name: str | None = None
    error_type: str | None = None


class CreateKeyRequest(RequestModel):
    """ext/keys."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=PRINTABLE)]
    note: Annotated[str, Field(max_length=1000, pattern=PRINTABLE)] = ""


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
    file: str = ""
    """One file of the checkpoint; by default the tar of them all."""


class UsageQuery(RequestModel):
    """A span of time; RFC 3339."""

    starting_on: datetime | None = None
    ending_before: datetime | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.starting_on is not None and self.ending_before is not None:
            check_span(self.starting_on, self.ending_before)
        return self


class StorageQuery(RequestModel):
    """Whose storage."""

    project_id: str | None = None


class AuditQuery(RequestModel):
    """Which events of which day."""

    event_type: Literal["all", "checkpoints", "projects", "teams", "organizations"] = "all"
    day: date | None = None
