"""Fixtures for the SDK's tests: a recording server and clients of it."""

from collections.abc import Iterator

import pytest

from tests.unit.client.recording_server import RecordingServer, recording_server
from tinsmith.client import ServiceClient, TrainingClient


@pytest.fixture
def server() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


@pytest.fixture
def service(server: RecordingServer) -> Iterator[ServiceClient]:
    with ServiceClient(base_url=server.url, api_key="tml-key") as service:
        yield service


@pytest.fixture
def training(service: ServiceClient) -> TrainingClient:
    return service.create_lora_training_client("tinsmith/tiny", rank=8).result(10)
