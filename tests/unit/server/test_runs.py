"""Lists of runs, checkpoints and sessions over HTTP, on rows that the test has written."""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.unit.server.services import Start
from tinsmith.server.checkpoints import RECORD_FILE, CheckpointPath, CheckpointRecord
from tinsmith.server.service import Service
from tinsmith.types import LoraConfig

RUN = "s-1:train:0"


def add_run(service: Service, model_id: str, *, at: float = 1000.0, **values: Any) -> None:
    row = {"boot_id": "b", "key_id": None, "base_model": "tinsmith/tiny", "created_at": at}
    row |= {"lora_config": {"rank": 4}, "user_metadata": {"at": at}, "last_request_at": at}
    row |= {"session_id": model_id.partition(":")[0], "state": "unloaded", "model_id": model_id}
    service.metadata.put("models", row | values)


def add_session(service: Service, session_id: str, *, at: float, **values: Any) -> None:
    row = {"boot_id": "b", "key_id": None, "created_at": at, "last_seen_at": at, "tags": []}
    row |= {"ended": None, "ended_at": None, "user_metadata": None, "details": {}}
    service.metadata.put("sessions", row | {"session_id": session_id} | values)


def add_checkpoint(
    service: Service, model_id: str, name: str, *, kind: Any = "weights", at: float = 1000.0
) -> Path:
    """A checkpoint on disk and in the lists."""
    path = CheckpointPath(model_id, kind, name)
    directory = service.checkpoints.directory(path)
    directory.mkdir(parents=True)
    record = CheckpointRecord(
        path=str(path),
        model_id=model_id,
        base_model="tinsmith/tiny",
        lora_config=LoraConfig(rank=4, train_mlp=False),
        created_at=f"1970-01-01T00:{int(at) // 60:02}:{int(at) % 60:02}Z",
        user_metadata={"name": name},
    )
    (directory / "state.safetensors").write_bytes(bytes(range(256)) * 10)
    (directory / RECORD_FILE).write_text(record.model_dump_json(exclude_none=True))
    service.metadata.put("checkpoints", record.row(service.checkpoints.size_bytes(path)))
    return directory


