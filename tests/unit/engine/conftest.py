"""Random models of a few thousand parameters, saved once a session."""

from pathlib import Path

import pytest

from tests.unit.engine.random_models import save_random_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 with two layers, tied embeddings and 96 tokens."""
    return save_random_model(tmp_path_factory.mktemp("models") / "qwen3", "qwen3")
