"""What an account has used and what happened in it: shapes of the protocol.

A self-hosted service has no bills: its answers are short, and costs are None.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tinsmith.core.errors import ConfigError
from tinsmith.types._model import RequestModel, ResponseModel

__all__ = [
    "AuditEventType",
    "AuditLogEntry",
    "AuditLogResponse",
    "BillingEventInfo",
    "BillingUsageEvent",
    "BillingUsageResponse",
    "BillingUsageSession",
    "CheckpointBillingEvent",
    "CurrentCheckpointStorageUsageItem",
    "CurrentCheckpointStorageUsageResponse",
    "GetBillingUsageRequest",
    "GetCurrentCheckpointStorageUsageRequest",
    "SamplingPrefillBillingEvent",
    "SamplingSampleBillingEvent",
    "StorageBillingEvent",
    "TrainingBillingEvent",
]

AuditEventType = Literal["all", "checkpoints", "projects", "teams", "organizations"]


class AuditLogEntry(ResponseModel):
    """Something that was done."""

    timestamp: datetime
    event: str
    """`<resource>_<action>`, such as `checkpoint_read`."""
    event_details: dict[str, object] = {}
    model_id: str | None = None
    """Of older services; newer ones say it in `event_details`. So for the two below."""
    tinker_path: str | None = None
    purpose: str | None = None


class AuditLogResponse(ResponseModel):
    """What was done in a day, in order."""

    entries: list[AuditLogEntry]


def check_span(starting_on: datetime, ending_before: datetime) -> None:
    """Refuse a span of time that ends before it begins; a time without a zone is UTC.

    Raises:
        ConfigError: naming both ends.
    """
    start, end = (
        time.replace(tzinfo=UTC) if time.tzinfo is None else time
        for time in (starting_on, ending_before)
    )
    if start >= end:
        raise ConfigError(
            f"ending_before={end.isoformat()}: must be later than starting_on={start.isoformat()}",
            field="ending_before",
        )


class GetBillingUsageRequest(RequestModel):
    """A span of time in whole hours of UTC."""

    starting_on: datetime
    ending_before: datetime
    """Not itself part of the span."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        check_span(self.starting_on, self.ending_before)
        return self


class TrainingBillingEvent(ResponseModel):
    """Tokens that were trained on."""

    type: Literal["training"] = "training"
    token_count: int


class SamplingPrefillBillingEvent(ResponseModel):
    """Tokens of prompts."""

    type: Literal["sampling_prefill"] = "sampling_prefill"
    cached: bool
    """They came from the cache of prompts."""
    token_count: int


class SamplingSampleBillingEvent(ResponseModel):
    """Tokens that were drawn."""

    type: Literal["sampling_sample"] = "sampling_sample"
    token_count: int


class CheckpointBillingEvent(ResponseModel):
    """Checkpoints that were made."""

    type: Literal["checkpoint"] = "checkpoint"
    count: int


class StorageBillingEvent(ResponseModel):
    """Checkpoints that were kept."""

    type: Literal["storage"] = "storage"
    free: bool = False
    gigabyte_hours: float


BillingEventInfo = Annotated[
    TrainingBillingEvent
    | SamplingPrefillBillingEvent
    | SamplingSampleBillingEvent
    | CheckpointBillingEvent
    | StorageBillingEvent,
    Field(discriminator="type"),
]
"""What was used, told apart by `type`."""


class BillingUsageEvent(ResponseModel):
    """One kind of use in one hour."""

    bucket_start: datetime
    bucket_end: datetime
    base_model: str | None = None
    user_id: str | None = None
    user_name: str | None = None
    session_id: str | None = None
    project_id: str | None = None
    estimated_cost_usd: float | None = None
    effective_rate_usd_per_million_tokens: float | None = None
    effective_rate_usd_per_gigabyte_month: float | None = None
    event_info: BillingEventInfo


class BillingUsageSession(ResponseModel):
    """A session that something was used in."""

    user_metadata: dict[str, str] | None = None


class BillingUsageResponse(ResponseModel):
    """What was used in a span of time."""

    data: list[BillingUsageEvent]
    sessions: dict[str, BillingUsageSession] = {}
    cost_data_through: datetime | None = None
    """Costs before this moment come from invoices, later ones from published rates."""


class GetCurrentCheckpointStorageUsageRequest(RequestModel):
    """Whose checkpoints; None means all of the account."""

    project_id: str | None = None


class CurrentCheckpointStorageUsageItem(ResponseModel):
    """The checkpoints of one owner in one project."""

    project_id: str | None = None
    org_user_urn: str | None = None
    user_email: str | None = None
    user_name: str | None = None
    checkpoint_count: int
    size_bytes: int
    size_gigabytes: float
    estimated_monthly_cost_usd: float | None = None


class CurrentCheckpointStorageUsageResponse(ResponseModel):
    """What is kept now, by project and owner."""

    effective_rate_usd_per_gigabyte_month: float | None = None
    data: list[CurrentCheckpointStorageUsageItem]
