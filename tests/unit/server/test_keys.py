"""API keys: made and revoked by the operator, and what belongs to whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.unit.server.services import Start, running_service
from tests.unit.server.test_runs import add_checkpoint, add_run, add_session
from tinsmith.server.checkpoints import CheckpointPath
from tinsmith.server.futures import Outcome

OPERATOR = {"X-API-Key": "tml-operator"}


async def make_key(client: httpx.AsyncClient, name: str) -> tuple[int, dict[str, str]]:
    """A key's id, and the headers that use it."""
    answer = await client.post("ext/keys", json={"name": name}, headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    return answer.json()["key_id"], {"X-API-Key": answer.json()["key"]}


async def open_session(client: httpx.AsyncClient, headers: dict[str, str]) -> str:
    answer = await client.post("create_session", json={"sdk_version": "1"}, headers=headers)
    return answer.json()["session_id"]


async def test_a_key_works_until_it_is_revoked_also_after_a_restart(start_on: Start) -> None:
    async with start_on(api_key="tml-operator") as (_, client):
        key_id, ada = await make_key(client, "Ada")
        _, ben = await make_key(client, "Ben")
        me = (await client.get("auth/apikey/me", headers=ada)).json()
        assert (me["key_id"], me["name"]) == (key_id, "Ada")
        assert me["details"]["org_details"] == {"name": "self-hosted"}
    async with start_on(api_key="tml-operator") as (_, client):
        assert (await client.get("training_runs", headers=ada)).status_code == 200
        for _ in range(2):
            revoked = await client.delete(f"ext/keys/{key_id}", headers=OPERATOR)
            assert revoked.status_code == 204
        assert (await client.get("training_runs", headers=ada)).status_code == 401
        assert (await client.delete("auth/apikey/me", headers=ben)).status_code == 204
        assert (await client.get("training_runs", headers=ben)).status_code == 401
        listed = (await client.get("ext/keys", headers=OPERATOR)).json()["keys"]
        assert [(key["name"], key["revoked_at"] is not None) for key in listed] == [
            ("Ben", True),
            ("Ada", True),
        ]
    async with start_on(api_key="tml-operator") as (_, client):
        strange = httpx.Headers([(b"X-API-Key", "ä".encode())])
        for headers in (ada, ben, {}, strange):
            answer = await client.get("training_runs", headers=headers)
            assert (answer.status_code, answer.json()["field"]) == (401, "X-API-Key")


async def test_the_key_itself_is_nowhere_on_disk(tmp_path: Path) -> None:
    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    async with running_service(state_dir=tmp_path, api_key="tml-operator") as (_, client):
        _, ada = await make_key(client, "Ada-in-clear")
        assert b"Ada-in-clear" in files()
    assert ada["X-API-Key"].encode() not in files()
    assert b"tml-operator" not in files()


async def test_keys_are_the_operators_business(start_on: Start) -> None:
    async with start_on(api_key="tml-operator") as (_, client):
        key_id, ada = await make_key(client, "Ada")
        other_id, _ = await make_key(client, "Ben")
        for answer in (
            await client.get("ext/keys", headers=ada),
            await client.post("ext/keys", json={"name": "x"}, headers=ada),
            await client.delete(f"ext/keys/{other_id}", headers=ada),
        ):
            assert (answer.status_code, answer.json()["field"]) == (403, "X-API-Key")
        bad: list[tuple[str, str, Any, int, str]] = [
            ("POST", "ext/keys", {}, 400, "name"),
            ("POST", "ext/keys", {"name": ""}, 400, "name"),
            ("POST", "ext/keys", {"name": "a\u0000b"}, 400, "name"),
            ("POST", "ext/keys", {"name": "a", "colour": 1}, 400, "colour"),
            ("DELETE", "ext/keys/99", None, 404, "key_id"),
            ("DELETE", "ext/keys/x", None, 400, "key_id"),
            ("DELETE", "ext/keys/99999999999999999999999", None, 400, "key_id"),
            ("DELETE", "auth/apikey/me", None, 400, "X-API-Key"),
        ]
        for verb, path, body, status, field in bad:
            answer = await client.request(verb, path, json=body, headers=OPERATOR)
            assert (answer.status_code, answer.json()["field"]) == (status, field), path
        assert (await client.delete(f"ext/keys/{key_id}", headers=ada)).status_code == 204


async def test_a_service_without_a_key_makes_none(start_on: Start) -> None:
    async with start_on() as (_, client):
        answer = await client.post("ext/keys", json={"name": "Ada"})
    assert answer.status_code == 400
    assert "--api-key" in answer.json()["hint"]


SAMPLE = {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]}, "sampling_params": {}}


