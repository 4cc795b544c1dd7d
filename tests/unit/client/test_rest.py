import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.client.recording_server import DROP, RecordingServer, Reply
from tests.unit.client.test_downloads import archive_of
from tinsmith.client import (
    ClientClosedError,
    NotFoundError,
    RestClient,
    ServiceClient,
    rest,
)
from tinsmith.client.downloads import Progress
from tinsmith.client.loop import loop_thread
from tinsmith.core.errors import ServerError, UserError
from tinsmith.types import SessionSearchRequest

CHECKPOINT = {
    "checkpoint_id": "weights/s1",
    "checkpoint_type": "training",
    "time": "2026-11-21T07:00:00Z",
    "tinker_path": "tinker://S:train:0/weights/s1",
}
RUN = {
    "training_run_id": "S:train:0",
    "base_model": "tinsmith/tiny",
    "model_owner": "me",
    "is_lora": True,
    "last_request_time": "2026-11-21T07:00:00Z",
}
PATH = "tinker://S:train:0/weights/s1"
PLACE = "training_runs/S:train:0/checkpoints/weights/s1"


@pytest.fixture
def client(server: RecordingServer) -> Iterator[RestClient]:
    with RestClient(base_url=server.url, api_key="tml-key") as client:
        yield client


def test_runs_are_asked_for_with_their_page_and_need_no_session(
    server: RecordingServer, client: RestClient
) -> None:
    path = "training_runs?limit=5&offset=2&access_scope=owned&project_id=p"
    page = {"training_runs": [RUN], "cursor": {"offset": 2, "limit": 5, "total_count": 3}}
    server.script(path, Reply(body=page))
    answer = client.list_training_runs(limit=5, offset=2, project_id="p").result(5)
    assert answer.training_runs[0].training_run_id == "S:train:0"
    assert answer.cursor.total_count == 3
    assert server.paths() == ["client/config", path]
    assert (server.of(path)[0].method, server.of(path)[0].headers["x-api-key"]) == (
        "GET",
        "tml-key",
    )


def test_a_run_is_found_by_its_id_and_by_the_address_of_a_checkpoint(
    server: RecordingServer, client: RestClient
) -> None:
    path = "training_runs/S:train:0?access_scope=accessible"
    server.script(path, Reply(body=RUN), Reply(body=RUN))
    assert client.get_training_run("S:train:0", "accessible").result(5).base_model
    run = client.get_training_run_by_tinker_path(PATH, access_scope="accessible").result(5)
    assert run.last_request_time.year == 2026


async def test_checkpoints_are_listed_of_a_run_and_of_all_runs(
    server: RecordingServer, client: RestClient
) -> None:
    page = Reply(body={"checkpoints": [CHECKPOINT]})
    server.script("training_runs/S:train:0/checkpoints", page)
    server.script("checkpoints?limit=100&offset=0", page)
    assert (await client.list_checkpoints("S:train:0")).checkpoints[0].tinker_path == PATH
    assert (await client.list_user_checkpoints_async()).checkpoints[0].time.year == 2026


def test_a_checkpoint_is_looked_after_by_its_address(
    server: RecordingServer, client: RestClient
) -> None:
    for path in (PLACE, f"{PLACE}/publish", f"{PLACE}/ttl"):
        server.script(path, *[Reply(204, b"")] * 2)
    assert client.publish_checkpoint_from_tinker_path(PATH).result(5) is None
    client.unpublish_checkpoint_from_tinker_path(PATH).result(5)
    client.set_checkpoint_ttl_from_tinker_path(PATH, 86400).result(5)
    client.set_checkpoint_ttl_from_tinker_path(PATH, None).result(5)
    client.delete_checkpoint_from_tinker_path(PATH).result(5)
    client.delete_checkpoint("S:train:0", "weights/s1").result(5)
    assert [(r.method, r.path.removeprefix(PLACE)) for r in server.requests[1:]] == [
        ("POST", "/publish"),
        ("DELETE", "/publish"),
        ("PUT", "/ttl"),
        ("PUT", "/ttl"),
        ("DELETE", ""),
        ("DELETE", ""),
    ]
    assert [r.json for r in server.of(f"{PLACE}/ttl")] == [
        {"ttl_seconds": 86400},
        {"ttl_seconds": None},
    ]


def test_publishing_what_is_public_already_is_no_error(
    server: RecordingServer, client: RestClient
) -> None:
    server.script(f"{PLACE}/publish", Reply(409, {"detail": "already public"}))
    client.publish_checkpoint_from_tinker_path(PATH).result(5)
    assert len(server.of(f"{PLACE}/publish")) == 1


