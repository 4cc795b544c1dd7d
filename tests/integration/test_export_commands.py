"""`checkpoints export` and `push-hf` against a real service, and a Hub of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.integration.fake_hub import TOKEN, fake_hub
from tests.integration.service_process import ServiceProcess, WireClient, WireModel, make_data
from tinsmith.cli import main

pytestmark = pytest.mark.integration

FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with ServiceProcess(folder, "--model", "tinsmith/tiny", "--api-key", "secret") as process:
        yield process


@pytest.fixture(scope="module")
def paths(service: ServiceProcess) -> dict[str, str]:
    model: WireModel = WireClient(service.ready).create_model()
    for _ in range(2):
        model.train_step(make_data())
    return {
        "training": model.save("save_weights", "state"),
        "sampler": model.save("save_weights_for_sampler", "sampler"),
        "external": model.save("save_weights_external", "out"),
    }


@pytest.fixture(autouse=True)
def environment(service: ServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINSMITH_BASE_URL", service.ready["url"])
    monkeypatch.setenv("TINSMITH_API_KEY", service.ready["api_key"])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(40, 60)[None], use_cache=False).logits[0]


def test_every_kind_of_checkpoint_is_exported_as_the_same_adapter(
    service: ServiceProcess,
    paths: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    contents = []
    for kind, path in paths.items():
        directory = tmp_path / kind
        assert main(["checkpoints", "export", path, "-o", str(directory), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["destination"], told["merged"]) == (str(directory), False)
        assert {file.name for file in directory.iterdir()} == FILES
        contents.append((directory / "adapter_model.safetensors").read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert list(service.state_dir.rglob("external_weights/export")) == []
    assert main(["checkpoints", "export", paths["sampler"], "-o", str(tmp_path / "sampler")]) == 1
    assert "--force" in capsys.readouterr().err


def test_a_merged_export_is_a_model_that_transformers_loads(
    paths: dict[str, str], tiny_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged, adapter = tmp_path / "merged", tmp_path / "adapter"
    path = paths["training"]
    assert main(["checkpoints", "export", path, "--merged", "-o", str(merged)]) == 0
    assert "%|" not in capsys.readouterr().err, "progress is for terminals"
    assert main(["checkpoints", "export", path, "-o", str(adapter)]) == 0
    base = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
    before = logits(base)
    expected = logits(PeftModel.from_pretrained(base, adapter))
    found = logits(AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32))
    assert (expected - before).abs().max() > 0.1
    # The bundled model is stored in its own dtype, to which merged weights are rounded.
    assert (found - expected).abs().max() < 0.05 * (expected - before).abs().max()
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.decode(tokenizer.encode("Hello, smith!")) == "Hello, smith!"
    missing = ["--merged", "--base-model", "./nowhere", "-o", str(tmp_path / "never")]
    assert main(["checkpoints", "export", path, *missing]) == 2
    assert "./nowhere" in capsys.readouterr().err
    assert not (tmp_path / "never").exists()


def push(url: str, *words: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment when it is imported."""
    tinsmith = Path(sys.executable).with_name("tinsmith")
    command = [str(tinsmith), "checkpoints", "push-hf", *words]
    environment = os.environ | {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def test_an_adapter_is_pushed_with_a_card_and_private_by_default(paths: dict[str, str]) -> None:
    path = paths["sampler"]
    with fake_hub() as hub:
        done = push(hub.url, path, "--repo", "me/smith", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["repo_id"], told["public"]) == ("me/smith", False)
        assert hub.repos["me/smith"].get("private", hub.repos["me/smith"].get("visibility")) in (
            True,
            "private",
        )
        files = hub.files["me/smith"]
        assert set(files) == {*FILES, "README.md"}
        assert b"base_model: tinsmith/tiny" in files["README.md"]
        assert path.encode() in files["README.md"]
        assert hub.messages == [f"Adapter of {path}"]
        config = json.loads(files["adapter_config.json"])
        assert config["peft_type"] == "LORA"


def test_patterns_say_what_is_pushed(paths: dict[str, str]) -> None:
    words = [paths["sampler"], "--repo", "me/smith", "--yes"]
    with fake_hub() as hub:
        nothing = push(hub.url, *words, "--allow-pattern", "*.bin", "--allow-pattern", "x*")
        assert nothing.returncode == 1
        assert "leave nothing to push of adapter_config.json, " in nothing.stderr
        assert hub.repos == {}
        done = push(hub.url, *words, "--allow-pattern", "adapter_*", "--ignore-pattern", "*.json")
        assert done.returncode == 0, done.stderr
        assert set(hub.files["me/smith"]) == {"adapter_model.safetensors"}


def test_nothing_is_pushed_without_a_yes_a_token_or_an_adapter(
    paths: dict[str, str], service: ServiceProcess
) -> None:
    with fake_hub() as hub:
        unasked = push(hub.url, paths["sampler"], "--repo", "me/smith")
        assert unasked.returncode != 0
        refused = push(hub.url, paths["sampler"], "--repo", "me/smith", "--yes", token="hf_bad")
        assert refused.returncode == 1
        assert "HF_TOKEN" in refused.stderr
        missing = push(hub.url, "tinker://no:train:0/sampler_weights/such", "--yes")
        assert missing.returncode == 1
        assert "no such checkpoint" in missing.stderr
        assert hub.repos == {}
