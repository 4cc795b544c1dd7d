"""AdminClient: what is asked, what comes back, and services that have no keys to manage."""

from datetime import date

import pytest

from tests.unit.client.recording_server import RecordingServer, Reply
from tinsmith.client import AdminClient, RestClient
from tinsmith.core.errors import ServerError, UserError
from tinsmith.types import StorageBillingEvent, TrainingBillingEvent

HOUR = {"bucket_start": "2026-01-01T00:00:00Z", "bucket_end": "2026-01-01T01:00:00Z"}
SPAN = "starting_on=2026-01-01T00%3A00%3A00Z&ending_before=2026-01-02T00%3A00%3A00Z"
USED = f"billing/usage/events?{SPAN}"
KEPT = "billing/usage/checkpoints/current"


@pytest.fixture(params=[AdminClient, RestClient])
def admin(request: pytest.FixtureRequest, server: RecordingServer) -> AdminClient | RestClient:
    return request.param(base_url=server.url, api_key="tml-key")


def test_use_is_asked_for_by_span_and_told_by_kind(
    server: RecordingServer, admin: AdminClient
) -> None:
    infos = [
        {"type": "training", "token_count": 3},
        {"type": "storage", "gigabyte_hours": 0.5},
    ]
    body = {"data": [HOUR | {"event_info": info} for info in infos], "sessions": {"S": {}}}
    server.script(USED, Reply(body=body))
    usage = admin.get_billing_usage("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z").result(5)
    assert [event.event_info for event in usage.data] == [
        TrainingBillingEvent(token_count=3),
        StorageBillingEvent(gigabyte_hours=0.5),
    ]
    with pytest.raises(UserError, match="starting_on"):
        admin.get_billing_usage("yesterday", "2026-01-02T00:00:00Z")


async def test_audit_and_storage_have_twins(server: RecordingServer, admin: AdminClient) -> None:
    entry = {"timestamp": "2026-01-01T00:00:00Z", "event": "checkpoint_read"}
    server.script("audit?event_type=checkpoints&day=2026-01-01", Reply(body={"entries": [entry]}))
    found = await admin.get_audit_log_async("checkpoints", date(2026, 1, 1))
    assert found.entries[0].event == "checkpoint_read"
    item = {"checkpoint_count": 2, "size_bytes": 5, "size_gigabytes": 5e-9}
    server.script(KEPT, Reply(body={"data": [item]}))
    assert (await admin.get_current_checkpoint_storage_usage_async()).data[0].size_bytes == 5
    server.script(f"{KEPT}?project_id=p", Reply(body={"data": []}))
    assert (await admin.get_current_checkpoint_storage_usage("p")).data == []


def test_keys_are_made_listed_and_revoked(server: RecordingServer) -> None:
    record = {"key_id": 4, "prefix": "tml-abc", "name": "Ada", "created_at": "2026-01-01T00:00:00Z"}
    server.script(
        "ext/keys", Reply(body=record | {"key": "tml-abcdef"}), Reply(body={"keys": [record]})
    )
    server.script("ext/keys/4", Reply(204, b""))
    with AdminClient(base_url=server.url) as admin:
        assert admin.create_key("Ada", "laptop").result(5).key == "tml-abcdef"
        assert [key.key_id for key in admin.list_keys().result(5).keys] == [4]
        admin.revoke_key(4).result(5)
    assert server.of("ext/keys")[0].json == {"name": "Ada", "note": "laptop"}
    assert server.of("ext/keys/4")[0].method == "DELETE"


def test_a_service_without_the_extension_is_told_from_a_broken_one(
    server: RecordingServer,
) -> None:
    server.script("ext/keys", Reply(404, {"detail": "Not Found"}))
    with (
        AdminClient(base_url=server.url) as admin,
        pytest.raises(ServerError, match="no keys that could be managed"),
    ):
        admin.list_keys().result(5)
