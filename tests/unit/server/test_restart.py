"""What a second process of the service knows of the first one's life, without an engine."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx

from tests.unit.server.services import Start
from tinsmith.core.errors import UserError
from tinsmith.server.checkpoints import RECORD_FILE, CheckpointPath, CheckpointRecord
from tinsmith.server.futures import SAMPLE_TYPE, Outcome
from tinsmith.server.service import Service
from tinsmith.types import LoraConfig


async def open_session(client: httpx.AsyncClient) -> str:
    body = {"sdk_version": "1", "tags": ["t"], "user_metadata": {"a": 1}, "display_name": "mine"}
    return (await client.post("create_session", json=body)).json()["session_id"]


async def retrieve(client: httpx.AsyncClient, request_id: str) -> httpx.Response:
    body = {"request_id": request_id, "allow_metadata_only": False}
    return await client.post("retrieve_future", json=body)


async def test_sessions_go_on_and_finished_ones_stay_finished(start_on: Start) -> None:
    async with start_on() as (_, client):
        living, finished = await open_session(client), await open_session(client)
        await client.post(f"sessions/{finished}/finish", json={"reason": {"type": "errored"}})
    async with start_on() as (service, client):
        assert (await client.post("session_heartbeat", json={"session_id": living})).is_success
        gone = await client.post("session_heartbeat", json={"session_id": finished})
        assert gone.status_code == 410
        assert "finished (errored)" in gone.json()["detail"]
        record = service.store.sessions[living]
        assert (record.tags, record.user_metadata) == (["t"], {"a": 1})
        assert record.details == {"sdk_version": "1", "display_name": "mine"}


async def test_finished_results_are_answered_and_unfinished_work_failed(start_on: Start) -> None:
    async with start_on() as (service, client):
        done, unfinished = service.futures.create(), service.futures.create()
        service.futures.complete(done, Outcome(bytes(range(256)), "application/x-protobuf"))
        assert (await retrieve(client, done)).content == bytes(range(256))
    for _ in range(2):
        async with start_on() as (_, client):
            answer = await retrieve(client, done)
            assert answer.content == bytes(range(256))
            assert answer.headers["content-type"] == "application/x-protobuf"
            failure = (await retrieve(client, unfinished)).json()
            assert failure["category"] == "server"
            assert "the service was restarted before it finished" in failure["error"]
            assert (await retrieve(client, f"{done}x")).status_code == 410
            assert (await retrieve(client, "0" * 12 + "-1-0")).status_code == 410
            assert (await retrieve(client, "nonsense")).status_code == 404


async def test_results_are_forgotten_after_their_time(start_on: Start) -> None:
    async with start_on(limits={"result_keep_s": 0.05}) as (service, _):
        done = service.futures.create()
        service.futures.complete(done, Outcome(b"{}"))
        service.futures.close()  # no timer: the next start has to forget it
        await asyncio.sleep(0.06)
    async with start_on() as (_, client):
        answer = await retrieve(client, done)
    assert answer.status_code == 410
    assert "no longer held" in answer.json()["detail"]


async def test_results_that_left_memory_come_from_the_database(start_on: Start) -> None:
    limits = {"max_result_bytes": 10_000, "max_stored_result_bytes": 6000}
    async with start_on(limits=limits) as (service, client):
        ids = [service.futures.create() for _ in range(8)]
        for number, request_id in enumerate(ids):
            service.futures.complete(request_id, Outcome(bytes([number]) * 2000))
        found = [await retrieve(client, request_id) for request_id in ids]
    assert [answer.status_code for answer in found] == [410] * 3 + [200] * 5
    assert [answer.content[:1] for answer in found[3:]] == [bytes([n]) for n in range(3, 8)]


async def test_a_lost_model_names_the_checkpoint_to_resume_from(
    start_on: Start, tmp_path: Path, tiny_dir: Path
) -> None:
    async with start_on() as (service, client):
        session_id = await open_session(client)
        body = {"session_id": session_id, "base_model": "tinsmith/tiny", "lora_config": {"rank": 4}}
        promises = [
            (await client.post("create_model", json={**body, "model_seq_id": number})).json()
            for number in (0, 1)
        ]
        model_id, other_id = (promise["model_id"] for promise in promises)
        write_checkpoint(service, CheckpointPath(model_id, "weights", "step-1"))
    path = f"tinker://{model_id}/weights/step-1"
    async with start_on() as (_, client):
        for endpoint, request in (
            ("get_info", {"model_id": model_id}),
            ("optim_step", {"model_id": model_id, "seq_id": 1}),
            ("create_model", {**body, "model_seq_id": 0}),
        ):
            answer = await client.post(endpoint, json=request)
            assert answer.status_code == 410
            assert answer.json()["category"] == "server"
            assert path in answer.json()["hint"]
        answer = await client.post("get_info", json={"model_id": other_id})
        assert "no checkpoint" in answer.json()["hint"]
        failure = (await retrieve(client, promises[0]["request_id"])).json()
        assert failure["category"] == "server"
        assert path in failure["hint"]


async def test_samplers_on_disk_go_on_and_those_in_memory_are_lost(
    start_on: Start, tiny_dir: Path
) -> None:
    async with start_on() as (service, client):
        session_id = await open_session(client)
        body = {
            "session_id": session_id,
            "sampling_session_seq_id": 0,
            "base_model": "tinsmith/tiny",
        }
        opened = (await client.post("create_sampling_session", json=body)).json()
        sampler_id = opened["sampling_session_id"]
        row = {"sampler_id": f"{session_id}:sample:1", "session_id": session_id, "created_at": 1.0}
        row |= {"base_model": "tinsmith/tiny", "model_path": None, "snapshot_id": "gone"}
        service.metadata.put("samplers", row)
    async with start_on() as (_, client):
        described = (await client.get(f"samplers/{sampler_id}")).json()
        assert described == {"sampler_id": sampler_id, "base_model": "tinsmith/tiny"}
        again = await client.post("create_sampling_session", json=body)
        assert again.json()["sampling_session_id"] == sampler_id
        other = {**body, "base_model": None, "model_path": "tinker://r/sampler_weights/n"}
        refused = await client.post("create_sampling_session", json=other)
        assert (refused.status_code, refused.json()["field"]) == (400, "sampling_session_seq_id")
        sample = {"sampling_session_id": row["sampler_id"], "prompt": {"chunks": []}}
        answer = await client.post("asample", json={**sample, "sampling_params": {}, "seq_id": 0})
        assert (answer.status_code, answer.json()["category"]) == (410, "server")


async def test_samples_of_an_earlier_process_are_told_to_each_client_of_the_sampler(
    start_on: Start, tiny_dir: Path
) -> None:
    async with start_on() as (service, client):
        session_id = await open_session(client)
        body = {"session_id": session_id, "sampling_session_seq_id": 0}
        body["base_model"] = "tinsmith/tiny"
        opened = (await client.post("create_sampling_session", json=body)).json()
        sampler_id = opened["sampling_session_id"]
        futures = service.futures
        ids = [futures.create(owner_id=sampler_id, is_repeatable=True) for _ in range(3)]
        futures.create(owner_id=f"{session_id}:train:0")
        futures.complete(ids[0], Outcome(b"12345", SAMPLE_TYPE))
        futures.fail(ids[1], UserError("no"))
    async with start_on() as (_, client):
        for clone_id in (0, 7):
            target = {"sampling_session_id": sampler_id, "cloned_sampler_id": clone_id}
            answer = await client.post("retrieve_futures", json={"target": target, "timeout": 0})
            told = {each.pop("request_id"): each for each in answer.json()["completions"]}
            finished = {"state": "finished", "response_payload_uncompressed_size": 5}
            assert told == {
                ids[0]: finished,
                ids[1]: {"state": "failed"},
                ids[2]: {"state": "failed"},
            }
        failure = (await retrieve(client, ids[2])).json()
        assert failure["hint"] == "sample again"


async def test_checkpoints_on_disk_and_their_rows_are_brought_together(start_on: Start) -> None:
    kept = CheckpointPath("s:train:0", "weights", "kept")
    async with start_on() as (service, _):
        directory = write_checkpoint(service, kept)
        row = read_record(directory).row(1)
        removed = "tinker://s:train:0/weights/removed"
        service.metadata.put("checkpoints", {**row, "path": removed})
        (directory.parent / ".kept.partial").mkdir()
        shutil.copy(directory / RECORD_FILE, directory.parent / ".kept.partial")
        broken = directory.parent / "broken"
        broken.mkdir()
        (broken / RECORD_FILE).write_text("{")
    async with start_on() as (service, _):
        found = await service.metadata.run(lambda c: _checkpoint_rows(c))
    (row,) = found
    assert (row["path"], row["size_bytes"]) == (str(kept), 1000 + len(read_text(directory)))
    assert row["created_at"] == 1_700_000_000.5


def write_checkpoint(service: Service, path: CheckpointPath) -> Path:
    directory = service.checkpoints.directory(path)
    directory.mkdir(parents=True)
    record = CheckpointRecord(
        path=str(path),
        model_id=path.run_id,
        base_model="tinsmith/tiny",
        lora_config=LoraConfig(rank=4),
        created_at="2023-11-14T22:13:20.500Z",
    )
    (directory / "state.safetensors").write_bytes(b"x" * 1000)
    (directory / RECORD_FILE).write_text(record.model_dump_json())
    return directory


def read_text(directory: Path) -> str:
    return (directory / RECORD_FILE).read_text()


def read_record(directory: Path) -> CheckpointRecord:
    return CheckpointRecord(**json.loads(read_text(directory)))


def _checkpoint_rows(connection: Any) -> list[dict[str, Any]]:
    from tinsmith.server.metadata.tables import checkpoints

    return [dict(row) for row in connection.execute(checkpoints.select()).mappings()]