async def test_what_one_key_makes_another_does_not_see(start_on: Start, tiny_dir: Path) -> None:
    async with start_on(api_key="tml-operator") as (service, client):
        _, ada = await make_key(client, "Ada")
        _, ben = await make_key(client, "Ben")
        session_id = await open_session(client, ada)
        model = {"base_model": "tinsmith/tiny", "lora_config": {"rank": 4}, "model_seq_id": 0}
        model["session_id"] = session_id
        promise = (await client.post("create_model", json=model, headers=ada)).json()
        sampler = {"session_id": session_id, "sampling_session_seq_id": 0}
        sampler["base_model"] = "tinsmith/tiny"
        opened = await client.post("create_sampling_session", json=sampler, headers=ada)
        sampler_id = opened.json()["sampling_session_id"]
        request_id, model_id = promise["request_id"], promise["model_id"]
        service.futures.complete(request_id, Outcome(b'{"type":"create_model"}'))
        attempts: list[tuple[str, dict[str, Any]]] = [
            ("session_heartbeat", {"session_id": session_id}),
            (f"sessions/{session_id}/finish", {"reason": {"type": "success"}}),
            ("create_model", {**model, "model_seq_id": 1}),
            ("create_sampling_session", {**sampler, "sampling_session_seq_id": 1}),
            ("get_info", {"model_id": model_id}),
            ("optim_step", {"model_id": model_id, "seq_id": 1, "adam_params": {}}),
            ("unload_model", {"model_id": model_id}),
            ("join_sampling_session", {"sampling_session_id": sampler_id}),
            ("asample", {**SAMPLE, "sampling_session_id": sampler_id}),
            ("ext/stream_sample", {**SAMPLE, "sampling_session_id": sampler_id}),
            ("retrieve_futures", {"target": {"sampling_session_id": sampler_id}}),
            ("retrieve_future", {"request_id": request_id}),
            ("cancel_future", {"request_id": request_id}),
        ]
        for path, body in attempts:
            answer = await client.post(path, json=body, headers=ben)
            assert answer.status_code == 404, (path, answer.text)
        assert (await client.get(f"samplers/{sampler_id}", headers=ben)).status_code == 404
        assert (await client.get(f"sessions/{session_id}", headers=ben)).status_code == 404
        for headers in (ada, OPERATOR):
            answer = await client.post("retrieve_future", json=attempts[-2][1], headers=headers)
            assert answer.json() == {"type": "create_model"}
            assert (await client.get(f"samplers/{sampler_id}", headers=headers)).is_success
            listed = (await client.get("sessions", headers=headers)).json()["sessions"]
            assert listed == [session_id]
        assert (await client.get("sessions", headers=ben)).json()["sessions"] == []
        garbled = {"model_id": model_id, "seq_id": 1, "adam_params": {"learning_rate": -1}}
        await client.post("optim_step", json=garbled, headers=ben)
        lane = service.store.models[model_id].unit.dispatcher.find(model_id, 1, "digest")
        assert lane is None  # nobody else can use up a number


async def test_results_of_an_earlier_process_are_the_keys_own(start_on: Start) -> None:
    async with start_on(api_key="tml-operator") as (service, client):
        _, ada = await make_key(client, "Ada")
        _, ben = await make_key(client, "Ben")
        session_id = await open_session(client, ada)
        request_id = service.futures.create(owner_id=f"{session_id}:train:0")
        service.futures.complete(request_id, Outcome(b"{}"))
    async with start_on(api_key="tml-operator") as (_, client):
        body = {"request_id": request_id}
        answers = [
            await client.post("retrieve_future", json=body, headers=headers)
            for headers in (ada, OPERATOR, ben)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 410]


