"""Data and configurations that training tests share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.fakes import FakeService
from tinsmith.training import SupervisedConfig


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Twelve conversations of different lengths."""
    path = tmp_path / "data.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Question {i}?"},
                {"role": "assistant", "content": "word " * (1 + i % 5) + str(i)},
            ]
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def service(tiny_dir: object) -> FakeService:
    return FakeService()


MakeConfig = Callable[..., SupervisedConfig]


@pytest.fixture
def make_config(tmp_path: Path, data_file: Path) -> MakeConfig:
    """Configuration of a run of 9 steps over 10 conversations, 2 held out."""

    def make(**changes: Any) -> SupervisedConfig:
        settings: dict[str, Any] = {
            "data": data_file,
            "run_dir": tmp_path / "run",
            "test_size": 2,
            "batch_size": 4,
            "num_epochs": 3,
            "learning_rate": 0.1,
            "eval_every": 3,
            "save_every": 2,
            "seed": 1,
        }
        return SupervisedConfig(**(settings | changes))

    return make
