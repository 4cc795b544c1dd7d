"""save_weights_external of the official package: what is fetched loads in PEFT, numbers equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pyrage
import pytest

from tests.integration.service_process import ServiceProcess
from tests.interop.conftest import API_KEY, Warm
from tests.interop.official_cli import official_cli
from tests.interop.official_data import outputs_of, random_data
from tests.interop.peft_twin import PeftTwin

tinker = pytest.importorskip("tinker", reason="the official client is not installed here")
if TYPE_CHECKING:
    import tinker

pytestmark = pytest.mark.integration

FILES = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="module")
def rest(service: ServiceProcess) -> tinker.RestClient:
    return tinker.RestClient(base_url=service.ready["url"], api_key=API_KEY)


def fetch(urls: dict[str, str], directory: Path) -> Path:
    """The links need no key."""
    directory.mkdir()
    for name, url in urls.items():
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) == len(answer.content)
        (directory / name).write_bytes(answer.content)
    return directory


def assert_same_model(trainer: tinker.TrainingClient, tiny_dir: Path, adapter_dir: Path) -> None:
    data = random_data(2, seed=31)
    twin = PeftTwin(tiny_dir, adapter_dir)
    ours = outputs_of(trainer.forward(data, "cross_entropy").result())
    for logprobs, datum in zip(ours, data, strict=True):
        np.testing.assert_allclose(logprobs, twin.logprobs(datum).detach().numpy(), atol=1e-4)


def test_an_export_is_a_peft_adapter_fetched_file_by_file(
    warm: Warm, rest: tinker.RestClient, tiny_dir: Path, tmp_path: Path
) -> None:
    trainer = warm.fork()
    saved = trainer.save_weights_external("elsewhere", ttl_seconds=3600).result()
    assert saved.path == f"tinker://{trainer.model_id}/external_weights/elsewhere"
    answer = rest.get_external_weights_urls(saved.path).result()
    assert set(answer.urls) == FILES
    directory = fetch(answer.urls, tmp_path / "adapter")
    assert_same_model(trainer, tiny_dir, directory)
    (listed,) = rest.list_checkpoints(trainer.model_id).result().checkpoints
    assert (listed.checkpoint_type, listed.checkpoint_id) == (
        "external",
        "external_weights/elsewhere",
    )
    assert listed.expires_at is not None
    assert (listed.size_bytes or 0) > sum(file.stat().st_size for file in directory.iterdir())
    url = answer.urls["adapter_config.json"]
    other = url.replace("adapter_config.json", "checkpoint.json")
    assert other != url
    assert httpx.get(other, trust_env=False).status_code == 400  # signed for one file alone
    with pytest.raises((tinker.BadRequestError, tinker.RequestFailedError), match="elsewhere"):
        trainer.save_weights_external("elsewhere").result()
    rest.delete_checkpoint_from_tinker_path(saved.path).result()
    assert httpx.get(url, trust_env=False).status_code == 404


def test_an_export_for_keys_of_age_can_be_read_with_each_of_them_only(
    warm: Warm, rest: tinker.RestClient, tiny_dir: Path, tmp_path: Path
) -> None:
    trainer = warm.fork()
    mine, yours = (pyrage.x25519.Identity.generate() for _ in range(2))
    keys = [str(identity.to_public()) for identity in (mine, yours)]
    path = trainer.save_weights_external("sealed", age_encryption_recipients=keys).result().path
    urls = rest.get_external_weights_urls(path).result().urls
    assert set(urls) == {f"{name}.age" for name in FILES}
    sealed = fetch(urls, tmp_path / "sealed")
    for number, identity in enumerate((mine, yours)):
        opened = tmp_path / f"opened-{number}"
        opened.mkdir()
        for file in sealed.iterdir():
            plain = pyrage.decrypt(file.read_bytes(), [identity])
            (opened / file.stem).write_bytes(plain)
        assert_same_model(trainer, tiny_dir, opened)
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(next(sealed.iterdir()).read_bytes(), [pyrage.x25519.Identity.generate()])


@pytest.mark.parametrize(
    ("keys", "said"),
    [(["age1x"], r"recipients.0='age1x': is no public key"), ([], "must be 1..10")],
)
def test_a_key_that_is_none_is_refused_and_nothing_is_written(
    warm: Warm, keys: list[str], said: str
) -> None:
    trainer = warm.fork()
    with pytest.raises(tinker.BadRequestError, match=said):
        trainer.save_weights_external("later", age_encryption_recipients=keys).result()
    trainer.save_weights_external("later").result()  # the name is free, and so is the lane


def test_the_official_command_line_downloads_what_it_exports(
    warm: Warm, service: ServiceProcess, tiny_dir: Path, tmp_path: Path
) -> None:
    trainer = warm.fork()
    external = trainer.save_weights_external("fetched").result().path
    for path in (warm.state_path, external):
        told = json.loads(
            official_cli(
                service,
                tmp_path,
                "--format",
                "json",
                "checkpoint",
                "download",
                path,
                "--output",
                str(tmp_path),
            )
        )
        directory = Path(told["destination"])
        assert {file.name for file in directory.iterdir()} == FILES
        assert_same_model(trainer, tiny_dir, directory)
    left = list(service.state_dir.rglob("external_weights/download"))
    assert left == []  # the export in between was deleted
