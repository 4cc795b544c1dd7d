"""RestClient and the command line of the official package over what training left behind."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.conftest import API_KEY, Connect, Warm
from tests.interop.official_cli import official_cli
from tests.interop.official_data import random_data

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def rest(service: ServiceProcess) -> tinker.RestClient:
    return tinker.RestClient(base_url=service.ready["url"], api_key=API_KEY)


@pytest.fixture(scope="module")
def run(connect: Connect) -> Iterator[tinker.TrainingClient]:
    """A run with two checkpoints of each kind, in a session of its own."""
    with connect(user_metadata={"who": "rest"}, display_name="Rest tests") as client:
        trainer = client.create_lora_training_client(
            BASE_MODEL, rank=4, user_metadata={"purpose": "rest"}
        ).result()
        trainer.forward_backward(random_data(1, seed=1), "cross_entropy")
        trainer.optim_step(tinker.AdamParams()).result()
        for name in ("one", "two"):
            trainer.save_state(name, user_metadata={"name": name}).result()
            trainer.save_weights_for_sampler(name).result()
        yield trainer


def path_of(run: tinker.TrainingClient, checkpoint_id: str) -> str:
    return f"tinker://{run.model_id}/{checkpoint_id}"


@contextmanager
def missing() -> Iterator[None]:
    with pytest.raises(tinker.NotFoundError):
        yield


def test_a_training_run_tells_what_it_is(
    rest: tinker.RestClient, run: tinker.TrainingClient
) -> None:
    found = rest.get_training_run(run.model_id).result()
    assert (found.base_model, found.is_lora, found.lora_rank) == (BASE_MODEL, True, 4)
    assert found.user_metadata == {"purpose": "rest"}
    assert not found.corrupted
    assert abs(found.last_request_time - datetime.now(UTC)) < timedelta(minutes=10)
    assert found.last_checkpoint is not None
    assert found.last_checkpoint.tinker_path == path_of(run, "weights/two")
    assert found.last_sampler_checkpoint is not None
    assert found.last_sampler_checkpoint.checkpoint_id == "sampler_weights/two"
    path = path_of(run, "weights/one")
    assert rest.get_training_run_by_tinker_path(path).result() == found
    with missing():
        rest.get_training_run("none:train:0").result()


def test_runs_are_listed_in_pages(
    rest: tinker.RestClient, run: tinker.TrainingClient, warm: Warm
) -> None:
    total = rest.list_training_runs(limit=1).result().cursor.total_count
    ids: list[str] = []
    for offset in range(0, total, 50):
        page = rest.list_training_runs(limit=50, offset=offset).result()
        assert page.cursor.total_count == total
        ids += [each.training_run_id for each in page.training_runs]
    assert {run.model_id, warm.trainer.model_id} <= set(ids)
    assert total == len(ids) == len(set(ids))
    places = {0, 1, total // 2, total - 1}
    pages = {at: rest.list_training_runs(limit=1, offset=at).result() for at in places}
    assert {at: page.training_runs[0].training_run_id for at, page in pages.items()} == {
        at: ids[at] for at in places
    }
    assert rest.list_training_runs(limit=1, offset=total).result().training_runs == []


def test_checkpoints_are_listed(rest: tinker.RestClient, run: tinker.TrainingClient) -> None:
    found = rest.list_checkpoints(run.model_id).result().checkpoints
    assert {each.checkpoint_id for each in found} == {
        f"{kind}/{name}" for kind in ("weights", "sampler_weights") for name in ("one", "two")
    }
    kinds = {each.checkpoint_id.split("/")[0]: each.checkpoint_type for each in found}
    assert kinds == {"weights": "training", "sampler_weights": "sampler"}
    assert all((each.size_bytes or 0) > 1000 and not each.public for each in found)
    named = {each.checkpoint_id: each for each in found}
    assert named["weights/one"].user_metadata == {"name": "one"}
    mine = rest.list_user_checkpoints(limit=1000).result()
    assert {each.tinker_path for each in found} <= {each.tinker_path for each in mine.checkpoints}
    times = [each.time for each in mine.checkpoints]
    assert times == sorted(times, reverse=True)  # newest first
    info = rest.get_weights_info_by_tinker_path(path_of(run, "weights/one")).result()
    assert (info.base_model, info.is_lora, info.lora_rank) == (BASE_MODEL, True, 4)
    with missing():
        rest.list_checkpoints("none:train:0").result()


def test_publishing_expiry_and_deletion(
    rest: tinker.RestClient, run: tinker.TrainingClient
) -> None:
    path = run.save_state("short").result().path

    def described() -> Any:
        found = rest.list_checkpoints(run.model_id).result().checkpoints
        return next((each for each in found if each.tinker_path == path), None)

    rest.publish_checkpoint_from_tinker_path(path).result()
    assert described().public
    rest.unpublish_checkpoint_from_tinker_path(path).result()
    assert not described().public
    rest.set_checkpoint_ttl_from_tinker_path(path, 7200).result()
    left = described().expires_at - datetime.now(UTC)
    assert timedelta(seconds=7000) < left <= timedelta(seconds=7200)
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result()
    assert described().expires_at is None
    rest.delete_checkpoint_from_tinker_path(path).result()
    assert described() is None
    for call in (
        lambda: rest.delete_checkpoint(run.model_id, "weights/short").result(),
        lambda: rest.publish_checkpoint_from_tinker_path(path).result(),
        lambda: rest.set_checkpoint_ttl_from_tinker_path(path, 7200).result(),
    ):
        with missing():
            call()


def test_copied_weights_train_on_as_the_originals(
    rest: tinker.RestClient, run: tinker.TrainingClient, warm: Warm
) -> None:
    copied = rest.copy_weights(warm.state_path, "project").result()
    assert copied != warm.state_path
    data = random_data(2, seed=2)
    models = [
        warm.client.create_training_client_from_state(path).result()
        for path in (warm.state_path, copied)
    ]
    losses = [m.forward(data, "cross_entropy").result().metrics["loss:sum"] for m in models]
    assert losses[0] == losses[1]


def test_sessions_and_samplers(rest: tinker.RestClient, run: tinker.TrainingClient) -> None:
    session_id = run.model_id.split(":")[0]
    assert session_id in rest.list_sessions(limit=100).result().sessions
    sampler = run.save_weights_and_get_sampling_client().result()
    sampler_id = json.loads(_decoded(sampler.get_sampler_handle()))["sampling_session_id"]
    session = rest.get_session(session_id).result()
    assert session.training_run_ids == [run.model_id]
    assert sampler_id in session.sampler_ids
    assert (session.user_metadata, session.display_name) == ({"who": "rest"}, "Rest tests")
    assert rest.get_sampler(sampler_id).result().base_model == BASE_MODEL
    rest.assign_session_project(session_id, "a project").result()
    runs = rest.list_training_runs(project_id="a project").result().training_runs
    assert [each.training_run_id for each in runs] == [run.model_id]
    request = tinker.types.SessionSearchRequest(display_name="Rest tests")
    with pytest.warns(tinker.ExperimentalWarning):
        found = rest.search_sessions(request).result()
    assert [each.session_id for each in found.sessions] == [session_id]
    with missing():
        rest.get_session("none").result()
    with missing():
        rest.get_sampler("none:sample:0").result()


def _decoded(handle: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(handle + "=" * (-len(handle) % 4))


def test_an_archive_holds_the_checkpoints_files(
    service: ServiceProcess, warm: Warm, tmp_path: Path
) -> None:
    checkpoint = warm.sampler_path.removeprefix("tinker://").split("/", 1)
    url = f"{service.ready['url']}/api/v1/training_runs/{checkpoint[0]}/checkpoints/{checkpoint[1]}"
    answer = httpx.get(
        f"{url}/archive", headers={"X-API-Key": API_KEY}, follow_redirects=True, trust_env=False
    )
    archive = tmp_path / "archive.tar"
    archive.write_bytes(answer.content)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    name = "adapter_model.safetensors"
    (extracted,) = (tmp_path / "out").rglob(name)
    assert extracted.read_bytes() == (warm.peft_dir / name).read_bytes()


def test_the_official_command_line(
    service: ServiceProcess, run: tinker.TrainingClient, tmp_path: Path
) -> None:
    path = run.save_weights_for_sampler("for-the-cli").result().path
    listed = json.loads(official_cli(service, tmp_path, "--format", "json", "run", "list"))
    assert run.model_id in json.dumps(listed)
    listed = official_cli(
        service, tmp_path, "--format", "json", "checkpoint", "list", "--run-id", run.model_id
    )
    assert path in json.dumps(json.loads(listed))
    official_cli(service, tmp_path, "checkpoint", "delete", "--yes", path)
    listed = official_cli(
        service, tmp_path, "--format", "json", "checkpoint", "list", "--run-id", run.model_id
    )
    assert path not in json.dumps(json.loads(listed))


def test_the_official_command_line_looks_after_checkpoints(
    service: ServiceProcess, rest: tinker.RestClient, run: tinker.TrainingClient, tmp_path: Path
) -> None:
    path = run.save_state("cared-for").result().path

    def described() -> Any:
        found = rest.list_checkpoints(run.model_id).result().checkpoints
        return next(each for each in found if each.tinker_path == path)

    def cli(*words: str) -> str:
        return official_cli(service, tmp_path, *words)

    assert run.model_id in cli("--format", "json", "run", "info", run.model_id)
    assert "cared-for" in cli("--format", "json", "checkpoint", "info", path)
    cli("checkpoint", "publish", path)
    assert described().public
    cli("checkpoint", "unpublish", path)
    assert not described().public
    cli("checkpoint", "set-ttl", path, "--ttl", "7200")
    left = described().expires_at - datetime.now(UTC)
    assert timedelta(seconds=7000) < left <= timedelta(seconds=7200)
    cli("checkpoint", "set-ttl", path, "--remove")
    assert described().expires_at is None
