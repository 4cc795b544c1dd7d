import json

import pytest

from tinsmith.core.errors import ConfigError
from tinsmith.types import (
    AccessibleSearchOwner,
    ClientFinishedSessionStatusQuery,
    ClientSessionFinished,
    SessionFailed,
    SessionSearchRequest,
    SessionSearchResponse,
    UserSearchOwner,
    parse_request,
)

SUMMARY = {
    "session_id": "S",
    "created_at": "2026-11-21T07:00:00Z",
    "owner": "me",
    "project_id": "p",
    "checkpoints_count": 3,
}
CURSOR = {"last_created_at": "2026-11-21T07:00:00Z", "last_session_id": "S"}


def test_a_search_on_the_wire_leaves_out_what_is_not_asked() -> None:
    request = SessionSearchRequest(
        display_name="x",
        owner=AccessibleSearchOwner(),
        statuses=[ClientFinishedSessionStatusQuery(reasons=["success"])],
    )
    assert json.loads(request.model_dump_json(exclude_none=True)) == {
        "user_metadata": {},
        "display_name": "x",
        "owner": {"type": "accessible"},
        "statuses": [{"type": "client_finished", "reasons": ["success"]}],
        "limit": 50,
    }
    assert parse_request(SessionSearchRequest, json.loads(request.model_dump_json())) == request


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"limit": 201}, "limit=201: must be 1..200"),
        ({"display_name": ""}, "display_name='': must not be empty"),
        ({"statuses": []}, "must name a status or more"),
        ({"owner": {"type": "user", "owner_urns": []}}, "must name 1..10 users"),
        ({"cursor": {**CURSOR, "last_created_at": "2026-11-21T07:00:00"}}, "last_created_at"),
        ({"sesion_id": "S"}, "did you mean 'session_id'"),
    ],
)
def test_a_search_that_cannot_be_meant_is_refused(body: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse_request(SessionSearchRequest, body)


def test_an_owner_names_ten_users_at_most() -> None:
    assert UserSearchOwner(owner_urns=["u"] * 10).owner_urns[0] == "u"
    with pytest.raises(ConfigError):
        UserSearchOwner(owner_urns=["u"] * 11)


def test_how_a_found_session_stands_has_its_own_type() -> None:
    finished = {"type": "client_finished", "reason": {"type": "errored"}, "detail": "d"}
    reason = {"type": "request", "request_id": "r", "request_type": "Sample"}
    failed = {"type": "failed", "category": "user", "reason": reason, "message": "m"}
    sessions = [{**SUMMARY, "status": finished}, {**SUMMARY, "status": failed}, SUMMARY]
    page = SessionSearchResponse.model_validate({"sessions": sessions, "next_cursor": CURSOR})
    first, second, third = (session.status for session in page.sessions)
    assert isinstance(first, ClientSessionFinished)
    assert first.reason.type == "errored"
    assert isinstance(second, SessionFailed)
    assert second.reason.type == "request"
    assert third is None
    again = SessionSearchRequest(cursor=page.next_cursor).model_dump(mode="json")
    assert again["cursor"] == CURSOR
