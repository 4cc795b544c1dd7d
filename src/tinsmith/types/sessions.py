"""Sessions as they are looked at afterwards: what they hold, how they ended, how they are found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field

from tinsmith.types._model import RequestModel, ResponseModel, allowed

__all__ = [
    "AccessibleSearchOwner",
    "ActiveSessionStatusQuery",
    "CancelledSessionStatusQuery",
    "ClientFinishedSessionStatusQuery",
    "ClientSessionFinishErrored",
    "ClientSessionFinishInterrupted",
    "ClientSessionFinishReason",
    "ClientSessionFinishReasonType",
    "ClientSessionFinishSuccess",
    "ClientSessionFinished",
    "FailedSessionStatusQuery",
    "GetSessionResponse",
    "ListSessionsResponse",
    "OwnSearchOwner",
    "SearchOwner",
    "SessionActive",
    "SessionCancelled",
    "SessionFailed",
    "SessionFailedReason",
    "SessionFailedRequestReason",
    "SessionFailedSamplingSessionReason",
    "SessionFailedTrainingRunReason",
    "SessionProjectRequest",
    "SessionSearchCursor",
    "SessionSearchRequest",
    "SessionSearchResponse",
    "SessionStatus",
    "SessionStatusQuery",
    "SessionSummary",
    "SessionTraceExportResponse",
    "UserSearchOwner",
]

UserMetadata = dict[str, Any]  # Any: the user's own JSON, kept and never read
ClientSessionFinishReasonType = Literal["success", "errored", "interrupted"]


class GetSessionResponse(ResponseModel):
    """What a session made."""

    training_run_ids: list[str]
    sampler_ids: list[str]
    user_metadata: UserMetadata | None = None
    display_name: str | None = None


class ListSessionsResponse(ResponseModel):
    """A page of session ids."""

    sessions: list[str]


class SessionProjectRequest(RequestModel):
    """Moves a session to a project."""

    project_id: str


class SessionTraceExportResponse(ResponseModel):
    """How far the export of a session's trace is."""

    status: Literal["pending", "ready", "failed"]
    url: str | None = None
    error: str | None = None


# How a session stands ------------------------------------------------------------------------


class SessionActive(ResponseModel):
    """Its client is there."""

    type: Literal["active"] = "active"


class SessionCancelled(ResponseModel):
    """Somebody ended it from outside."""

    type: Literal["cancelled"] = "cancelled"
    detail: str | None = None


class SessionFailedRequestReason(ResponseModel):
    """One of its requests failed it."""

    type: Literal["request"] = "request"
    request_id: str
    request_type: str


class SessionFailedTrainingRunReason(ResponseModel):
    """One of its training runs failed it."""

    type: Literal["training_run"] = "training_run"
    training_run_id: str


class SessionFailedSamplingSessionReason(ResponseModel):
    """One of its sampling sessions failed it."""

    type: Literal["sampling_session"] = "sampling_session"
    sampling_session_id: str


SessionFailedReason = Annotated[
    SessionFailedRequestReason
    | SessionFailedTrainingRunReason
    | SessionFailedSamplingSessionReason,
    Field(discriminator="type"),
]


class SessionFailed(ResponseModel):
    """Something in it failed it."""

    type: Literal["failed"] = "failed"
    category: Literal["user", "internal"]
    reason: SessionFailedReason
    message: str


class ClientSessionFinishSuccess(ResponseModel):
    """The client's work was done."""

    type: Literal["success"] = "success"


class ClientSessionFinishErrored(ResponseModel):
    """An exception ended the client."""

    type: Literal["errored"] = "errored"


class ClientSessionFinishInterrupted(ResponseModel):
    """Somebody stopped the client."""

    type: Literal["interrupted"] = "interrupted"


ClientSessionFinishReason = Annotated[
    ClientSessionFinishSuccess | ClientSessionFinishErrored | ClientSessionFinishInterrupted,
    Field(discriminator="type"),
]


class ClientSessionFinished(ResponseModel):
    """Its client said that it was done."""

    type: Literal["client_finished"] = "client_finished"
    reason: ClientSessionFinishReason
    detail: str | None = None


SessionStatus = Annotated[
    SessionFailed | SessionCancelled | ClientSessionFinished | SessionActive,
    Field(discriminator="type"),
]


class SessionSummary(ResponseModel):
    """A session that a search found."""

    session_id: str
    created_at: datetime
    owner: str
    project_id: str
    status: SessionStatus | None = None
    """None when it neither finished nor is known to be running."""
    checkpoints_count: int
    display_name: str | None = None
    user_metadata: UserMetadata | None = None
    checkpoint_storage_bytes: int | None = None


# Search --------------------------------------------------------------------------------------


class OwnSearchOwner(RequestModel):
    """The caller's own sessions."""

    type: Literal["own"] = "own"


class AccessibleSearchOwner(RequestModel):
    """Everybody's sessions that the caller may see."""

    type: Literal["accessible"] = "accessible"


class UserSearchOwner(RequestModel):
    """The sessions of named users."""

    type: Literal["user"] = "user"
    owner_urns: Annotated[list[str], allowed(lambda n: 1 <= len(n) <= 10, "must name 1..10 users")]


SearchOwner = Annotated[
    OwnSearchOwner | AccessibleSearchOwner | UserSearchOwner, Field(discriminator="type")
]


class ActiveSessionStatusQuery(RequestModel):
    """Sessions that are running."""

    type: Literal["active"] = "active"


class CancelledSessionStatusQuery(RequestModel):
    """Sessions that somebody ended from outside."""

    type: Literal["cancelled"] = "cancelled"


class FailedSessionStatusQuery(RequestModel):
    """Sessions that something in them failed."""

    type: Literal["failed"] = "failed"


class ClientFinishedSessionStatusQuery(RequestModel):
    """Sessions whose client said that it was done."""

    type: Literal["client_finished"] = "client_finished"
    reasons: Annotated[
        list[ClientSessionFinishReasonType] | None, allowed(bool, "must name a reason or more")
    ] = None
    """Any of these reasons; None for every one."""


SessionStatusQuery = Annotated[
    ActiveSessionStatusQuery
    | CancelledSessionStatusQuery
    | FailedSessionStatusQuery
    | ClientFinishedSessionStatusQuery,
    Field(discriminator="type"),
]


class SessionSearchCursor(RequestModel):
    """Where the next page begins; pass a response's `next_cursor` back as it came."""

    last_created_at: AwareDatetime
    last_session_id: str


class SessionSearchRequest(RequestModel):
    """A search for sessions; `session_id` and `display_name` match either, the rest must hold."""

    session_id: str | None = None
    project_ids: list[str] | None = None
    user_metadata: UserMetadata = {}
    """Pairs that a session's metadata must have."""
    display_name: Annotated[str | None, allowed(bool, "must not be empty")] = None
    """Words that the display name must hold, in any case."""
    owner: SearchOwner = OwnSearchOwner()
    statuses: Annotated[
        list[SessionStatusQuery] | None, allowed(bool, "must name a status or more")
    ] = None
    """Any of these; None for every one."""
    limit: Annotated[int, allowed(lambda n: 1 <= n <= 200, "must be 1..200")] = 50
    cursor: SessionSearchCursor | None = None
    """`next_cursor` of the page before; None for the first."""


class SessionSearchResponse(ResponseModel):
    """A page of sessions, newest first."""

    sessions: list[SessionSummary]
    next_cursor: SessionSearchCursor | None = None
    """None on the last page."""
