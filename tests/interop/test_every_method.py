"""What the other modules leave out of the official package: twins, accounts, commands; and a count.

The last test enumerates the public methods and commands, and fails for one that no test has called.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.conftest import API_KEY, Connect, Warm
from tests.interop.official_cli import official_cli, run_cli
from tests.interop.official_data import outputs_of, random_data
from tests.interop.recorder import CALLED, COLLECTED, commands, public_methods

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = [
    pytest.mark.integration,
    # The `_async` twins and the account methods of RestClient are deprecated, and still in use.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

DAY = ("2026-07-13T00:00:00Z", "2026-07-14T00:00:00Z")
NOT_CALLED = {
    "SamplingClient.create": "internal: takes the package's own connection, made by ServiceClient",
    "SamplingClient.on_queue_state_change": "called by the package; users replace it",
    "auth login": "talks to the vendor's fixed address, asks a person for a key",
    "checkpoint push-hf": "uploads to the Hugging Face hub",
}
"""What is not exercised, and why."""


@pytest.fixture(scope="module")
def rest(client: tinker.ServiceClient) -> tinker.RestClient:
    return client.create_rest_client()


@pytest.fixture(scope="module")
def admin(service: ServiceProcess) -> tinker.AdminClient:
    return tinker.AdminClient(base_url=service.ready["url"], api_key=API_KEY)


def prompt() -> tinker.ModelInput:
    return tinker.ModelInput.from_ints([50, 117, 9, 204, 333])


async def test_async_twins_train_to_the_same_numbers(warm: Warm) -> None:
    plain = warm.fork()
    twin = await warm.client.create_training_client_from_state_async(warm.state_path)
    data = random_data(3, seed=71)
    params = tinker.AdamParams(learning_rate=1e-2)

    def loss(data: list, logprobs: list) -> tuple[Any, dict]:
        return sum(-lp.sum() for lp in logprobs), {}  # type: ignore[return-value]

    expected = plain.forward(data, "cross_entropy").result()
    found = await (await twin.forward_async(data, "cross_entropy"))
    assert found.metrics == expected.metrics
    for method in ("forward_backward", "forward_backward_custom"):
        plain.optim_step(params).result()
        await (await twin.optim_step_async(params))
        if method == "forward_backward":
            expected = plain.forward_backward(data, "cross_entropy").result()
            found = await (await twin.forward_backward_async(data, "cross_entropy"))
        else:
            expected = plain.forward_backward_custom(data, loss).result()
            found = await (await twin.forward_backward_custom_async(data, loss))
        assert found.metrics == expected.metrics
        for ours, theirs in zip(outputs_of(found), outputs_of(expected), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    norms = [
        plain.optim_step(params).result().metrics,
        (await (await twin.optim_step_async(params))).metrics,
    ]
    assert norms[0] == norms[1]
    assert (norms[0] or {})["grad_norm"] > 0
    info = await twin.get_info_async()
    assert info.model_id == twin.model_id == twin.get_info().model_id
    assert (info.model_data.model_name, info.lora_rank) == (BASE_MODEL, 8)


async def test_async_twins_save_and_load(warm: Warm, rest: tinker.RestClient) -> None:
    trainer = await warm.client.create_lora_training_client_async(BASE_MODEL, rank=8, seed=3)
    data = random_data(2, seed=72)

    def logprobs(model: tinker.TrainingClient) -> np.ndarray:
        return np.concatenate(outputs_of(model.forward(data, "cross_entropy").result()))

    untrained = logprobs(trainer)
    await (await trainer.load_state_async(warm.state_path))
    loaded = logprobs(trainer)
    np.testing.assert_array_equal(loaded, logprobs(warm.fork()))
    assert np.abs(loaded - untrained).max() > 1e-3
    await (await trainer.load_state_with_optimizer_async(warm.state_path))
    np.testing.assert_array_equal(logprobs(trainer), loaded)
    state = (await (await trainer.save_state_async("twin"))).path
    resumed = await warm.client.create_training_client_from_state_with_optimizer_async(state)
    np.testing.assert_array_equal(logprobs(resumed), loaded)
    weights = (await (await trainer.save_weights_for_sampler_async("twin"))).path
    named = await trainer.create_sampling_client_async(weights)
    opened = await warm.client.create_sampling_client_async(model_path=weights)
    direct = await trainer.save_weights_and_get_sampling_client_async()
    scores = [await client.compute_logprobs_async(prompt()) for client in (named, opened, direct)]
    assert scores[0] == scores[1] == pytest.approx(scores[2], abs=1e-5)
    assert scores[0] == named.compute_logprobs(prompt()).result()
    options = tinker.SamplingParams(max_tokens=4, temperature=1.0, seed=9)
    sampled = await named.sample_async(prompt(), 2, options)
    again = named.sample(prompt(), 2, options).result()
    assert [each.tokens for each in sampled.sequences] == [each.tokens for each in again.sequences]
    assert await named.get_base_model_async() == BASE_MODEL
    external = (await (await trainer.save_weights_external_async("twin"))).path
    plain = rest.get_external_weights_urls(external).result()
    twin = await rest.get_external_weights_urls_async(external)
    assert set(twin.urls) == set(plain.urls) != set()


def test_a_sampling_client_finds_its_tokenizer_by_the_base_models_name(
    warm: Warm, tiny_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = warm.client.create_sampling_client(base_model=BASE_MODEL).result()
    # It asks the hub, or a folder of that name; the service is not asked.
    folder = tmp_path / BASE_MODEL
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tiny_dir)
    monkeypatch.chdir(tmp_path)
    text = "Hello, smith!"
    assert sampler.get_tokenizer().encode(text) == warm.trainer.get_tokenizer().encode(text)


async def test_async_twins_of_rest_read_the_same(warm: Warm, rest: tinker.RestClient) -> None:
    run_id = warm.trainer.model_id
    session_id = run_id.split(":")[0]
    pairs = [
        (await rest.get_training_run_async(run_id), rest.get_training_run(run_id)),
        (
            await rest.get_training_run_by_tinker_path_async(warm.state_path),
            rest.get_training_run(run_id),
        ),
        (await rest.list_training_runs_async(limit=3), rest.list_training_runs(limit=3)),
        (await rest.list_checkpoints_async(run_id), rest.list_checkpoints(run_id)),
        (await rest.list_user_checkpoints_async(limit=5), rest.list_user_checkpoints(limit=5)),
        (await rest.list_sessions_async(limit=5), rest.list_sessions(limit=5)),
        (await rest.get_session_async(session_id), rest.get_session(session_id)),
    ]
    for twin, plain in pairs:
        assert twin == plain.result()
    assert pairs[0][0].training_run_id == run_id
    sampler_id = pairs[-1][0].sampler_ids[0]
    assert await rest.get_sampler_async(sampler_id) == rest.get_sampler(sampler_id).result()
    capabilities = await warm.client.get_server_capabilities_async()
    assert capabilities == warm.client.get_server_capabilities()
    assert capabilities == rest.get_server_capabilities().result()
    assert [model.model_name for model in capabilities.supported_models] == [BASE_MODEL]


async def test_async_twins_of_rest_change_checkpoints(warm: Warm, rest: tinker.RestClient) -> None:
    run_id = warm.trainer.model_id

    def described(path: str) -> Any:
        found = rest.list_user_checkpoints(limit=1000).result().checkpoints
        return next((each for each in found if each.tinker_path == path), None)

    path = await rest.copy_weights_async(warm.state_path, "twins")
    # The record of a copy is a few bytes longer or shorter; its weights are the same.
    sizes = [described(each).size_bytes for each in (path, warm.state_path)]
    assert sizes[0] == pytest.approx(sizes[1], abs=500)
    data = random_data(2, seed=73)
    models = [
        warm.client.create_training_client_from_state(each).result()
        for each in (path, warm.state_path)
    ]
    losses = [m.forward(data, "cross_entropy").result().metrics["loss:sum"] for m in models]
    assert losses[0] == losses[1]
    await rest.publish_checkpoint_from_tinker_path_async(path)
    assert described(path).public
    await rest.unpublish_checkpoint_from_tinker_path_async(path)
    assert not described(path).public
    await rest.set_checkpoint_ttl_from_tinker_path_async(path, 7200)
    assert described(path).expires_at is not None
    await rest.delete_checkpoint_from_tinker_path_async(path)
    assert described(path) is None
    named = warm.trainer.save_state("to-delete").result().path
    await rest.delete_checkpoint_async(run_id, "weights/to-delete")
    assert described(named) is None
    model = warm.client.create_lora_training_client(BASE_MODEL, rank=2).result()
    await rest.assign_session_project_async(model.model_id.split(":")[0], "twins")
    runs = rest.list_training_runs(project_id="twins").result().training_runs
    assert model.model_id in [each.training_run_id for each in runs]


def test_a_client_copies_weights_into_its_project(
    connect: Connect, warm: Warm, rest: tinker.RestClient
) -> None:
    with connect(project_id="copies") as client:
        path = client.copy_weights(warm.state_path, ttl_seconds=7200).result()
    run = rest.get_training_run_by_tinker_path(path).result()
    listed = rest.list_training_runs(project_id="copies").result().training_runs
    assert run.training_run_id in [each.training_run_id for each in listed]
    found = rest.list_checkpoints(run.training_run_id).result().checkpoints
    (copied,) = [each for each in found if each.tinker_path == path]
    assert copied.expires_at is not None
    data = random_data(2, seed=74)
    models = [
        warm.client.create_training_client_from_state(each).result()
        for each in (path, warm.state_path)
    ]
    losses = [m.forward(data, "cross_entropy").result().metrics["loss:sum"] for m in models]
    assert losses[0] == losses[1]


async def test_accounts_hold_what_a_service_of_ones_own_has(
    rest: tinker.RestClient, admin: tinker.AdminClient, warm: Warm
) -> None:
    assert warm.state_path.startswith("tinker://")
    stored = rest.list_user_checkpoints(limit=1000).result().checkpoints
    for who in (admin, rest):
        assert who.get_audit_log().result().entries == []
        assert (await who.get_audit_log_async(event_type="checkpoints")).entries == []
        assert who.get_billing_usage(*DAY).result().data == []
        assert (await who.get_billing_usage_async(*DAY)).data == []
        (usage,) = who.get_current_checkpoint_storage_usage().result().data
        (twin,) = (await who.get_current_checkpoint_storage_usage_async()).data
        assert usage == twin
        assert usage.checkpoint_count == len(stored)
        assert usage.size_bytes == sum(each.size_bytes or 0 for each in stored)
    with pytest.raises(RuntimeError, match="requires JWT auth"):  # the package's own rule
        rest.whoami().result()


async def test_traces_are_refused_and_addresses_of_a_console_name_what_they_show(
    rest: tinker.RestClient, admin: tinker.AdminClient, warm: Warm
) -> None:
    session_id = warm.trainer.model_id.split(":")[0]
    with pytest.raises(RuntimeError, match="records no traces"):
        rest.export_session_trace(session_id).result()
    with pytest.raises(RuntimeError, match="records no traces"):
        await rest.export_session_trace_async(session_id)
    assert session_id in warm.client.get_console_url()
    assert warm.trainer.model_id.split(":")[0] in warm.trainer.get_console_url()
    sampler = warm.client.create_sampling_client(base_model=BASE_MODEL).result()
    for each in (warm.client, warm.trainer, sampler, rest, admin):
        reporter = each.get_telemetry()
        assert reporter is None or callable(reporter.log)


def test_commands_show_accounts_models_and_the_version(
    service: ServiceProcess, rest: tinker.RestClient, warm: Warm, tmp_path: Path
) -> None:
    def asked(*words: str) -> Any:
        return json.loads(official_cli(service, tmp_path, "--format", "json", *words))

    assert [model["model_name"] for model in asked("model", "list")["models"]] == [BASE_MODEL]
    name = BASE_MODEL.upper()[2:]
    assert [model["model_name"] for model in asked("model", "list", name)["models"]] == [BASE_MODEL]
    refused = run_cli(service, tmp_path, "auth", "whoami")
    assert refused.exit_code != 0
    assert "requires JWT auth" in str(refused.exception)
    assert asked("billing", "usage", *DAY)["data"] == []
    stored = rest.list_user_checkpoints(limit=1000).result().checkpoints
    told = asked("billing", "checkpoint-storage")
    assert f": {len(stored)}" in json.dumps(told)
    assert tinker.__version__ in official_cli(service, tmp_path, "version")
    assert "accessible: yes" in official_cli(service, tmp_path, "auth", "status")
    wrong = run_cli(service, tmp_path, "auth", "status", key="tml-wrong")
    assert wrong.exit_code != 0
    assert "accessible: no" in wrong.output
    nothing = run_cli(service, tmp_path, "auth", "logout")
    assert nothing.exit_code != 0
    assert "No default credential" in str(nothing.exception)
    session_id = warm.trainer.model_id.split(":")[0]
    traced = run_cli(service, tmp_path, "session", "export-trace", session_id)
    assert traced.exit_code != 0
    assert "records no traces" in f"{traced.exception} {getattr(traced.exception, 'details', '')}"
    assert not list(tmp_path.glob("*.pftrace"))


def test_nothing_public_is_left_out(request: pytest.FixtureRequest) -> None:
    from tinker.cli.__main__ import main_cli

    options = request.config.option
    modules = set(Path(__file__).parent.glob("test_*.py"))
    is_part = options.keyword or options.deselect or getattr(options, "lf", False)
    if is_part or not modules <= COLLECTED:
        pytest.skip("counts the calls of all of tests/interop, and only some of it runs")
    methods = {f"{cls.__name__}.{name}" for cls, name in public_methods(tinker)}
    public = methods | set(commands(main_cli))
    assert len(methods) > 100
    assert sorted(public - CALLED - set(NOT_CALLED)) == []
    assert sorted(set(NOT_CALLED) & CALLED) == [], "is exercised: take it off the list"
    assert set(NOT_CALLED) <= public
