"""One service process for all tests, and the official client pointed at it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.service_process import BASE_MODEL, ServiceProcess
from tests.interop.peft_twin import PeftTwin
from tests.interop.recorder import COLLECTED, recorded

if TYPE_CHECKING:
    import tinker

API_KEY = "tml-interop"  # the official client wants this prefix
WARM_NAME = "warm"

Connect = Callable[..., "tinker.ServiceClient"]


LAST = "test_nothing_public_is_left_out"


@pytest.hookimpl(tryfirst=True)  # before -m takes the slow ones out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What counts the calls of all tests comes after them."""
    COLLECTED.update(item.path for item in items)
    items.sort(key=lambda item: item.name == LAST)


@pytest.fixture(scope="session", autouse=True)
def _calls_are_recorded() -> Iterator[None]:
    if importlib.util.find_spec("tinker") is None:
        yield
        return
    import tinker

    with recorded(tinker):
        yield


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("interop")
    with ServiceProcess(directory, "--model", BASE_MODEL, "--api-key", API_KEY) as running:
        yield running


@pytest.fixture(scope="session")
def connect(service: ServiceProcess) -> Connect:
    """Makes further official clients of the service."""
    import tinker

    def make(**options: object) -> tinker.ServiceClient:
        options = {"base_url": service.ready["url"], "api_key": API_KEY, **options}
        return tinker.ServiceClient(**options)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def client(connect: Connect) -> Iterator[tinker.ServiceClient]:
    with connect(user_metadata={"suite": "interop"}) as opened:
        yield opened


class Warm:
    """A model after two steps, so that both halves of every adapter pair have gradients."""

    def __init__(self, client: tinker.ServiceClient, service: ServiceProcess, tiny_dir: Path):
        import tinker

        from tests.interop.official_data import random_data

        self.client = client
        self.trainer = client.create_lora_training_client(BASE_MODEL, rank=8, seed=5).result()
        for step in range(2):
            self.trainer.forward_backward(random_data(4, seed=90 + step), "cross_entropy").result()
            self.trainer.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
        self.state_path = self.trainer.save_state(WARM_NAME).result().path
        self.sampler_path = self.trainer.save_weights_for_sampler(WARM_NAME).result().path
        (self.peft_dir,) = service.state_dir.rglob(f"sampler_weights/{WARM_NAME}")
        self._tiny_dir = tiny_dir

    def fork(self) -> tinker.TrainingClient:
        """A model of its own with these weights and a fresh optimizer."""
        return self.client.create_training_client_from_state(self.state_path).result()

    def twin(self) -> PeftTwin:
        """The same weights in transformers and PEFT."""
        return PeftTwin(self._tiny_dir, self.peft_dir)


@pytest.fixture(scope="session")
def warm(client: tinker.ServiceClient, service: ServiceProcess, tiny_dir: Path) -> Warm:
    return Warm(client, service, tiny_dir)
