"""RestClient against the real service: what was trained is there, and is looked after."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.service_process import ServiceProcess
from tinsmith.client import NotFoundError, RestClient, ServiceClient
from tinsmith.types import ParsedCheckpointTinkerPath, SessionActive, SessionSearchRequest

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("tiny_dir")]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("service")) as process:
        yield process


@pytest.fixture
def rest(running: ServiceProcess) -> Iterator[RestClient]:
    with RestClient(base_url=running.ready["url"], api_key=running.ready["api_key"]) as client:
        yield client


def test_runs_checkpoints_and_sessions_are_kept_and_looked_after(
    running: ServiceProcess, rest: RestClient
) -> None:
    url, key = running.ready["url"], running.ready["api_key"]
    with ServiceClient(base_url=url, api_key=key, display_name="My first run") as service:
        training = service.create_lora_training_client(
            "tinsmith/tiny", rank=4, train_mlp=False, user_metadata={"goal": "test"}
        ).result(120)
        path = training.save_state("a", ttl_seconds=7200, user_metadata={"k": "v"}).result(60).path
        sampler_path = training.save_weights_for_sampler("b").result(60).path
        assert sampler_path is not None
        run_id = training.model_id
        session_id = run_id.split(":")[0]

        run = rest.get_training_run_by_tinker_path(path).result(30)
        assert run == rest.get_training_run(run_id).result(30)
        assert (run.training_run_id, run.base_model) == (run_id, "tinsmith/tiny")
        assert (run.lora_rank, run.user_metadata) == (4, {"goal": "test"})
        assert run.last_checkpoint is not None
        assert run.last_checkpoint.tinker_path == path
        page = rest.list_training_runs(limit=1).result(30)
        assert page.training_runs == [run]
        assert page.cursor.total_count == 1

        checkpoints = rest.list_checkpoints(run_id).result(30).checkpoints
        assert {c.tinker_path for c in checkpoints} == {path, sampler_path}
        assert rest.list_user_checkpoints().result(30).checkpoints == checkpoints
        (saved,) = [c for c in checkpoints if c.checkpoint_type == "training"]
        assert saved.user_metadata == {"k": "v"}
        assert saved.size_bytes is not None
        assert saved.size_bytes > 0
        assert saved.expires_at is not None
        left = saved.expires_at - datetime.now(UTC)
        assert timedelta(seconds=7000) < left < timedelta(seconds=7200)

        info = rest.get_weights_info_by_tinker_path(path).result(30)
        assert (info.base_model, info.lora_rank, info.train_mlp) == ("tinsmith/tiny", 4, False)
        session = rest.get_session(session_id).result(30)
        assert session.training_run_ids == [run_id]
        assert session.display_name == "My first run"
        assert session_id in rest.list_sessions().result(30).sessions
        request = SessionSearchRequest(display_name="FIRST")
        (found,) = rest.search_sessions(request).result(30).sessions
        assert (found.session_id, found.status) == (session_id, SessionActive())

    rest.set_checkpoint_ttl_from_tinker_path(path, None).result(30)
    rest.publish_checkpoint_from_tinker_path(sampler_path).result(30)
    rest.publish_checkpoint_from_tinker_path(sampler_path).result(30)
    by_path = {c.tinker_path: c for c in rest.list_checkpoints(run_id).result(30).checkpoints}
    assert by_path[path].expires_at is None
    assert by_path[sampler_path].public
    rest.unpublish_checkpoint_from_tinker_path(sampler_path).result(30)
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
    rest.delete_checkpoint(run_id, parsed.checkpoint_id).result(30)
    (kept,) = rest.list_checkpoints(run_id).result(30).checkpoints
    assert (kept.tinker_path, kept.public) == (sampler_path, False)
    with pytest.raises(NotFoundError):
        rest.delete_checkpoint_from_tinker_path(path).result(30)


def test_who_asks_and_what_there_is_to_ask_for(rest: RestClient) -> None:
    assert rest.whoami().result(30).user_urn.startswith("apikey:")
    models = rest.get_server_capabilities().result(30).supported_models
    assert "tinsmith/tiny" in [model.model_name for model in models]
    with pytest.raises(NotFoundError):
        rest.get_training_run("nobody:train:0").result(30)