def test_an_address_that_is_none_is_refused_before_anything_is_sent(
    server: RecordingServer, client: RestClient
) -> None:
    with pytest.raises(UserError, match="not a checkpoint's address"):
        client.delete_checkpoint_from_tinker_path("S:train:0/weights/s1")
    with pytest.raises(UserError, match=r"must be that of an export.*save_weights_external"):
        client.get_external_weights_urls(PATH)
    assert server.requests == []


def test_a_strange_id_stays_one_part_of_the_address(
    server: RecordingServer, client: RestClient
) -> None:
    path = "sessions/a%2F..%3Fb?access_scope=owned"
    server.script(path, Reply(body={"training_run_ids": [], "sampler_ids": ["q"]}))
    assert client.get_session("a/..?b").result(5).sampler_ids == ["q"]


def test_weights_say_what_they_hold(server: RecordingServer, client: RestClient) -> None:
    server.script("weights_info", Reply(body={"base_model": "b", "is_lora": True, "lora_rank": 8}))
    info = client.get_weights_info_by_tinker_path(PATH).result(5)
    assert (info.base_model, info.lora_rank) == ("b", 8)
    assert server.of("weights_info")[0].json == {"tinker_path": PATH}


def test_an_export_says_where_its_files_are(server: RecordingServer, client: RestClient) -> None:
    path = "training_runs/S:train:0/checkpoints/external_weights/e/external_weights_urls"
    urls = {"config.json": "http://x/1"}
    server.script(path, Reply(body={"urls": urls, "expires": "2026-11-21T08:00:00Z"}))
    answer = client.get_external_weights_urls("tinker://S:train:0/external_weights/e").result(5)
    assert answer.urls == urls