async def test_a_published_checkpoint_is_for_all_to_load_and_the_owners_to_change(
    start_on: Start,
) -> None:
    async with start_on(api_key="tml-operator") as (service, client):
        ada_id, ada = await make_key(client, "Ada")
        _, ben = await make_key(client, "Ben")
        add_session(service, "s-1", at=1.0, key_id=ada_id)
        run = "s-1:train:0"
        add_run(service, run, key_id=ada_id)
        for name in ("open", "closed"):
            add_checkpoint(service, run, name)
            path = str(CheckpointPath(run, "weights", name))
            service.metadata.change("checkpoints", path, {"key_id": ada_id})
        place = f"training_runs/{run}/checkpoints"

        async def status(verb: str, path: str, headers: dict[str, str], body: Any = None) -> int:
            return (await client.request(verb, path, json=body, headers=headers)).status_code

        assert await status("GET", place, ben) == 404
        assert await status("POST", f"{place}/weights/open/publish", ben) == 404
        assert await status("POST", f"{place}/weights/open/publish", ada) == 204
        assert await status("DELETE", f"{place}/weights/open", ben) == 403
        assert await status("DELETE", f"{place}/weights/open/publish", ben) == 403
        assert await status("PUT", f"{place}/weights/open/ttl", ben, {"ttl_seconds": 5}) == 403
        assert await status("GET", f"{place}/weights/open/archive", ben) == 302
        for name, expected in (("open", 200), ("closed", 404)):
            path = f"tinker://{run}/weights/{name}"
            assert await status("POST", "weights_info", ben, {"tinker_path": path}) == expected
            body = {"source_path": path, "destination_project_id": "p"}
            assert await status("POST", "copy_weights", ben, body) == expected
        session_id = await open_session(client, ben)
        load = {"session_id": session_id, "model_seq_id": 0, "optimizer": False}
        closed = {**load, "path": f"tinker://{run}/weights/closed"}
        assert await status("POST", "load_weights", ben, closed) == 404
        seen = (await client.get(place, headers=ben)).json()["checkpoints"]
        assert [c["checkpoint_id"] for c in seen] == ["weights/open"]
        runs = (await client.get("training_runs?access_scope=accessible", headers=ben)).json()
        found = {run["training_run_id"]: run for run in runs["training_runs"]}
        assert len(found) == 2  # the copy is Ben's own
        assert found[run]["last_checkpoint"]["checkpoint_id"] == "weights/open"
        assert found[run]["model_owner"] == f"key:{ada_id}"
        mine = (await client.get("checkpoints", headers=ben)).json()["checkpoints"]
        assert len(mine) == 1
        everything = (await client.get("checkpoints", headers=OPERATOR)).json()
        assert everything["cursor"]["total_count"] == 3


async def test_a_key_of_the_owner_opens_a_checkpoint_to_others(start_on: Start) -> None:
    async with start_on(api_key="tml-operator") as (service, client):
        ada_id, ada = await make_key(client, "Ada")
        _, ben = await make_key(client, "Ben")
        add_session(service, "s-1", at=1.0, key_id=ada_id)
        run = "s-1:train:0"
        add_run(service, run, key_id=ada_id)
        add_checkpoint(service, run, "closed")
        path = str(CheckpointPath(run, "weights", "closed"))
        service.metadata.change("checkpoints", path, {"key_id": ada_id})
        body = {"source_path": path, "destination_project_id": "p"}
        header = "X-Tinker-Weights-Access-Token"

        async def copy(token: str) -> httpx.Response:
            return await client.post("copy_weights", json=body, headers={**ben, header: token})

        for wrong in (ben["X-API-Key"], "tml-nonsense", ada["X-API-Key"][:-1]):
            answer = await copy(wrong)
            assert (answer.status_code, answer.json()["field"]) == (403, "weights_access_token")
            assert wrong not in answer.text
        copied = await copy(ada["X-API-Key"])
        assert copied.status_code == 200
        (mine,) = (await client.get("checkpoints", headers=ben)).json()["checkpoints"]
        assert mine["tinker_path"] == copied.json()["tinker_path"]
        session_id = await open_session(client, ben)
        load = {"session_id": session_id, "model_seq_id": 0, "path": path, "optimizer": False}
        refused = {**load, "weights_access_token": ben["X-API-Key"]}
        answer = await client.post("load_weights", json=refused, headers=ben)
        assert answer.status_code == 403
        accepted = {**load, "weights_access_token": ada["X-API-Key"]}
        answer = await client.post("load_weights", json=accepted, headers=ben)
        assert answer.json()["model_id"] == f"{session_id}:train:0"
        await client.delete(f"ext/keys/{ada_id}", headers=OPERATOR)
        assert (await copy(ada["X-API-Key"])).status_code == 403  # a revoked key opens nothing


async def test_where_everything_is_open_a_token_is_refused_and_not_ignored(start_on: Start) -> None:
    async with start_on() as (service, client):
        add_session(service, "s-1", at=1.0)
        add_run(service, "s-1:train:0")
        add_checkpoint(service, "s-1:train:0", "any")
        body = {"source_path": "tinker://s-1:train:0/weights/any", "destination_project_id": "p"}
        answer = await client.post("copy_weights", json={**body, "weights_access_token": "t"})
        assert (answer.status_code, answer.json()["field"]) == (400, "weights_access_token")
        assert (await client.post("copy_weights", json=body)).status_code == 200
