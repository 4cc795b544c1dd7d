"""Uploading custom losses: the check, the number, the session, and what a bad id is told."""

from typing import Any

import httpx
import pytest
import torch

from tests.unit.algorithms.traced_graphs import traced
from tests.unit.server.services import running_service
from tinsmith.core.errors import ConfigError
from tinsmith.server import custom_losses


def likelihood(logprobs: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, dict]:
    loss = -(logprobs * weights).sum()
    return loss, {"custom/likelihood:sum": loss}


async def open_session(client: httpx.AsyncClient) -> str:
    body = {"tags": [], "sdk_version": "test"}
    return (await client.post("create_session", json=body)).json()["session_id"]


def upload(session_id: str, number: int = 0, name: str = "likelihood") -> dict[str, Any]:
    inputs, graph = traced(likelihood, logprobs=1, weights=1)
    body = {"session_id": session_id, "custom_loss_seq_id": number, "name": name}
    return {**body, "inputs": inputs, "graph": graph, "type": "create_custom_loss"}


async def result(client: httpx.AsyncClient, answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body = {"request_id": answer.json()["request_id"], "allow_metadata_only": False}
    return (await client.post("retrieve_future", json=body)).json()


async def test_a_loss_gets_an_id_and_the_same_upload_the_same(tmp_path) -> None:
    async with running_service(state_dir=tmp_path) as (service, client):
        session_id = await open_session(client)
        first = await client.post("create_custom_loss", json=upload(session_id))
        again = await client.post("create_custom_loss", json=upload(session_id))
        assert again.json() == first.json()
        loss_id = (await result(client, first))["loss_id"]
        graph = service.custom_losses.find(session_id, {"loss_id": loss_id})
        assert graph.name == "likelihood"
        other = await client.post("create_custom_loss", json=upload(session_id, name="other"))
        assert other.status_code == 400
        assert other.json()["field"] == "custom_loss_seq_id"
        second = await result(
            client, await client.post("create_custom_loss", json=upload(session_id, 1))
        )
        assert second["loss_id"] != loss_id


async def test_what_is_not_on_the_list_is_refused_by_name_and_the_number_stays_free(
    tmp_path,
) -> None:
    async with running_service(state_dir=tmp_path) as (_, client):
        session_id = await open_session(client)
        bad = upload(session_id)
        bad["graph"]["nodes"][2]["target"] = "os.system"
        refused = await client.post("create_custom_loss", json=bad)
        assert refused.status_code == 400
        assert "node 'mul'" in refused.json()["message"]
        assert "os.system" in refused.json()["message"]
        unknown = await client.post("create_custom_loss", json=upload("nobody"))
        assert unknown.json()["field"] == "session_id"
        assert "loss_id" in await result(
            client, await client.post("create_custom_loss", json=upload(session_id))
        )


async def test_numbers_names_and_counts_have_limits(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(custom_losses, "MAX_LOSSES", 1)
    async with running_service(state_dir=tmp_path) as (_, client):
        session_id = await open_session(client)
        for body, field in (
            (upload(session_id, -1), "custom_loss_seq_id"),
            (upload(session_id, 2**60), "custom_loss_seq_id"),
            (upload(session_id, name=""), "name"),
        ):
            answer = await client.post("create_custom_loss", json=body)
            assert (answer.status_code, answer.json()["field"]) == (400, field)
        await client.post("create_custom_loss", json=upload(session_id))
        full = await client.post("create_custom_loss", json=upload(session_id, 1))
        assert full.status_code == 400
        assert "most that are held" in full.json()["message"]


async def test_a_loss_belongs_to_its_session_and_ends_with_it(tmp_path) -> None:
    async with running_service(state_dir=tmp_path) as (service, client):
        session_id, other = await open_session(client), await open_session(client)
        answer = await client.post("create_custom_loss", json=upload(session_id))
        loss_id = (await result(client, answer))["loss_id"]

        def told(session: str, config: dict[str, Any]) -> str:
            with pytest.raises(ConfigError) as caught:
                service.custom_losses.find(session, config)
            assert (caught.value.field or "").startswith("loss_fn_config")
            return str(caught.value)

        assert "session" in told(other, {"loss_id": loss_id})
        assert "create_custom_loss" in told(session_id, {})
        assert "create_custom_loss" in told(session_id, {"loss_id": 3.0})
        assert "takes no such setting" in told(session_id, {"loss_id": loss_id, "beta": 1.0})
        finish = {"reason": {"type": "success"}}
        await client.post(f"sessions/{session_id}/finish", json=finish)
        # What a restart leaves is the same: the session's own id, and no loss behind it.
        assert "restart" in told(session_id, {"loss_id": loss_id})