def test_a_copy_goes_to_the_named_project_or_to_the_clients_own(
    server: RecordingServer, client: RestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = Reply(body={"tinker_path": "tinker://c/weights/s1"})
    server.script("copy_weights", copied, copied, copied)
    path = client.copy_weights(PATH, "p", ttl_seconds=3600, weights_access_token="t").result(5)
    assert path == "tinker://c/weights/s1"
    request = server.of("copy_weights")[0]
    assert request.json == {
        "source_path": PATH,
        "destination_project_id": "p",
        "ttl_seconds": 3600,
    }
    assert request.headers["x-tinker-weights-access-token"] == "t"
    with pytest.raises(UserError, match="needs destination_project_id"):
        client.copy_weights(PATH)
    monkeypatch.setenv("TINKER_PROJECT_ID", "from-the-environment")
    RestClient(base_url=server.url).copy_weights(PATH).result(5)
    with ServiceClient(base_url=server.url, project_id="mine") as service:
        service.copy_weights(PATH).result(5)
    destinations = [r.json["destination_project_id"] for r in server.of("copy_weights")]
    assert destinations == ["p", "from-the-environment", "mine"]


async def test_sessions_are_listed_found_and_moved(
    server: RecordingServer, client: RestClient
) -> None:
    server.script("sessions?limit=20&offset=0&access_scope=owned", Reply(body={"sessions": ["S"]}))
    assert (await client.list_sessions()).sessions == ["S"]
    server.script("sessions/search", Reply(body={"sessions": []}))
    await client.search_sessions(SessionSearchRequest(display_name="x"))
    assert server.of("sessions/search")[0].json == {
        "user_metadata": {},
        "display_name": "x",
        "owner": {"type": "own"},
        "limit": 50,
    }
    nothing: Any = {}  # as a script without types has it
    with pytest.raises(UserError, match="request: must be a SessionSearchRequest, not dict"):
        client.search_sessions(nothing)
    await client.assign_session_project_async("S", "p")
    moved = server.of("sessions/S/project")[0]
    assert (moved.method, moved.json) == ("PUT", {"project_id": "p"})
    assert (await client.get_sampler("S:sample:0")).base_model == "tinsmith/tiny"


def test_a_trace_is_waited_for(
    server: RecordingServer, client: RestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "TRACE_POLL_INTERVAL_S", 0.01)
    path = "sessions/S/trace_export"
    pending = Reply(body={"status": "pending"})
    server.script(path, pending, Reply(body={"status": "ready", "url": "http://x"}))
    assert client.export_session_trace("S").result(5) == "http://x"
    server.script(path, Reply(body={"status": "failed", "error": "no events"}))
    with pytest.raises(ServerError, match="no events"):
        client.export_session_trace("S").result(5)


def test_a_key_that_is_a_token_says_who_it_is_without_asking(server: RecordingServer) -> None:
    claims = {"sub": "u", "org_id": "o", "email": ""}
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    who = RestClient(base_url=server.url, api_key=f"eyJh.{body}.sig").whoami().result(5)
    assert (who.user_urn, who.org_urn, who.email) == ("u", "tml:organization:o", None)
    assert server.requests == []


def test_of_another_key_the_service_says_whose_it_is(
    server: RecordingServer, client: RestClient
) -> None:
    details = {"org_details": {"name": "lab"}, "user_details": {"email": "a@b"}}
    record = {"key_id": 7, "name": "n", "note": "", "details": details}
    server.script("auth/apikey/me", Reply(body=record), Reply(404, {"detail": "no"}))
    who = client.whoami().result(5)
    assert (who.user_urn, who.org_urn, who.email) == ("apikey:7", "lab", "a@b")
    with pytest.raises(ServerError, match="keeps no record of keys"):
        client.whoami().result(5)


def test_what_is_not_there_is_not_found_and_passing_failures_are_tried_again(
    server: RecordingServer, client: RestClient
) -> None:
    missing = Reply(404, {"message": "training_run_id='x': unknown", "field": "training_run_id"})
    server.script("training_runs/x?access_scope=owned", missing)
    with pytest.raises(NotFoundError, match="training_run_id='x': unknown"):
        client.get_training_run("x").result(5)
    server.script(PLACE, DROP, Reply(503, headers={"retry-after-ms": "5"}), Reply(204, b""))
    client.delete_checkpoint_from_tinker_path(PATH).result(5)
    assert len({r.headers["x-idempotency-key"] for r in server.of(PLACE)}) == 1


def test_a_service_clients_rest_client_shares_its_connection_and_its_end(
    server: RecordingServer,
) -> None:
    with ServiceClient(base_url=server.url, api_key="tml-key") as service:
        client = service.create_rest_client()
        client.get_server_capabilities().result(5)
    assert server.paths().count("client/config") == 1
    assert "create_session" not in server.paths()
    with pytest.raises(ClientClosedError):
        client.get_server_capabilities().result(5)
    assert repr(client) == f"RestClient({server.url})"


def test_it_ends_with_its_block(server: RecordingServer) -> None:
    with RestClient(base_url=server.url) as client:
        client.get_server_capabilities().result(5)
    with pytest.raises(ClientClosedError):
        client.get_server_capabilities().result(5)


def test_an_archive_is_where_a_redirect_leads_or_the_answer_says(
    server: RecordingServer, client: RestClient
) -> None:
    far = {"Location": "https://far.example/a?s=1", "Expires": "Sat, 21 Nov 2026 07:00:00 GMT"}
    near = {"Location": "/api/v1/archives?s=2"}
    told = {"url": "https://far.example/b", "expires": "2026-11-21T07:00:00Z"}
    answers = [Reply(302, b"", headers=far), Reply(307, b"", headers=near), Reply(body=told)]
    server.script(f"{PLACE}/archive", *answers)
    ask = client.get_checkpoint_archive_url_from_tinker_path
    first, second, third = (ask(PATH).result(5) for _ in range(3))
    assert (first.url, first.expires.hour) == ("https://far.example/a?s=1", 7)
    assert second.url == f"{server.url}/api/v1/archives?s=2"
    assert third.url == "https://far.example/b"


# downloads -------------------------------------------------------------------------------------


ARCHIVED = "training_runs/S:train:0/checkpoints/weights/a/archive"


def serve_archive(server: RecordingServer) -> int:
    content = archive_of(adapter=b"A" * 5000)
    link = {"url": f"{server.url}/api/v1/files", "expires": "2030-01-01T00:00:00Z"}
    server.script(ARCHIVED, Reply(body=link))
    server.script("files", Reply(body=content, content_type="application/x-tar"))
    return len(content)


async def test_a_download_tells_its_progress_and_can_be_awaited(
    server: RecordingServer, client: RestClient, tmp_path: Path
) -> None:
    num_bytes = serve_archive(server)
    told: list[Progress] = []
    done = await client.download_checkpoint_async(
        "tinker://S:train:0/weights/a", tmp_path / "here", progress=told.append
    )
    assert (tmp_path / "here" / "adapter").read_bytes() == b"A" * 5000
    assert (done.directory, done.file_bytes) == (tmp_path / "here", 5000)
    assert told[-1] == Progress(num_bytes, num_bytes)
    with pytest.raises(UserError, match="tinker://"):
        client.download_checkpoint("somewhere", tmp_path / "there")


def test_a_download_that_is_given_up_leaves_nothing_behind(
    server: RecordingServer, client: RestClient, tmp_path: Path
) -> None:
    serve_archive(server)
    has_begun, may_go_on = threading.Event(), threading.Event()

    def hold(now: Progress) -> None:
        has_begun.set()
        assert may_go_on.wait(5)

    future = client.download_checkpoint(
        "tinker://S:train:0/weights/a", tmp_path / "made" / "here", progress=hold
    )
    assert has_begun.wait(5)
    assert future.cancel()
    loop_thread().start(lambda: asyncio.sleep(0.05)).result(5)  # it has been told
    deadline_s = time.monotonic() + 5
    may_go_on.set()
    while list(tmp_path.iterdir()) and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert list(tmp_path.iterdir()) == []