async def get(client: httpx.AsyncClient, path: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_training_runs_are_paged_by_their_last_request(start_on: Start) -> None:
    async with start_on() as (service, client):
        for number in range(5):
            add_run(service, f"s-{number}:train:0", at=1000.0 + number)
        add_run(service, "s-0:train:1", at=999.0, state="lost")
        for at, name in ((1000.0, "old"), (1002.0, "new")):
            add_checkpoint(service, "s-4:train:0", name, at=at)
        add_checkpoint(service, "s-4:train:0", "s", kind="sampler_weights", at=1001.0)
        first = await get(client, "training_runs", limit=4, access_scope="owned")
        rest = await get(client, "training_runs", limit=4, offset=4)
    ids = [run["training_run_id"] for run in first["training_runs"] + rest["training_runs"]]
    assert ids == [*(f"s-{n}:train:0" for n in (4, 3, 2, 1, 0)), "s-0:train:1"]
    assert first["cursor"] == {"offset": 0, "limit": 4, "total_count": 6}
    assert rest["cursor"] == {"offset": 4, "limit": 4, "total_count": 6}
    run = first["training_runs"][0]
    assert run["last_checkpoint"]["checkpoint_id"] == "weights/new"
    assert run["last_sampler_checkpoint"]["checkpoint_id"] == "sampler_weights/s"
    assert (run["base_model"], run["lora_rank"], run["is_lora"]) == ("tinsmith/tiny", 4, True)
    assert (run["model_owner"], run["user_metadata"]) == ("operator", {"at": 1004.0})
    assert run["last_request_time"] == "1970-01-01T00:16:44Z"
    assert [run["corrupted"] for run in rest["training_runs"]] == [False, True]


async def test_runs_of_a_project(start_on: Start) -> None:
    async with start_on() as (service, client):
        add_session(service, "s-1", at=1.0, details={"project_id": "mine"})
        add_session(service, "s-2", at=1.0, details={"project_id": "other"})
        add_run(service, RUN)
        add_run(service, "s-2:train:0")
        found = await get(client, "training_runs", project_id="mine")
        moved = await client.put("sessions/s-2/project", json={"project_id": "mine"})
        assert moved.status_code == 204
        both = await get(client, "training_runs", project_id="mine")
    assert [run["training_run_id"] for run in found["training_runs"]] == [RUN]
    assert both["cursor"]["total_count"] == 2


async def test_a_run_and_its_checkpoints(start_on: Start) -> None:
    async with start_on() as (service, client):
        add_run(service, RUN)
        directory = add_checkpoint(service, RUN, "step 1")
        run = await get(client, f"training_runs/{RUN}")
        listed = await get(client, f"training_runs/{RUN}/checkpoints")
        everywhere = await get(client, "checkpoints")
        size = sum(file.stat().st_size for file in directory.iterdir())
    assert run["training_run_id"] == RUN
    assert run["last_checkpoint"] == listed["checkpoints"][0]
    assert listed["checkpoints"] == [
        {
            "checkpoint_id": "weights/step 1",
            "checkpoint_type": "training",
            "time": "1970-01-01T00:16:40Z",
            "tinker_path": f"tinker://{RUN}/weights/step 1",
            "size_bytes": size,
            "public": False,
            "user_metadata": {"name": "step 1"},
            "expires_at": None,
        }
    ]
    assert everywhere["checkpoints"] == listed["checkpoints"]
    assert everywhere["cursor"] == {"offset": 0, "limit": 100, "total_count": 1}


async def test_checkpoints_of_all_runs_come_newest_first(start_on: Start) -> None:
    async with start_on() as (service, client):
        for number, at in enumerate((5.0, 9.0, 7.0)):
            add_checkpoint(service, f"s-{number}:train:0", "c", at=at)
        pages = [await get(client, "checkpoints", limit=2, offset=n) for n in (0, 2, 4)]
    times = [[c["time"][-3:-1] for c in page["checkpoints"]] for page in pages]
    assert times == [["09", "07"], ["05"], []]
    assert {page["cursor"]["total_count"] for page in pages} == {3}


async def test_publishing_is_idempotent(start_on: Start) -> None:
    async with start_on() as (service, client):
        add_checkpoint(service, RUN, "a")
        place = f"training_runs/{RUN}/checkpoints/weights/a/publish"
        for verb, expected in (("POST", True), ("POST", True), ("DELETE", False)):
            assert (await client.request(verb, place)).status_code == 204
            (checkpoint,) = (await get(client, "checkpoints"))["checkpoints"]
            assert checkpoint["public"] is expected


async def test_a_deleted_checkpoint_is_gone_from_disk_and_lists(start_on: Start) -> None:
    async with start_on() as (service, client):
        add_run(service, RUN)
        directory = add_checkpoint(service, RUN, "a")
        place = f"training_runs/{RUN}/checkpoints/weights/a"
        assert (await client.delete(place)).status_code == 204
        assert list(directory.parent.iterdir()) == []
        assert (await get(client, "checkpoints"))["checkpoints"] == []
        assert (await get(client, f"training_runs/{RUN}"))["last_checkpoint"] is None
        again = await client.delete(place)
        assert (again.status_code, again.json()["field"]) == (404, "checkpoint_id")
        body = {"tinker_path": f"tinker://{RUN}/weights/a"}
        assert (await client.post("weights_info", json=body)).status_code == 404


async def test_a_checkpoint_expires_at_its_time_and_not_when_that_was_cleared(
    start_on: Start,
) -> None:
    async with start_on() as (service, client):
        for name in ("short", "cleared", "kept"):
            add_checkpoint(service, RUN, name)
        for name in ("short", "cleared"):
            place = f"training_runs/{RUN}/checkpoints/weights/{name}/ttl"
            before = time.time()
            assert (await client.put(place, json={"ttl_seconds": 1})).status_code == 204
        listed = (await get(client, "checkpoints"))["checkpoints"]
        assert sorted(c["checkpoint_id"] for c in listed if c["expires_at"]) == [
            "weights/cleared",
            "weights/short",
        ]
        assert (await client.put(place, json={"ttl_seconds": None})).status_code == 204
        await asyncio.sleep(max(0.0, before + 1.1 - time.time()))
        for _ in range(100):
            listed = (await get(client, "checkpoints"))["checkpoints"]
            if len(listed) == 2:
                break
            await asyncio.sleep(0.02)
        assert {c["checkpoint_id"] for c in listed} == {"weights/cleared", "weights/kept"}
        assert not service.checkpoints.directory(CheckpointPath(RUN, "weights", "short")).exists()


async def test_what_expired_while_the_service_was_away_is_gone_at_its_start(
    start_on: Start,
) -> None:
    async with start_on() as (service, _):
        directory = add_checkpoint(service, RUN, "a")
        path = f"tinker://{RUN}/weights/a"
        service.metadata.change("checkpoints", path, {"expires_at": time.time() - 1.0})
    async with start_on() as (_, client):
        assert (await get(client, "checkpoints"))["checkpoints"] == []
        assert not directory.exists()


async def test_an_archive_is_a_tar_of_the_checkpoint_and_downloads_go_on(start_on: Start) -> None:
    async with start_on(api_key="tml-k") as (service, client):
        directory = add_checkpoint(service, RUN, "a", kind="sampler_weights")
        (directory / "deep").mkdir()
        (directory / "deep" / ("long" * 40)).write_bytes(b"x" * 3_000_000)
        place = f"training_runs/{RUN}/checkpoints/sampler_weights/a/archive"
        answer = await client.get(place, headers={"X-API-Key": "tml-k"})
        assert answer.status_code == 302
        assert answer.headers["expires"].endswith("GMT")
        url = answer.headers["location"]
        assert answer.json()["url"] == url
        whole = await client.get(url)
        assert whole.status_code == 200
        assert int(whole.headers["content-length"]) == len(whole.content)
        expected = {
            str(file.relative_to(directory)): file.read_bytes()
            for file in directory.rglob("*")
            if file.is_file()
        }
        with tarfile.open(fileobj=io.BytesIO(whole.content)) as tar:
            members = {member.name: tar.extractfile(member) for member in tar.getmembers()}
            assert {name: file.read() for name, file in members.items() if file} == expected
        for start in (1, 700, 2_000_000, len(whole.content) - 1):
            part = await client.get(url, headers={"Range": f"bytes={start}-"})
            assert part.status_code == 206
            assert part.content == whole.content[start:]
            size = len(whole.content)
            assert part.headers["content-range"] == f"bytes {start}-{size - 1}/{size}"
        for bad in (url.replace("expires=1", "expires=2"), url.replace("sampler_", "")):
            assert (await client.get(bad)).json()["field"] == "signature"


async def test_a_copy_has_a_run_of_its_own_and_is_made_once(start_on: Start) -> None:
    async with start_on() as (service, client):
        directory = add_checkpoint(service, RUN, "a")
        body = {"source_path": f"tinker://{RUN}/weights/a", "destination_project_id": "p"}
        headers = {"X-Idempotency-Key": "k-1"}
        answers = [
            (await client.post("copy_weights", json=body, headers=headers)).json() for _ in "12"
        ]
        assert answers[0] == answers[1]
        other = (await client.post("copy_weights", json={**body, "ttl_seconds": 500})).json()
        path = CheckpointPath.from_text(answers[0]["tinker_path"])
        copied = service.checkpoints.directory(path)
        assert (copied / "state.safetensors").read_bytes() == (
            directory / "state.safetensors"
        ).read_bytes()
        run = await get(client, f"training_runs/{path.run_id}")
        assert run["last_checkpoint"]["tinker_path"] == str(path)
        assert run["last_checkpoint"]["user_metadata"] == {"name": "a"}
        listed = (await get(client, "checkpoints"))["checkpoints"]
        expiring = [c["tinker_path"] for c in listed if c["expires_at"]]
        assert expiring == [other["tinker_path"]]
        info = await client.post("weights_info", json={"tinker_path": str(path)})
        assert info.json()["train_mlp"] is False
        found = await get(client, "training_runs", project_id="p")
        assert found["cursor"]["total_count"] == 2


async def test_sessions_are_listed_shown_and_searched(start_on: Start) -> None:
    async with start_on() as (service, client):
        now = round(time.time(), 6)
        finished = {"ended": "finished (errored)", "ended_at": now}
        add_session(service, "a", at=now - 900, details={"display_name": "Red run"}, **finished)
        add_session(service, "b", at=now - 800, user_metadata={"team": 1, "x": [2]})
        add_session(service, "c", at=now - 1, details={"project_id": "p", "display_name": "red"})
        add_run(service, "a:train:1", at=2.0)
        add_run(service, "a:train:0", at=1.0)
        add_checkpoint(service, "a:train:0", "w")
        opened = await client.post("create_session", json={"sdk_version": "1"})
        mine = opened.json()["session_id"]
        assert (await get(client, "sessions"))["sessions"] == [mine, "c", "b", "a"]
        assert (await get(client, "sessions", limit=2, offset=1))["sessions"] == ["c", "b"]
        shown = await get(client, "sessions/a")
        assert shown["training_run_ids"] == ["a:train:0", "a:train:1"]
        assert (shown["sampler_ids"], shown["display_name"]) == ([], "Red run")

        async def search(**wanted: Any) -> list[dict[str, Any]]:
            answer = await client.post("sessions/search", json=wanted)
            assert answer.status_code == 200, answer.text
            return answer.json()["sessions"]

        assert [s["session_id"] for s in await search()] == [mine, "c", "b", "a"]
        assert [s["session_id"] for s in await search(display_name="RED")] == ["c", "a"]
        assert [s["session_id"] for s in await search(session_id="b")] == ["b"]
        assert [s["session_id"] for s in await search(project_ids=["p"])] == ["c"]
        assert [s["session_id"] for s in await search(user_metadata={"x": [2]})] == ["b"]
        assert await search(user_metadata={"team": 2}) == []
        active = await search(statuses=[{"type": "active"}])
        assert [s["session_id"] for s in active] == [mine, "c"]
        errored = {"type": "client_finished", "reasons": ["errored"]}
        (found,) = await search(statuses=[errored])
        assert found["status"]["reason"] == {"type": "errored"}
        assert found["checkpoints_count"] == 1
        assert found["checkpoint_storage_bytes"] > 2560
        assert await search(statuses=[{**errored, "reasons": ["success"]}]) == []
        assert await search(owner={"type": "user", "owner_urns": ["somebody"]}) == []
        first = (await client.post("sessions/search", json={"limit": 3})).json()
        assert [s["session_id"] for s in first["sessions"]] == [mine, "c", "b"]
        rest = await client.post("sessions/search", json={"cursor": first["next_cursor"]})
        assert [s["session_id"] for s in rest.json()["sessions"]] == ["a"]
        assert rest.json()["next_cursor"] is None


async def test_a_finished_session_tells_its_reason_and_detail(start_on: Start) -> None:
    async with start_on() as (_, client):
        opened = await client.post("create_session", json={"sdk_version": "1"})
        body = {"reason": {"type": "interrupted"}, "detail": "Ctrl-C"}
        await client.post(f"sessions/{opened.json()['session_id']}/finish", json=body)
        (found,) = (await client.post("sessions/search", json={})).json()["sessions"]
    assert found["status"] == {
        "type": "client_finished",
        "reason": {"type": "interrupted"},
        "detail": "Ctrl-C",
    }


async def test_what_a_self_hosted_service_has_not_is_said_in_shape(start_on: Start) -> None:
    async with start_on() as (service, client):
        assert await get(client, "audit", event_type="all", day="2026-01-02") == {"entries": []}
        span = {"starting_on": "2026-01-01T00:00:00Z", "ending_before": "2026-01-02T00:00:00Z"}
        assert await get(client, "billing/usage/events", **span) == {"data": [], "sessions": {}}
        stored = "billing/usage/checkpoints/current"
        assert await get(client, stored) == {"data": []}
        add_checkpoint(service, RUN, "a")
        (usage,) = (await get(client, stored))["data"]
        assert (usage["checkpoint_count"], usage["user_name"]) == (1, "operator")
        assert usage["size_gigabytes"] == usage["size_bytes"] / 1e9
        assert (await client.post("auth/token", json={})).status_code == 400
        me = await get(client, "auth/apikey/me")
        assert (me["key_id"], me["name"]) == (0, "operator")
        add_session(service, "s", at=1.0)
        export = await get(client, "sessions/s/trace_export")
        assert export["status"] == "failed"


BAD_REQUESTS: list[tuple[str, str, Any, int, str | None]] = [
    ("GET", "training_runs?limit=0", None, 400, "limit"),
    ("GET", "training_runs?limit=many", None, 400, "limit"),
    ("GET", "training_runs?limit=1001", None, 400, "limit"),
    ("GET", "training_runs?offset=-1", None, 400, "offset"),
    ("GET", "training_runs?offset=99999999999999999999999", None, 400, "offset"),
    ("GET", "training_runs?access_scope=all", None, 400, "access_scope"),
    ("GET", "training_runs?colour=red", None, 400, "colour"),
    ("GET", "training_runs/none", None, 404, "training_run_id"),
    ("GET", "training_runs/none/checkpoints", None, 404, "training_run_id"),
    ("GET", "checkpoints?limit=-3", None, 400, "limit"),
    ("GET", "sessions?offset=x", None, 400, "offset"),
    ("GET", "sessions/none", None, 404, "session_id"),
    ("PUT", "sessions/none/project", {"project_id": "p"}, 404, "session_id"),
    ("PUT", "sessions/none/project", {}, 400, "project_id"),
    ("POST", "sessions/search", {"limit": 0}, 400, "limit"),
    ("POST", "sessions/search", {"owner": {"type": "god"}}, 400, "owner"),
    ("DELETE", "training_runs/r/checkpoints/weights/none", None, 404, "checkpoint_id"),
    ("DELETE", "training_runs/r/checkpoints/wights/none", None, 400, "checkpoint_id"),
    ("POST", "training_runs/r/checkpoints/weights/none/publish", None, 404, "checkpoint_id"),
    ("DELETE", "training_runs/r/checkpoints/weights/none/publish", None, 404, "checkpoint_id"),
    ("GET", "training_runs/r/checkpoints/weights/none/archive", None, 404, "checkpoint_id"),
    ("PUT", "training_runs/r/checkpoints/weights/n/ttl", {}, 400, "ttl_seconds"),
    ("PUT", "training_runs/r/checkpoints/weights/n/ttl", {"ttl_seconds": 1}, 404, None),
    ("GET", "archives", None, 400, "path"),
    ("GET", "archives?path=x&expires=1&signature=x", None, 400, "signature"),
    ("GET", "archives?path=x&expires=1&signature=%C3%A4", None, 400, "signature"),
    ("POST", "copy_weights", {}, 400, "source_path"),
    ("POST", "copy_weights", {"source_path": "x"}, 400, "source_path"),
    ("POST", "copy_weights", {"source_path": "tinker://r/weights/x"}, 404, "source_path"),
    ("POST", "weights_info", {"tinker_path": "tinker://r/weights/x"}, 404, "tinker_path"),
    ("GET", "audit?event_type=x", None, 400, "event_type"),
    ("GET", "audit?day=x", None, 400, "day"),
    ("GET", "billing/usage/events?starting_on=x", None, 400, "starting_on"),
]


async def test_bad_requests_are_4xx_that_name_the_field(start_on: Start) -> None:
    async with start_on() as (_, client):
        for verb, path, body, status, field in BAD_REQUESTS:
            answer = await client.request(verb, path, json=body)
            assert answer.status_code == status, (path, answer.text)
            assert answer.json()["category"] == "user"
            assert field is None or answer.json()["field"] == field, path


async def test_an_id_that_no_database_can_hold_is_the_callers_mistake(start_on: Start) -> None:
    async with start_on() as (_, client):
        for path in ("training_runs/x%00", "sessions/x%00", "checkpoints?limit=1"):
            assert (await client.get(path)).status_code < 500


async def test_a_ttl_out_of_bounds_names_the_bounds(start_on: Start) -> None:
    async with start_on() as (service, client):
        add_checkpoint(service, RUN, "a")
        place = f"training_runs/{RUN}/checkpoints/weights/a/ttl"
        for ttl in (0, -5, 10**9):
            answer = await client.put(place, json={"ttl_seconds": ttl})
            assert answer.status_code == 400
            assert "1..315360000" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"display_name": "a\0b"},
        {"project_id": "\0"},
        {"tags": ["x\0"]},
        {"user_metadata": {"key": {"deep": "\0"}}},
    ],
)
async def test_a_text_with_the_nul_character_is_refused_when_it_arrives(
    start_on: Start, body: dict[str, Any]
) -> None:
    """PostgreSQL cannot keep it, and one such row would break everybody's lists."""
    [field] = body
    whole = {"tags": [], "sdk_version": "1", "type": "create_session", **body}
    async with start_on() as (_, client):
        answer = await client.post("create_session", json=whole)
        assert answer.status_code == 400
        assert answer.json()["field"] == field
        for path in ("sessions/a%00b", "training_runs/%00", "training_runs?project_id=a%00"):
            refused = await client.get(path)
            assert (refused.status_code, refused.json()["field"]) == (400, "path")
        del whole[field]
        spelled = {"tags": [], **whole, "display_name": "a\\u0000b"}  # six plain characters
        assert (await client.post("create_session", json=spelled)).status_code == 200
        assert (await client.get("training_runs?project_id=p")).status_code == 200
