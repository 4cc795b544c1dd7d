"""models, checkpoints and sessions against a real service."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service_process import ServiceProcess, WireClient, WireModel, make_data
from tinsmith.cli import main

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with ServiceProcess(folder, "--model", "tinsmith/tiny", "--api-key", "secret") as process:
        yield process


@pytest.fixture(scope="module")
def model(service: ServiceProcess) -> WireModel:
    model = WireClient(service.ready).create_model()
    model.train_step(make_data())
    return model


class CommandLine:
    """The command line with `--json`, as a function."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> Any:
        found = main([*words])
        shown, self.told = self._capsys.readouterr()
        assert found == code, self.told
        return json.loads(shown) if "--json" in words and shown else shown


@pytest.fixture
def tinsmith(
    service: ServiceProcess, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> CommandLine:
    monkeypatch.setenv("TINSMITH_BASE_URL", service.ready["url"])
    monkeypatch.setenv("TINSMITH_API_KEY", service.ready["api_key"])
    return CommandLine(capsys)


def test_a_run_is_found_with_its_session_and_its_checkpoints(
    tinsmith: CommandLine, model: WireModel
) -> None:
    saved = model.save("save_weights", "shown")
    runs = tinsmith("models", "list", "--json")["training_runs"]
    assert [run["training_run_id"] for run in runs] == [model.model_id]
    assert tinsmith("models", "info", saved, "--json")["last_checkpoint"]["tinker_path"] == saved
    found = tinsmith("sessions", "list", "--json")["sessions"]
    assert [session["status"]["type"] for session in found] == ["active"]
    assert saved in tinsmith("checkpoints", "list")
    assert tinsmith("checkpoints", "info", saved, "--json")["lora_rank"] == 8


def test_a_checkpoint_is_published_and_given_a_time(
    tinsmith: CommandLine, model: WireModel
) -> None:
    saved = model.save("save_weights", "shared")
    for words in (("publish", saved), ("publish", saved), ("ttl", saved, "--ttl", "2h")):
        assert tinsmith("checkpoints", *words) == ""
    shared = tinsmith("checkpoints", "info", saved, "--json")
    assert shared["public"]
    assert shared["expires_at"] is not None
    tinsmith("checkpoints", "unpublish", saved)
    tinsmith("checkpoints", "ttl", saved, "--remove")
    after = tinsmith("checkpoints", "info", saved, "--json")
    assert (after["public"], after["expires_at"]) == (False, None)


@pytest.mark.parametrize("endpoint", ["save_weights", "save_weights_for_sampler"])
def test_a_checkpoint_is_downloaded_file_by_file_as_the_service_keeps_it(
    tinsmith: CommandLine,
    model: WireModel,
    service: ServiceProcess,
    tmp_path: Path,
    endpoint: str,
) -> None:
    saved = model.save(endpoint, "fetched")
    words = ["checkpoints", "download", saved, "-o", str(tmp_path), "--json"]
    told = tinsmith(*words)
    fetched = Path(told["destination"])
    kept = next(
        path.parent
        for path in service.state_dir.rglob("*.safetensors")
        if path.parent.name == "fetched" and saved.split("/")[3] in path.parts
    )
    names = sorted(path.name for path in kept.iterdir())
    assert sorted(path.name for path in fetched.iterdir()) == names
    for name in names:
        assert (fetched / name).read_bytes() == (kept / name).read_bytes()
    assert told["file_size_bytes"] == sum(path.stat().st_size for path in fetched.iterdir())
    tinsmith(*words, code=1)
    assert "exists already" in tinsmith.told
    tinsmith(*words, "--force")
    assert [path.name for path in tmp_path.iterdir()] == [fetched.name]


def test_a_download_of_nothing_leaves_nothing(
    tinsmith: CommandLine, model: WireModel, tmp_path: Path
) -> None:
    path = f"tinker://{model.model_id}/weights/never-saved"
    tinsmith("checkpoints", "download", path, "-o", str(tmp_path / "made"), code=1)
    assert "no such checkpoint" in tinsmith.told
    assert list(tmp_path.iterdir()) == []


def test_deleted_checkpoints_are_gone(tinsmith: CommandLine, model: WireModel) -> None:
    saved = [model.save("save_weights", f"doomed-{number}") for number in range(3)]
    assert tinsmith("checkpoints", "delete", "--yes", "--json", *saved[:2]) == {
        "deleted_count": 2,
        "failed": [],
    }
    words = ["checkpoints", "delete", "--yes", "--json", *saved]
    told = tinsmith(*words, code=1)
    assert told["deleted_count"] == 1
    assert [each["tinker_path"] for each in told["failed"]] == saved[:2]
    listed = tinsmith("checkpoints", "list", "--run-id", model.model_id, "--json")
    assert not {each["tinker_path"] for each in listed["checkpoints"]} & set(saved)


def test_a_wrong_key_is_said_in_one_line(
    tinsmith: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINSMITH_API_KEY", "wrong")
    tinsmith("models", "list", code=1)
    assert "[status 401]" in tinsmith.told
    assert "Traceback" not in tinsmith.told
